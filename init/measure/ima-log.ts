/**
 * The kernel's measurement list, /sys/kernel/security/ima/binary_runtime_measurements: entries with the templates
 * ima-ng, ima-sig and ima-buf (Documentation/security/IMA-templates.rst). Numbers are little-endian. Nothing here
 * throws: a refusal names the entry. The list grows while it is read, so a cut at the end is told apart from garbage.
 * Left out: the old template "ima" without a template length, ima-modsig, evm-sig.
 */
import { hashOf, sameOctets } from "../tpm/crypto.ts";
import { extended } from "../tpm/pcr.ts";
import { type HashName, hashBytes } from "../tpm/structures.ts";

export type ImaEntry = {
  readonly number: number;
  readonly pcr: number;
  /** SHA-1 of the template data, or zeros for a violation (a file was open for writing while it was measured). */
  readonly templateDigest: Uint8Array;
  readonly violation: boolean;
  readonly template: "ima-ng" | "ima-sig" | "ima-buf";
  /** "sha256", and the digest of the file or buffer. */
  readonly algorithm: string;
  readonly digest: Uint8Array;
  /** The file's path, or the buffer's name. */
  readonly name: string;
  /** ima-sig: the signature. ima-buf: the buffer (a device-mapper table, a kernel version). Else empty. */
  readonly extra: Uint8Array;
  /** What was hashed. */
  readonly templateData: Uint8Array;
};

export type ParsedImaLog =
  | {
      readonly is: "log";
      readonly entries: readonly ImaEntry[];
      /** Octets at the end that are the beginning of an entry. */
      readonly cutBytes: number;
    }
  | { readonly is: "refused"; readonly entry: number; readonly reason: string };

export const imaLogLimits = { bytes: 64 * 2 ** 20, entryBytes: 2 ** 20 } as const;

const fieldCounts = { "ima-ng": 2, "ima-sig": 3, "ima-buf": 3 } as const;
type Template = keyof typeof fieldCounts;

/** Parses a list of any length up to 64 MiB. */
export function parseImaLog(log: Uint8Array): ParsedImaLog {
  const entries: ImaEntry[] = [];
  const refused = (reason: string): ParsedImaLog => ({ is: "refused", entry: entries.length, reason });
  if (log.length > imaLogLimits.bytes) return refused(`more than ${imaLogLimits.bytes} octets`);
  const view = new DataView(log.buffer, log.byteOffset, log.length);
  let offset = 0;
  while (offset < log.length) {
    const cut: ParsedImaLog = { is: "log", entries, cutBytes: log.length - offset };
    // pcr, digest, length of the template's name
    if (log.length - offset < 28) return cut;
    const nameBytes = view.getUint32(offset + 24, true);
    if (nameBytes > 16) return refused(`a template name of ${nameBytes} octets`);
    const dataAt = offset + 28 + nameBytes + 4;
    if (dataAt > log.length) return cut;
    const dataBytes = view.getUint32(dataAt - 4, true);
    if (dataBytes > imaLogLimits.entryBytes) return refused(`an entry of ${dataBytes} octets`);
    const end = dataAt + dataBytes;
    if (end > log.length) return cut;
    const pcr = view.getUint32(offset, true);
    const template = latin1(log.subarray(offset + 28, offset + 28 + nameBytes));
    const entry = readEntry(
      entries.length,
      pcr,
      log.subarray(offset + 4, offset + 24),
      template,
      log.subarray(dataAt, end),
    );
    if (typeof entry === "string") return refused(entry);
    entries.push(entry);
    offset = end;
  }
  return { is: "log", entries, cutBytes: 0 };
}

const latin1 = (octets: Uint8Array) => new TextDecoder("latin1").decode(octets);

function readEntry(
  number: number,
  pcr: number,
  templateDigest: Uint8Array,
  template: string,
  templateData: Uint8Array,
): ImaEntry | string {
  if (pcr > 23) return `PCR ${pcr}`;
  if (!(template in fieldCounts) || !Object.hasOwn(fieldCounts, template)) return "an unknown template";
  const known = template as Template; // Object.hasOwn says so
  const fields = readFields(templateData, fieldCounts[known]);
  if (!fields) return "its fields do not fill it";
  const [hashed, name, extra] = fields;
  const colon = hashed?.indexOf(0) ?? -1; // "sha256:" NUL digest
  if (!hashed || !name || colon < 2 || hashed[colon - 1] !== 0x3a) return "its digest has no algorithm";
  if (name.at(-1) !== 0) return "its name has no end";
  return {
    number,
    pcr,
    templateDigest,
    violation: templateDigest.every((octet) => octet === 0),
    template: known,
    algorithm: latin1(hashed.subarray(0, colon - 1)),
    digest: hashed.subarray(colon + 1),
    name: new TextDecoder().decode(name.subarray(0, -1)),
    extra: extra ?? new Uint8Array(),
    templateData,
  };
}

function readFields(data: Uint8Array, count: number): readonly Uint8Array[] | undefined {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const fields: Uint8Array[] = [];
  let offset = 0;
  for (let index = 0; index < count; index++) {
    if (data.length - offset < 4) return undefined;
    const length = view.getUint32(offset, true);
    offset += 4;
    if (length > data.length - offset) return undefined;
    fields.push(data.subarray(offset, offset + length));
    offset += length;
  }
  return offset === data.length ? fields : undefined;
}

/** True where an entry's SHA-1 digest is that of its data: what the list itself claims. A violation has none. */
export function imaDigestHolds(entry: ImaEntry): boolean {
  return entry.violation || sameOctets(entry.templateDigest, hashOf("sha1", entry.templateData));
}

/**
 * PCR values after the list, in one bank. Kernels since 5.8 extend each bank with that bank's digest of the template
 * data, and with all ones for a violation.
 */
export function replayImaLog(entries: readonly ImaEntry[], bank: HashName): ReadonlyMap<number, Uint8Array> {
  const values = new Map<number, Uint8Array>();
  const ones = new Uint8Array(hashBytes[bank]).fill(0xff);
  const zero = new Uint8Array(hashBytes[bank]);
  for (const entry of entries) {
    const digest = entry.violation ? ones : hashOf(bank, entry.templateData);
    values.set(entry.pcr, extended(bank, values.get(entry.pcr) ?? zero, digest));
  }
  return values;
}
