/**
 * One record of the audit log: u32 big-endian length, then a deterministic CBOR map {seq, time, type, data, prev}.
 * `prev` is the SHA-256 of the record before, length included: 32 zeros before the first.
 */
import { createHash } from "node:crypto";
import { type CborValue, decodeCbor, encodeCbor } from "../bytes/cbor.ts";

export type AuditRecord = {
  /** Counts from 1, without gaps, over all segments. */
  readonly seq: number;
  /** Milliseconds since 1970, as the clock was: it may jump. */
  readonly timeMs: number;
  /** "container-start" */
  readonly type: string;
  readonly data: CborValue;
  readonly prev: Uint8Array;
};

export type ReadRecord =
  | {
      readonly is: "record";
      readonly record: AuditRecord;
      readonly digest: Uint8Array;
      readonly lengthBytes: number;
    }
  /** The octets end within the record: the power went while it was written, or somebody cut it. */
  | { readonly is: "cut" }
  | { readonly is: "refused"; readonly reason: string };

/** With its length. A longer one is not written, and not read. */
export const recordMaxBytes = 64 * 1024;
export const digestBytes = 32;
export const noDigest: Uint8Array = new Uint8Array(digestBytes);
const typeMaxChars = 64;

/** The octets of a record, and their digest: the next one's `prev`. */
export function encodeRecord(record: AuditRecord): {
  readonly octets: Uint8Array;
  readonly digest: Uint8Array;
} {
  const { seq, timeMs, type, data, prev } = record;
  const body = encodeCbor(
    new Map<string, CborValue>([
      ["seq", seq],
      ["time", timeMs],
      ["type", type],
      ["data", data],
      ["prev", prev],
    ]),
  );
  const octets = new Uint8Array(4 + body.length);
  new DataView(octets.buffer).setUint32(0, body.length);
  octets.set(body, 4);
  return { octets, digest: digestOf(octets) };
}

/** Reads the record that `octets` begin with. Never throws. */
export function readRecord(octets: Uint8Array): ReadRecord {
  if (octets.length < 4) return { is: "cut" };
  const bodyBytes = new DataView(octets.buffer, octets.byteOffset, 4).getUint32(0);
  if (bodyBytes === 0 || bodyBytes > recordMaxBytes - 4)
    return { is: "refused", reason: "its length is impossible" };
  const lengthBytes = 4 + bodyBytes;
  if (octets.length < lengthBytes) return { is: "cut" };
  const whole = octets.subarray(0, lengthBytes);
  const decoded = decodeCbor(whole.subarray(4), { maxBytes: recordMaxBytes });
  if (decoded.is === "refused") return { is: "refused", reason: decoded.reason };
  const record = recordOf(decoded.value);
  if (record === undefined) return { is: "refused", reason: "its fields are not those of a record" };
  return { is: "record", record, digest: digestOf(whole), lengthBytes };
}

function recordOf(value: CborValue): AuditRecord | undefined {
  if (!(value instanceof Map) || value.size !== 5) return undefined;
  const fields: ReadonlyMap<string | number, CborValue> = value;
  const [seq, timeMs, type, data, prev] = ["seq", "time", "type", "data", "prev"].map((name) =>
    fields.get(name),
  );
  if (typeof seq !== "number" || seq < 1 || typeof timeMs !== "number") return undefined;
  if (typeof type !== "string" || type.length > typeMaxChars || data === undefined) return undefined;
  if (!(prev instanceof Uint8Array) || prev.length !== digestBytes) return undefined;
  return { seq, timeMs, type, data, prev };
}

const digestOf = (octets: Uint8Array): Uint8Array =>
  new Uint8Array(createHash("sha256").update(octets).digest());
