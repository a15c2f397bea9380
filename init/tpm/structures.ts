/**
 * TPM 2.0 structures, TCG Library Part 2 (1.59), as far as gimbal uses them. Left out: sym ciphers other than AES,
 * KEYEDHASH schemes other than none and HMAC, ECDAA, the RSA unions of signatures beyond RSASSA and RSAPSS.
 */
import {
  type Codec,
  constant,
  flag,
  list,
  named,
  sized,
  sizedOne,
  struct,
  tagged,
  u8,
  u16,
  u32,
  u64,
  type Value,
} from "../bytes/struct.ts";

/** TPM_ALG_ID of hashes, 6.3. */
export const hashIds = { sha1: 0x0004, sha256: 0x000b, sha384: 0x000c, sha512: 0x000d } as const;
export type HashName = keyof typeof hashIds;
/** TPMI_ALG_HASH, 9.27. */
export const hashName: Codec<HashName> = named(u16, hashIds);
/** Digest lengths in octets. */
export const hashBytes = { sha1: 20, sha256: 32, sha384: 48, sha512: 64 } as const satisfies Record<
  HashName,
  number
>;

/** TPM2B_DIGEST, 10.4.2; also names, nonces, auth values. A name has two octets more than a digest. */
export const digest = sized(u16, 64);
/** TPM2B_NAME, 10.5.3: nameAlg and digest, or a handle. */
export const name = sized(u16, 66);
/** TPM2B_MAX_BUFFER, 10.4.8, and TPM2B_MAX_NV_BUFFER. */
export const maxBuffer = sized(u16, 2048);
/** TPM2B_PRIVATE, 12.3.7. */
export const privateBuffer = sized(u16, 1536);
/** TPM2B_ENCRYPTED_SECRET, 11.4.33. */
export const encryptedSecret = sized(u16, 512);
const empty: Codec<object> = struct({});

// PCRs

/** TPMS_PCR_SELECTION, 10.6.2. `select` is a bitmap: PCR n is bit n % 8 of octet n / 8. */
export const pcrSelection = struct<PcrSelection>({ hash: hashName, select: sized(u8, 4) });
export type PcrSelection = { readonly hash: HashName; readonly select: Uint8Array };
/** TPML_PCR_SELECTION, 10.9.7. At most 16 banks are accepted. */
export const pcrSelections = list(pcrSelection, 16);

/** Selects PCRs of one bank; always three octets of bitmap, as PC client TPMs demand. */
export function selectPcrs(hash: HashName, pcrs: readonly number[]): PcrSelection {
  const select = new Uint8Array(3);
  for (const pcr of pcrs) {
    if (!Number.isInteger(pcr) || pcr < 0 || pcr > 23) throw new RangeError(`there is no PCR ${pcr}`);
    select[pcr >> 3] = (select[pcr >> 3] ?? 0) | (1 << (pcr & 7));
  }
  return { hash, select };
}

/** The PCR numbers of a selection, ascending. */
export function selectedPcrs({ select }: PcrSelection): readonly number[] {
  const pcrs: number[] = [];
  select.forEach((octet, index) => {
    for (let bit = 0; bit < 8; bit++) if (octet & (1 << bit)) pcrs.push(index * 8 + bit);
  });
  return pcrs;
}

/** TPMT_HA, 10.3.2. */
export const taggedDigest: Codec<{ readonly hash: HashName; readonly digest: Uint8Array }> = {
  write(to, value) {
    if (value.digest.length !== hashBytes[value.hash]) throw new RangeError(`not a ${value.hash} digest`);
    hashName.write(to, value.hash);
    to.put(value.digest);
  },
  read(from) {
    const hash = hashName.read(from);
    return { hash, digest: from.take(hashBytes[hash]) };
  },
};
/** TPML_DIGEST_VALUES, 10.9.6. */
export const digestValues = list(taggedDigest, 5);

// Key parameters

const hashScheme = struct({ hash: hashName });
/** TPMT_SYM_DEF and TPMT_SYM_DEF_OBJECT, 11.1.6 and 11.1.7: none, or AES with key bits and mode (0x0043 is CFB). */
export const symmetric = tagged(u16, {
  none: { tag: 0x0010, body: empty },
  aes: { tag: 0x0006, body: struct({ keyBits: u16, mode: u16 }) },
});
export const aes128Cfb = { is: "aes", keyBits: 128, mode: 0x0043 } as const;
/** TPMT_ASYM_SCHEME, TPMT_SIG_SCHEME and their kin, 11.2.1 to 11.2.3. */
export const scheme = tagged(u16, {
  none: { tag: 0x0010, body: empty },
  rsassa: { tag: 0x0014, body: hashScheme },
  rsaes: { tag: 0x0015, body: empty },
  rsapss: { tag: 0x0016, body: hashScheme },
  oaep: { tag: 0x0017, body: hashScheme },
  ecdsa: { tag: 0x0018, body: hashScheme },
  ecdh: { tag: 0x0019, body: hashScheme },
});
/** TPMT_KDF_SCHEME, 11.2.3.3. */
const kdfScheme = tagged(u16, {
  none: { tag: 0x0010, body: empty },
  mgf1: { tag: 0x0007, body: hashScheme },
  kdf1sp80056a: { tag: 0x0020, body: hashScheme },
  kdf1sp800108: { tag: 0x0022, body: hashScheme },
});
/** TPMT_KEYEDHASH_SCHEME, 11.1.20. */
const keyedHashScheme = tagged(u16, {
  none: { tag: 0x0010, body: empty },
  hmac: { tag: 0x0005, body: hashScheme },
});
/** TPM_ECC_CURVE, 6.4. */
export const curveIds = { p256: 0x0003, p384: 0x0004, p521: 0x0005 } as const;
const curve = named(u16, curveIds);
const coordinate = sized(u16, 66);
/** TPMS_ECC_POINT, 11.2.5.2. */
export const eccPoint = struct({ x: coordinate, y: coordinate });

// Public areas

/** TPMA_OBJECT, 8.3.2. */
export const objectBits = {
  fixedTpm: 1 << 1,
  stClear: 1 << 2,
  fixedParent: 1 << 4,
  sensitiveDataOrigin: 1 << 5,
  userWithAuth: 1 << 6,
  adminWithPolicy: 1 << 7,
  noDa: 1 << 10,
  encryptedDuplication: 1 << 11,
  restricted: 1 << 16,
  decrypt: 1 << 17,
  sign: 1 << 18,
} as const;

const publicHead = { nameAlg: hashName, attributes: u32, authPolicy: digest };
/** TPMT_PUBLIC, 12.2.4: parameters and unique follow from the type. */
export const publicArea = tagged(u16, {
  rsa: {
    tag: 0x0001,
    body: struct({
      ...publicHead,
      symmetric,
      scheme,
      keyBits: u16,
      exponent: u32,
      modulus: sized(u16, 512),
    }),
  },
  keyedHash: {
    tag: 0x0008,
    body: struct({ ...publicHead, scheme: keyedHashScheme, unique: digest }),
  },
  ecc: {
    tag: 0x0023,
    body: struct({ ...publicHead, symmetric, scheme, curve, kdf: kdfScheme, point: eccPoint }),
  },
});
export type PublicArea = Value<typeof publicArea>;
/** TPM2B_PUBLIC, 12.2.5. */
export const publicBuffer = sizedOne(u16, publicArea, 1024);
/** TPM2B_SENSITIVE_CREATE, 11.1.16: auth value and data (the sealed octets). */
export const sensitiveCreate = sizedOne(u16, struct({ auth: digest, data: sized(u16, 256) }), 512);

/** TPMA_NV, 13.4. */
export const nvBits = {
  ownerWrite: 1 << 1,
  authWrite: 1 << 2,
  policyWrite: 1 << 3,
  ownerRead: 1 << 17,
  authRead: 1 << 18,
  noDa: 1 << 25,
  written: 1 << 29,
} as const;
/** TPMS_NV_PUBLIC, 13.5. */
export const nvPublicArea = struct({
  index: u32,
  nameAlg: hashName,
  attributes: u32,
  authPolicy: digest,
  dataBytes: u16,
});
export type NvPublicArea = Value<typeof nvPublicArea>;
/** TPM2B_NV_PUBLIC, 13.6. */
export const nvPublicBuffer = sizedOne(u16, nvPublicArea, 128);

// Signatures, tickets, attestations

/** TPMT_SIGNATURE, 11.3.4. */
export const signature = tagged(u16, {
  rsassa: { tag: 0x0014, body: struct({ hash: hashName, signature: sized(u16, 512) }) },
  rsapss: { tag: 0x0016, body: struct({ hash: hashName, signature: sized(u16, 512) }) },
  ecdsa: { tag: 0x0018, body: struct({ hash: hashName, r: coordinate, s: coordinate }) },
});
export type Signature = Value<typeof signature>;
/** TPMT_TK_*, 10.7: structure tag, hierarchy, HMAC. */
export const ticket = struct({ tag: u16, hierarchy: u32, digest });

/** TPMS_CLOCK_INFO, 10.11.1. */
export const clockInfo = struct({ clock: u64, resetCount: u32, restartCount: u32, safe: flag });
/** TPMS_ATTEST of a quote, 10.12.8: any other type is refused, and so is another magic. */
export const quoteAttest = struct({
  magic: constant(u32, 0xff544347),
  type: constant(u16, 0x8018),
  qualifiedSigner: name,
  extraData: digest,
  clockInfo,
  firmwareVersion: u64,
  pcrs: pcrSelections,
  pcrDigest: digest,
});
export type QuoteAttest = Value<typeof quoteAttest>;

// Handles and capabilities

/** TPM_RH_*, 7.4, and TPM_RS_PW. */
export const permanentHandles = {
  owner: 0x40000001,
  null: 0x40000007,
  password: 0x40000009,
  lockout: 0x4000000a,
  endorsement: 0x4000000b,
  platform: 0x4000000c,
} as const;

/** TPMS_CAPABILITY_DATA, 10.10.2: those that are asked for. */
export const capabilityData = tagged(u32, {
  algorithms: { tag: 0, body: struct({ list: list(struct({ algorithm: u16, attributes: u32 }), 512) }) },
  handles: { tag: 1, body: struct({ list: list(u32, 254) }) },
  pcrs: { tag: 5, body: struct({ list: list(struct({ hash: u16, select: sized(u8, 4) }), 16) }) },
  properties: { tag: 6, body: struct({ list: list(struct({ property: u32, value: u32 }), 127) }) },
  curves: { tag: 8, body: struct({ list: list(u16, 508) }) },
});
