/**
 * The release's signed PCR policies, as they travel in the UKI's section .pcrsig and appear at
 * /.extra/tpm2-pcr-signature.json: unmeasured and unsigned as a whole, so parsed as hostile input. Only the TPM's
 * VerifySignature decides; what is here merely selects and explains. DESIGN section 5, facts of the sealing policy.
 */

/** One policy that a release signed: PolicyPCR over `pcrs` has the digest `policyDigest`. */
export type SignedPolicy = {
  readonly bank: "sha256";
  /** Ascending PCR indices, usually 11, 12, 13. */
  readonly pcrs: readonly number[];
  /** SHA-256 of the release key's SPKI in DER: which key this was signed with. */
  readonly keyFingerprint: Uint8Array;
  readonly policyDigest: Uint8Array;
  /** ECDSA P-256, DER, over policyDigest || policyRef ("gimbal-boot"). */
  readonly signature: Uint8Array;
  /** The PCR values the digest was made from, only to explain a refusal. Believed only where they give the digest. */
  readonly values?: ReadonlyMap<number, Uint8Array>;
};

export type ParsedPolicies =
  | { readonly is: "policies"; readonly policies: readonly SignedPolicy[] }
  | { readonly is: "refused"; readonly reason: string };

/** The octets that follow the policy digest under the release's signature, and PolicyAuthorize's policyRef. */
export const policyRef: Uint8Array = new TextEncoder().encode("gimbal-boot");

/** Parses the JSON of section .pcrsig: at most 64 KiB and 64 policies. Never throws. */
export function parseSignedPolicies(_json: Uint8Array): ParsedPolicies {
  return { is: "refused", reason: "not built yet" };
}
