/**
 * LUKS2 On-Disk Format Specification 1.1.x: the two binary headers and their JSON area, for reading only.
 * Nothing here throws; sizes are checked before anything is allocated. Left out: LUKS1, writing, repair, key slots' contents.
 */
import { createHash } from "node:crypto";
import { fieldOf, isRecord, type JsonObject } from "./json.ts";

export type LuksHeader = {
  readonly label: string;
  readonly subsystem: string;
  readonly uuid: string;
  /** Grows by one with each change of the header. */
  readonly sequence: bigint;
  /** The JSON area, parsed but not checked beyond its form: see luks-check.ts. */
  readonly metadata: JsonObject;
  /** Where the JSON says the key slots end: what must be copied to work with the header alone. */
  readonly headerBytes: number;
  /** Both copies are whole and alike. */
  readonly copies: "both" | "primary-only" | "secondary-only";
};

export type LuksRead =
  | { readonly is: "header"; readonly header: LuksHeader }
  | { readonly is: "damaged"; readonly why: string }
  | { readonly is: "none" };

type Copy =
  | { readonly is: "copy"; readonly header: Omit<LuksHeader, "copies">; readonly sizeBytes: number }
  | { readonly is: "damaged"; readonly why: string }
  | { readonly is: "none" };

/** Sizes of one copy that the format allows; the second copy starts at the first one's size. */
const copySizes = [0x4000, 0x8000, 0x10000, 0x20000, 0x40000, 0x80000, 0x100000, 0x200000, 0x400000];
/** What a header may take with its key slots: 16 MiB is cryptsetup's own default. */
export const headerMaxBytes = 16 * 1024 * 1024;
const primaryMagic = "LUKS\xba\xbe";
const secondaryMagic = "SKUL\xba\xbe";

/** Reads the header from the first `headerMaxBytes` octets of a device (fewer, where it is smaller). */
export function readLuksHeader(start: Uint8Array): LuksRead {
  const primary = readCopy(start, 0, primaryMagic);
  const at = primary.is === "copy" ? [primary.sizeBytes] : copySizes;
  const secondary = at
    .map((offset) => readCopy(start, offset, secondaryMagic))
    .find((copy) => copy.is !== "none");
  if (primary.is === "copy") {
    const alike =
      secondary?.is === "copy" &&
      secondary.header.sequence === primary.header.sequence &&
      secondary.header.uuid === primary.header.uuid;
    return { is: "header", header: { ...primary.header, copies: alike ? "both" : "primary-only" } };
  }
  if (secondary?.is === "copy")
    return { is: "header", header: { ...secondary.header, copies: "secondary-only" } };
  if (primary.is === "damaged") return primary;
  return secondary?.is === "damaged"
    ? { is: "damaged", why: `second header: ${secondary.why}` }
    : { is: "none" };
}

function readCopy(start: Uint8Array, offset: number, magic: string): Copy {
  if (latin1(start, offset, 6) !== magic) return { is: "none" };
  const view = new DataView(start.buffer, start.byteOffset, start.length);
  if (start.length < offset + 4096) return { is: "damaged", why: "it is cut" };
  if (view.getUint16(offset + 6) !== 2) return { is: "none" }; // LUKS1: another format
  const sizeBytes = Number(view.getBigUint64(offset + 8));
  if (!copySizes.includes(sizeBytes) || start.length < offset + sizeBytes)
    return { is: "damaged", why: "its size is impossible" };
  if (Number(view.getBigUint64(offset + 256)) !== offset)
    return { is: "damaged", why: "it belongs elsewhere" };
  const copy = new Uint8Array(start.subarray(offset, offset + sizeBytes)); // its digest field is emptied below
  const hash = textAt(copy, 72, 32);
  if (!["sha256", "sha512"].includes(hash)) return { is: "damaged", why: "its digest algorithm is unknown" };
  const digest = copy.slice(448, 448 + 64);
  copy.fill(0, 448, 448 + 64);
  const actual = createHash(hash).update(copy).digest();
  if (!Buffer.concat([actual], 64).equals(digest)) return { is: "damaged", why: "its digest does not fit" };
  const json = textAt(copy, 4096, sizeBytes - 4096);
  const metadata = parseObject(json);
  if (metadata === undefined) return { is: "damaged", why: "its JSON area is malformed" };
  const headerBytes = 2 * sizeBytes + keyslotsBytes(metadata);
  if (!(headerBytes <= headerMaxBytes)) return { is: "damaged", why: "its key slots' area is too large" };
  return {
    is: "copy",
    sizeBytes,
    header: {
      label: textAt(copy, 24, 48),
      subsystem: textAt(copy, 208, 48),
      uuid: textAt(copy, 168, 40),
      sequence: view.getBigUint64(offset + 16),
      metadata,
      headerBytes,
    },
  };
}

/** NaN where the JSON does not say it in the way the format wants: decimal digits as text. */
function keyslotsBytes(metadata: JsonObject): number {
  const size = fieldOf(fieldOf(metadata, "config"), "keyslots_size");
  return typeof size === "string" && /^[0-9]{1,12}$/.test(size) ? Number(size) : Number.NaN;
}

/**
 * Plain ASCII without escapes, as cryptsetup writes it: "type\\u0000" is one key to us and "type" to a parser in C, and what
 * was checked here must be what cryptsetup sees.
 */
function parseObject(json: string): JsonObject | undefined {
  if (!/^[\t\n\r\x20-\x5b\x5d-\x7e]*$/.test(json)) return undefined;
  try {
    const value: unknown = JSON.parse(json);
    return isRecord(value) ? value : undefined;
  } catch {
    return undefined; // no JSON: the caller says so
  }
}

/** Text up to its first NUL. */
function textAt(octets: Uint8Array, at: number, maxBytes: number): string {
  const field = octets.subarray(at, at + maxBytes);
  const end = field.indexOf(0);
  return new TextDecoder().decode(end < 0 ? field : field.subarray(0, end));
}

const latin1 = (octets: Uint8Array, at: number, length: number) =>
  String.fromCharCode(...octets.subarray(at, at + length));
