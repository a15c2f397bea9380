/**
 * GUID partition table, UEFI 2.10, section 5.3: which unique id a partition has, since sysfs of 6.12 does not say.
 * Left out: writing, the backup table, repair, digests of the table (the kernel has checked those).
 */
export type GptPartition = {
  /** Counts from 1, as the kernel does. */
  readonly number: number;
  /** "6f1e...-..." in lower case. */
  readonly partuuid: string;
  readonly firstSector: bigint;
  readonly label: string;
};

export type Gpt =
  | { readonly is: "gpt"; readonly diskUuid: string; readonly partitions: readonly GptPartition[] }
  | { readonly is: "refused"; readonly reason: string };

const entriesMax = 256;
const entryMaxBytes = 512;

/** Parses the start of a disk (64 KiB is enough for the usual 128 entries) with sectors of `sectorBytes`. Never throws. */
export function parseGpt(start: Uint8Array, sectorBytes: number): Gpt {
  const view = new DataView(start.buffer, start.byteOffset, start.length);
  if (start.length < sectorBytes + 92) return { is: "refused", reason: "too short" };
  if (latin1(start, sectorBytes, 8) !== "EFI PART") return { is: "refused", reason: "no signature" };
  const tableSector = view.getBigUint64(sectorBytes + 72, true);
  const count = view.getUint32(sectorBytes + 80, true);
  const entryBytes = view.getUint32(sectorBytes + 84, true);
  if (count > entriesMax || entryBytes < 128 || entryBytes > entryMaxBytes)
    return { is: "refused", reason: "a table of unusual shape" };
  const offset = tableSector * BigInt(sectorBytes);
  if (offset + BigInt(count * entryBytes) > BigInt(start.length))
    return { is: "refused", reason: "the table lies further on" };
  const partitions: GptPartition[] = [];
  for (let index = 0; index < count; index++) {
    const at = Number(offset) + index * entryBytes;
    if (start.subarray(at, at + 16).every((octet) => octet === 0)) continue; // unused
    partitions.push({
      number: index + 1,
      partuuid: guid(start.subarray(at + 16, at + 32)),
      firstSector: view.getBigUint64(at + 32, true),
      label: utf16(start.subarray(at + 56, at + 128)),
    });
  }
  return { is: "gpt", diskUuid: guid(start.subarray(sectorBytes + 56, sectorBytes + 72)), partitions };
}

/** A GUID's mixed byte order: the first three fields are little-endian. */
function guid(octets: Uint8Array): string {
  const order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
  const hex = order.map((index) => (octets[index] ?? 0).toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

function utf16(octets: Uint8Array): string {
  const text = new TextDecoder("utf-16le").decode(octets);
  const end = text.indexOf("\0");
  return end < 0 ? text : text.slice(0, end);
}

const latin1 = (octets: Uint8Array, at: number, length: number) =>
  String.fromCharCode(...octets.subarray(at, at + length));
