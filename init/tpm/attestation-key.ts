/**
 * The attestation key: a restricted ECDSA P-256 key, so that it signs only what the TPM itself made (a quote, never a
 * digest handed in). A primary of the endorsement hierarchy: it outlives TPM2_Clear, as the device's identity does.
 * The endorsement key's public area goes with it; that both live in one TPM is not proved here (credential activation).
 */
import { makePrimary, type PrimaryKey, type PrimaryKind, readKey } from "./primary.ts";
import { aes128Cfb, objectBits, type PublicArea } from "./structures.ts";
import type { Transport } from "./transport.ts";

export const attestationKey: PrimaryKind = {
  what: "the attestation key",
  handle: 0x81010002,
  hierarchy: "endorsement",
  template: {
    is: "ecc",
    nameAlg: "sha256",
    attributes:
      objectBits.fixedTpm |
      objectBits.fixedParent |
      objectBits.sensitiveDataOrigin |
      objectBits.userWithAuth |
      objectBits.noDa |
      objectBits.restricted |
      objectBits.sign,
    authPolicy: new Uint8Array(),
    symmetric: { is: "none" },
    scheme: { is: "ecdsa", hash: "sha256" },
    curve: "p256",
    kdf: { is: "none" },
    point: { x: new Uint8Array(32), y: new Uint8Array(32) },
  },
};

/** PolicySecret(endorsement): the policy of every EK by the TCG's low-range templates. */
const endorsementPolicy = new Uint8Array(
  Buffer.from("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa", "hex"),
);

/** TCG EK Credential Profile 2.5, template L-2; the key of L-1 (RSA) is read where a manufacturer left it. */
export const endorsementKey: PrimaryKind = {
  what: "the endorsement key",
  handle: 0x81010001,
  hierarchy: "endorsement",
  template: {
    is: "ecc",
    nameAlg: "sha256",
    attributes:
      objectBits.fixedTpm |
      objectBits.fixedParent |
      objectBits.sensitiveDataOrigin |
      objectBits.adminWithPolicy |
      objectBits.restricted |
      objectBits.decrypt,
    authPolicy: endorsementPolicy,
    symmetric: aes128Cfb,
    scheme: { is: "none" },
    curve: "p256",
    kdf: { is: "none" },
    point: { x: new Uint8Array(32), y: new Uint8Array(32) },
  },
};

/** The endorsement key's public area: of the key that the manufacturer keeps at its handle, else of one made anew. */
export async function readEndorsementKey(tpm: Transport): Promise<PublicArea> {
  const present = await readKey(tpm, endorsementKey.handle);
  if (present) return present.public;
  await using made: PrimaryKey = await makePrimary(tpm, endorsementKey);
  return made.public;
}

/** True where a key signs only what its TPM made, and cannot have come from outside it. */
export function isAttestationKey(area: PublicArea): boolean {
  const must = objectBits.restricted | objectBits.sign | objectBits.fixedTpm | objectBits.sensitiveDataOrigin;
  const mustNot = objectBits.decrypt;
  return (area.attributes & must) === must && (area.attributes & mustNot) === 0;
}
