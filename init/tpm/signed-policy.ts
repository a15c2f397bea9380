/**
 * The release's signed PCR policies, as they travel in the UKI's section .pcrsig and appear at
 * /.extra/tpm2-pcr-signature.json: unmeasured and unsigned as a whole, so parsed as hostile input. Only the TPM's
 * VerifySignature decides; what is here merely selects and explains. DESIGN section 5, facts of the sealing policy.
 */
import { sameOctets } from "./crypto.ts";
import { afterPolicyPcr, emptyPolicy } from "./policy-digest.ts";

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
  /** The PCR values the digest was made from, only to explain a refusal. Present only where they give the digest. */
  readonly values?: ReadonlyMap<number, Uint8Array>;
};

export type ParsedPolicies =
  | { readonly is: "policies"; readonly policies: readonly SignedPolicy[] }
  | { readonly is: "refused"; readonly reason: string };

/** The octets that follow the policy digest under the release's signature, and PolicyAuthorize's policyRef. */
export const policyRef: Uint8Array = new TextEncoder().encode("gimbal-boot");

const maxBytes = 65_536;
const maxPolicies = 64;

/**
 * Parses the JSON of section .pcrsig:
 * {"sha256":[{"pcrs":[11,12,13],"pkfp":hex,"pol":hex,"sig":base64,"values":{"11":hex,...}}]}, `values` optional.
 * At most 64 KiB and 64 policies; other banks than sha256 are passed over. Never throws.
 */
export function parseSignedPolicies(json: Uint8Array): ParsedPolicies {
  if (json.length > maxBytes) return { is: "refused", reason: `more than ${maxBytes} octets` };
  const parsed = parseJson(json);
  if (parsed.is === "refused") return parsed;
  const root = mapOf(parsed.value);
  if (!root) return { is: "refused", reason: "not an object" };
  const entries = root.get("sha256");
  if (!Array.isArray(entries)) return { is: "refused", reason: "no policies for the sha256 bank" };
  if (entries.length > maxPolicies) return { is: "refused", reason: `more than ${maxPolicies} policies` };
  const policies: SignedPolicy[] = [];
  for (const [index, entry] of entries.entries()) {
    const policy = parsePolicy(entry);
    if (typeof policy === "string") return { is: "refused", reason: `policy ${index}: ${policy}` };
    policies.push(policy);
  }
  return { is: "policies", policies };
}

/** JSON text of octets that must be UTF-8. */
export function parseJson(
  octets: Uint8Array,
): { readonly is: "value"; readonly value: unknown } | { readonly is: "refused"; readonly reason: string } {
  try {
    return { is: "value", value: JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(octets)) };
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof TypeError)
      return { is: "refused", reason: "no JSON" };
    throw error;
  }
}

/** A JSON object as a map of its own properties, so that nothing inherited is read as a field. */
export function mapOf(value: unknown): ReadonlyMap<string, unknown> | undefined {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined;
  return new Map(Object.entries(value));
}

/** Lower or upper case hex of exactly `length` octets. */
export function hexOctets(value: unknown, length: number): Uint8Array | undefined {
  if (typeof value !== "string" || value.length !== 2 * length || !/^[0-9a-fA-F]*$/.test(value))
    return undefined;
  return new Uint8Array(Buffer.from(value, "hex"));
}

/** Canonical base64 of at most `max` octets. */
export function base64Octets(value: unknown, max: number): Uint8Array | undefined {
  if (typeof value !== "string" || value.length > Math.ceil(max / 3) * 4) return undefined;
  const octets = Buffer.from(value, "base64");
  return octets.toString("base64") === value && octets.length <= max ? new Uint8Array(octets) : undefined;
}

const known = ["pcrs", "pkfp", "pol", "sig", "values"];

function parsePolicy(value: unknown): SignedPolicy | string {
  const fields = mapOf(value);
  if (!fields) return "not an object";
  const unknownField = [...fields.keys()].find((key) => !known.includes(key));
  if (unknownField !== undefined) return "an unknown field";
  const pcrs = pcrList(fields.get("pcrs"));
  if (!pcrs) return "pcrs is no ascending list of PCR numbers";
  const keyFingerprint = hexOctets(fields.get("pkfp"), 32);
  if (!keyFingerprint) return "pkfp is not 32 octets in hex";
  const policyDigest = hexOctets(fields.get("pol"), 32);
  if (!policyDigest) return "pol is not 32 octets in hex";
  const signature = base64Octets(fields.get("sig"), 80);
  if (!signature) return "sig is no base64 of an ECDSA signature";
  const values = explainingValues(fields.get("values"), pcrs, policyDigest);
  return {
    bank: "sha256",
    pcrs,
    keyFingerprint,
    policyDigest,
    signature,
    ...(values ? { values } : {}),
  };
}

function pcrList(value: unknown): readonly number[] | undefined {
  if (!Array.isArray(value) || value.length === 0 || value.length > 24) return undefined;
  const numbers = value.filter((pcr): pcr is number => Number.isInteger(pcr) && pcr >= 0 && pcr <= 23);
  const ascending = numbers.every((pcr, index) => index === 0 || pcr > (numbers[index - 1] ?? 24));
  return numbers.length === value.length && ascending ? numbers : undefined;
}

/** Values that do not give the signed digest say nothing, so they are dropped. */
function explainingValues(
  value: unknown,
  pcrs: readonly number[],
  policyDigest: Uint8Array,
): ReadonlyMap<number, Uint8Array> | undefined {
  const fields = mapOf(value);
  if (fields?.size !== pcrs.length) return undefined;
  const values = new Map<number, Uint8Array>();
  for (const pcr of pcrs) {
    const octets = hexOctets(fields.get(String(pcr)), 32);
    if (!octets) return undefined;
    values.set(pcr, octets);
  }
  return sameOctets(afterPolicyPcr(emptyPolicy, "sha256", values), policyDigest) ? values : undefined;
}
