/**
 * Sealing of the system disk's key, DESIGN section 5. The object's policy is
 *   PolicyAuthorize(release key, "gimbal-boot"), then PolicyPCR(7) as it was at sealing;
 * what the release key authorises is PolicyPCR(11 at "enter-initrd", 12 and 13 zero).
 */
import type { KeyObject } from "node:crypto";
import type { SignedPolicy } from "./signed-policy.ts";
import type { Transport } from "./transport.ts";

/** What a LUKS token keeps: JSON, no secret. Parse one that was read from a disk with `parseSealedBlob`. */
export type SealedBlob = {
  readonly version: 1;
  /** TPM2B_PUBLIC and TPM2B_PRIVATE of the sealed object, base64. */
  readonly public: string;
  readonly private: string;
  /** Name of the storage key it lies under, hex: another TPM, or a cleared one, has another. */
  readonly parentName: string;
  readonly parentType: "ecc" | "rsa";
  /** The release key, SPKI in DER, base64. */
  readonly releaseKey: string;
  readonly bank: "sha256";
  /** PCR index -> value at sealing, hex. Usually only PCR 7; may be empty. */
  readonly pcrs: Readonly<Record<string, string>>;
};

export type ParsedBlob =
  | { readonly is: "blob"; readonly blob: SealedBlob }
  | { readonly is: "refused"; readonly reason: string };

export type SealRequest = {
  /** 1 to 128 octets. */
  readonly key: Uint8Array;
  /** P-256 public key: PEM text (SPKI) or a KeyObject. */
  readonly releaseKey: string | KeyObject;
  /** PCRs that must be at unsealing as they are now. Default: [7]. */
  readonly boundPcrs?: readonly number[];
};

export type UnsealRequest = {
  readonly blob: SealedBlob;
  /** From `parseSignedPolicies`. */
  readonly signedPolicies: readonly SignedPolicy[];
};

/** Seals `key` to this TPM and the release key. Errors: tpm-failure. Leaves no handle and no session behind. */
export async function sealDiskKey(_tpm: Transport, _request: SealRequest): Promise<SealedBlob> {
  throw new Error("not built yet");
}

/**
 * Unseals; the caller owns the octets and overwrites them after use.
 * Errors: tpm-policy-refused (which PCR differs), tpm-object-foreign (TPM cleared, or the disk of another device),
 * tpm-failure. Leaves no handle and no session behind.
 */
export async function unsealDiskKey(_tpm: Transport, _request: UnsealRequest): Promise<Uint8Array> {
  throw new Error("not built yet");
}

/** Checks a blob that came from a disk: types, lengths, nothing unknown. Never throws. */
export function parseSealedBlob(_value: unknown): ParsedBlob {
  return { is: "refused", reason: "not built yet" };
}
