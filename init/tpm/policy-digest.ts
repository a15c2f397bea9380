/**
 * Policy digests computed without a TPM (TCG Library Part 3, 23): what a build host signs, and what a device compares to
 * say why it was refused. All of them SHA-256, as sessions and sealed objects are.
 */
import { encode, u16, u32 } from "../bytes/struct.ts";
import { hashOf, joined } from "./crypto.ts";
import { type HashName, pcrSelections, selectPcrs } from "./structures.ts";

/** The digest of a fresh policy session. */
export const emptyPolicy: Uint8Array = new Uint8Array(32);

const codes = { policyPcr: 0x17f, policyAuthorize: 0x16a, policyNv: 0x149 } as const;

/** TPM2_PolicyPCR over `values`, 23.7. */
export function afterPolicyPcr(
  before: Uint8Array,
  bank: HashName,
  values: ReadonlyMap<number, Uint8Array>,
): Uint8Array {
  const pcrs = [...values.keys()].sort((a, b) => a - b);
  const selection = encode(pcrSelections, [selectPcrs(bank, pcrs)]);
  return hashOf("sha256", before, encode(u32, codes.policyPcr), selection, pcrDigestOf(values));
}

/** The digest over PCR values in ascending order that PolicyPCR and quotes carry. */
export function pcrDigestOf(values: ReadonlyMap<number, Uint8Array>): Uint8Array {
  const ordered = [...values].sort(([a], [b]) => a - b).map(([, value]) => value);
  return hashOf("sha256", ...ordered);
}

/** TPM2_PolicyAuthorize, 23.16: what was before is replaced, whatever it was. */
export function afterPolicyAuthorize(keyName: Uint8Array, reference: Uint8Array): Uint8Array {
  const first = hashOf("sha256", emptyPolicy, encode(u32, codes.policyAuthorize), keyName);
  return hashOf("sha256", first, reference);
}

/** TPM2_PolicyNV, 23.9. `operation` is TPM_EO_*. */
export function afterPolicyNv(
  before: Uint8Array,
  indexName: Uint8Array,
  operand: Uint8Array,
  offset: number,
  operation: number,
): Uint8Array {
  const arguments_ = hashOf("sha256", joined(operand, encode(u16, offset), encode(u16, operation)));
  return hashOf("sha256", before, encode(u32, codes.policyNv), arguments_, indexName);
}
