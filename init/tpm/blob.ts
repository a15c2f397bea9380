/** What a sealed disk key looks like on the disk: a field of a LUKS2 token. No secret without its TPM. */
import { base64Octets, hexOctets, mapOf } from "./signed-policy.ts";

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

const fields = ["version", "public", "private", "parentName", "parentType", "releaseKey", "bank", "pcrs"];

/** Checks a blob that came from a disk (parsed JSON): types, lengths, nothing unknown. Never throws. */
export function parseSealedBlob(value: unknown): ParsedBlob {
  const map = mapOf(value);
  if (!map) return { is: "refused", reason: "not an object" };
  if ([...map.keys()].some((key) => !fields.includes(key)))
    return { is: "refused", reason: "an unknown field" };
  if (map.get("version") !== 1) return { is: "refused", reason: "its version is not 1" };
  if (map.get("bank") !== "sha256") return { is: "refused", reason: "its bank is not sha256" };
  const parentType = map.get("parentType");
  if (parentType !== "ecc" && parentType !== "rsa") return { is: "refused", reason: "parentType is unknown" };
  for (const [name, max] of [
    ["public", 1024],
    ["private", 1536],
    ["releaseKey", 256],
  ] as const) {
    if (!base64Octets(map.get(name), max)?.length) return { is: "refused", reason: `${name} is not base64` };
  }
  if (!hexOctets(map.get("parentName"), 34)) return { is: "refused", reason: "parentName is not hex" };
  const pcrs = mapOf(map.get("pcrs"));
  if (!pcrs || pcrs.size > 24) return { is: "refused", reason: "pcrs is not an object of PCR values" };
  for (const [index, hex] of pcrs) {
    if (!/^(0|[1-9][0-9]?)$/.test(index) || Number(index) > 23 || !hexOctets(hex, 32))
      return { is: "refused", reason: "pcrs holds something else than PCR values" };
  }
  return {
    is: "blob",
    blob: {
      version: 1,
      public: map.get("public") as string, // strings: base64Octets took them
      private: map.get("private") as string,
      parentName: map.get("parentName") as string,
      parentType,
      releaseKey: map.get("releaseKey") as string,
      bank: "sha256",
      pcrs: Object.fromEntries([...pcrs].map(([index, hex]) => [index, String(hex)])),
    },
  };
}
