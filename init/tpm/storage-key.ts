/**
 * The storage root key: TCG TPM v2.0 Provisioning Guidance, 7.5.1 (the EK templates with userWithAuth and noDA, no
 * policy), ECC P-256 at 0x81000001. An RSA-2048 one serves a TPM without that curve.
 */
import { getCapability } from "./commands.ts";
import { execute } from "./execute.ts";
import { ensurePrimary, type PrimaryKey, type PrimaryKind } from "./primary.ts";
import { aes128Cfb, objectBits, type PublicArea } from "./structures.ts";
import type { Transport } from "./transport.ts";

export const storageKeyHandle = 0x81000001;

export type StorageKeyType = "ecc" | "rsa";

const head = {
  nameAlg: "sha256",
  attributes:
    objectBits.fixedTpm |
    objectBits.fixedParent |
    objectBits.sensitiveDataOrigin |
    objectBits.userWithAuth |
    objectBits.noDa |
    objectBits.restricted |
    objectBits.decrypt,
  authPolicy: new Uint8Array(),
} as const;

/** The templates. The unique field is zeros of the key's length. */
export const storageTemplates: Readonly<Record<StorageKeyType, PublicArea>> = {
  ecc: {
    is: "ecc",
    ...head,
    symmetric: aes128Cfb,
    scheme: { is: "none" },
    curve: "p256",
    kdf: { is: "none" },
    point: { x: new Uint8Array(32), y: new Uint8Array(32) },
  },
  rsa: {
    is: "rsa",
    ...head,
    symmetric: aes128Cfb,
    scheme: { is: "none" },
    keyBits: 2048,
    exponent: 0,
    modulus: new Uint8Array(256),
  },
};

/** The storage key as a primary. */
export function storageKey(type: StorageKeyType): PrimaryKind {
  return {
    what: "the storage key",
    handle: storageKeyHandle,
    hierarchy: "owner",
    template: storageTemplates[type],
  };
}

/** Which type this TPM can make: ECC P-256 wherever it has the curve. */
export async function storageKeyType(tpm: Transport): Promise<StorageKeyType> {
  const { response } = await execute(tpm, getCapability, {}, { capability: 8, property: 0, count: 508 });
  return response.data.is === "curves" && response.data.list.includes(0x0003) ? "ecc" : "rsa";
}

/** The storage root key, made and kept where it is missing. The caller disposes of it. */
export async function ensureSrk(
  tpm: Transport,
  type?: StorageKeyType,
  ownerAuth?: Uint8Array,
): Promise<PrimaryKey> {
  const kind = storageKey(type ?? (await storageKeyType(tpm)));
  return await ensurePrimary(tpm, kind, ownerAuth ? { owner: ownerAuth } : {});
}
