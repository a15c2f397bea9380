/** The commands gimbal sends, TCG Library Part 3 (1.59). Left out: everything else. */
import { flag, list, sized, struct, u8, u16, u32 } from "../bytes/struct.ts";
import { command } from "./command.ts";
import {
  capabilityData,
  digest,
  digestValues,
  encryptedSecret,
  hashName,
  maxBuffer,
  name,
  nvPublicBuffer,
  pcrSelections,
  privateBuffer,
  publicBuffer,
  scheme,
  sensitiveCreate,
  signature,
  symmetric,
  ticket,
} from "./structures.ts";

const nothing = struct({});
/** Creation data is never used here: read as octets. */
const creationData = sized(u16, 1024);
const attestBuffer = sized(u16, 1024);

// Start-up, capabilities, random octets

/** TPM2_Startup, 9.3. Firmware does it on a device; 0 is TPM_SU_CLEAR. */
export const startup = command({
  name: "TPM2_Startup",
  code: 0x144,
  handles: [],
  request: struct({ startupType: u16 }),
  response: nothing,
});

/** TPM2_SelfTest, 10.2. */
export const selfTest = command({
  name: "TPM2_SelfTest",
  code: 0x143,
  handles: [],
  request: struct({ full: flag }),
  response: nothing,
});

/** TPM2_GetCapability, 30.2. */
export const getCapability = command({
  name: "TPM2_GetCapability",
  code: 0x17a,
  handles: [],
  request: struct({ capability: u32, property: u32, count: u32 }),
  response: struct({ more: flag, data: capabilityData }),
});

/** TPM2_GetRandom, 16.1. */
export const getRandom = command({
  name: "TPM2_GetRandom",
  code: 0x17b,
  handles: [],
  request: struct({ count: u16 }),
  response: struct({ octets: digest }),
});

// PCRs

/** TPM2_PCR_Read, 22.4. Gives at most eight digests: `pcrs` says which. */
export const pcrRead = command({
  name: "TPM2_PCR_Read",
  code: 0x17e,
  handles: [],
  request: struct({ pcrs: pcrSelections }),
  response: struct({ updateCounter: u32, pcrs: pcrSelections, digests: list(digest, 8) }),
});

/** TPM2_PCR_Extend, 22.2. */
export const pcrExtend = command({
  name: "TPM2_PCR_Extend",
  code: 0x182,
  handles: ["pcr"],
  authorized: 1,
  request: struct({ digests: digestValues }),
  response: nothing,
});

// Sessions and policies

/** TPM2_StartAuthSession, 11.1. */
export const startAuthSession = command({
  name: "TPM2_StartAuthSession",
  code: 0x176,
  handles: ["tpmKey", "bind"],
  request: struct({
    nonceCaller: digest,
    encryptedSalt: encryptedSecret,
    sessionType: u8,
    symmetric,
    authHash: hashName,
  }),
  creates: true,
  response: struct({ nonceTpm: digest }),
});

/** TPM2_FlushContext, 28.4. The handle is a parameter here. */
export const flushContext = command({
  name: "TPM2_FlushContext",
  code: 0x165,
  handles: [],
  request: struct({ handle: u32 }),
  response: nothing,
});

/** TPM2_PolicyPCR, 23.7. An empty `pcrDigest` means "as the PCRs are now". */
export const policyPcr = command({
  name: "TPM2_PolicyPCR",
  code: 0x17f,
  handles: ["session"],
  request: struct({ pcrDigest: digest, pcrs: pcrSelections }),
  response: nothing,
});

/** TPM2_PolicyAuthorize, 23.16. Replaces the digest so far. */
export const policyAuthorize = command({
  name: "TPM2_PolicyAuthorize",
  code: 0x16a,
  handles: ["session"],
  request: struct({ approvedPolicy: digest, policyRef: digest, keyName: name, ticket }),
  response: nothing,
});

/** TPM2_PolicyNV, 23.9. `operation` is TPM_EO_*. */
export const policyNv = command({
  name: "TPM2_PolicyNV",
  code: 0x149,
  handles: ["auth", "index", "session"],
  authorized: 1,
  request: struct({ operand: digest, offset: u16, operation: u16 }),
  response: nothing,
});

/** TPM2_PolicyGetDigest, 23.6. */
export const policyGetDigest = command({
  name: "TPM2_PolicyGetDigest",
  code: 0x189,
  handles: ["session"],
  request: nothing,
  response: struct({ digest }),
});

// Keys and objects

/** TPM2_CreatePrimary, 24.1. */
export const createPrimary = command({
  name: "TPM2_CreatePrimary",
  code: 0x131,
  handles: ["hierarchy"],
  authorized: 1,
  request: struct({
    sensitive: sensitiveCreate,
    public: publicBuffer,
    outsideInfo: digest,
    pcrs: pcrSelections,
  }),
  creates: true,
  response: struct({ public: publicBuffer, creationData, creationHash: digest, ticket, name }),
});

/** TPM2_Create, 12.1. */
export const create = command({
  name: "TPM2_Create",
  code: 0x153,
  handles: ["parent"],
  authorized: 1,
  request: struct({
    sensitive: sensitiveCreate,
    public: publicBuffer,
    outsideInfo: digest,
    pcrs: pcrSelections,
  }),
  response: struct({
    private: privateBuffer,
    public: publicBuffer,
    creationData,
    creationHash: digest,
    ticket,
  }),
});

/** TPM2_Load, 12.2. */
export const load = command({
  name: "TPM2_Load",
  code: 0x157,
  handles: ["parent"],
  authorized: 1,
  request: struct({ private: privateBuffer, public: publicBuffer }),
  creates: true,
  response: struct({ name }),
});

/** TPM2_LoadExternal, 12.3, of a public key only: `private` stays empty. */
export const loadExternal = command({
  name: "TPM2_LoadExternal",
  code: 0x167,
  handles: [],
  request: struct({ private: privateBuffer, public: publicBuffer, hierarchy: u32 }),
  creates: true,
  response: struct({ name }),
});

/** TPM2_ReadPublic, 12.4. */
export const readPublic = command({
  name: "TPM2_ReadPublic",
  code: 0x173,
  handles: ["object"],
  request: nothing,
  response: struct({ public: publicBuffer, name, qualifiedName: name }),
});

/** TPM2_EvictControl, 28.5: makes an object persistent. (It also removes one: gimbal never does.) */
export const evictControl = command({
  name: "TPM2_EvictControl",
  code: 0x120,
  handles: ["hierarchy", "object"],
  authorized: 1,
  request: struct({ persistent: u32 }),
  response: nothing,
});

/** TPM2_Unseal, 12.7. */
export const unseal = command({
  name: "TPM2_Unseal",
  code: 0x15e,
  handles: ["object"],
  authorized: 1,
  request: nothing,
  response: struct({ data: sized(u16, 256) }),
});

// Signatures

/** TPM2_VerifySignature, 20.1. The ticket is only good for PolicyAuthorize if the key is not in the null hierarchy. */
export const verifySignature = command({
  name: "TPM2_VerifySignature",
  code: 0x177,
  handles: ["key"],
  request: struct({ digest, signature }),
  response: struct({ ticket }),
});

/** TPM2_Quote, 18.4. A scheme of none takes the key's own. */
export const quote = command({
  name: "TPM2_Quote",
  code: 0x158,
  handles: ["key"],
  authorized: 1,
  request: struct({ qualifyingData: digest, scheme, pcrs: pcrSelections }),
  response: struct({ attest: attestBuffer, signature }),
});

// NV memory and hierarchies

/** TPM2_NV_DefineSpace, 31.3. */
export const nvDefineSpace = command({
  name: "TPM2_NV_DefineSpace",
  code: 0x12a,
  handles: ["hierarchy"],
  authorized: 1,
  request: struct({ auth: digest, public: nvPublicBuffer }),
  response: nothing,
});

/** TPM2_NV_UndefineSpace, 31.4. */
export const nvUndefineSpace = command({
  name: "TPM2_NV_UndefineSpace",
  code: 0x122,
  handles: ["hierarchy", "index"],
  authorized: 1,
  request: nothing,
  response: nothing,
});

/** TPM2_NV_ReadPublic, 31.6. */
export const nvReadPublic = command({
  name: "TPM2_NV_ReadPublic",
  code: 0x169,
  handles: ["index"],
  request: nothing,
  response: struct({ public: nvPublicBuffer, name }),
});

/** TPM2_NV_Write, 31.7. */
export const nvWrite = command({
  name: "TPM2_NV_Write",
  code: 0x137,
  handles: ["auth", "index"],
  authorized: 1,
  request: struct({ data: maxBuffer, offset: u16 }),
  response: nothing,
});

/** TPM2_NV_Read, 31.13. */
export const nvRead = command({
  name: "TPM2_NV_Read",
  code: 0x14e,
  handles: ["auth", "index"],
  authorized: 1,
  request: struct({ size: u16, offset: u16 }),
  response: struct({ data: maxBuffer }),
});

/** TPM2_HierarchyChangeAuth, 24.8. */
export const hierarchyChangeAuth = command({
  name: "TPM2_HierarchyChangeAuth",
  code: 0x129,
  handles: ["hierarchy"],
  authorized: 1,
  request: struct({ newAuth: digest }),
  response: nothing,
});

/** TPM2_Clear, 24.6. Only tests send it. */
export const clear = command({
  name: "TPM2_Clear",
  code: 0x126,
  handles: ["hierarchy"],
  authorized: 1,
  request: nothing,
  response: nothing,
});
