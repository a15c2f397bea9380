/** Walks the records of a segment and follows their chain. Never throws; looks at every octet. */
import { type AuditRecord, noDigest, readRecord } from "./record.ts";

/** The last record so far: what the next one continues. */
export type Head = { readonly seq: number; readonly digest: Uint8Array };

export const noHead: Head = { seq: 0, digest: noDigest };

export type Walk = {
  /** Undefined where the segment holds no whole record and nothing came before. */
  readonly head: Head | undefined;
  readonly records: number;
  readonly firstSeq: number | undefined;
  /** Octets up to the end of the last whole record that fits. */
  readonly goodBytes: number;
  readonly end:
    | { readonly is: "whole" }
    /** An incomplete record, or zeros, follow: a power cut does that, and nothing else is lost. */
    | { readonly is: "cut" }
    | { readonly is: "broken"; readonly why: string };
};

/**
 * Walks `octets`. With `before`, the first record must continue it; without, the segment is the oldest one kept and its first
 * record is believed (unless it is record 1, which follows nothing). `visit` sees each record.
 */
export function walkSegment(
  octets: Uint8Array,
  before: Head | undefined,
  visit: (record: AuditRecord) => void = () => undefined,
): Walk {
  let head = before;
  let records = 0;
  let firstSeq: number | undefined;
  let at = 0;
  const stop = (end: Walk["end"]): Walk => ({ head, records, firstSeq, goodBytes: at, end });
  while (at < octets.length) {
    const read = readRecord(octets.subarray(at));
    if (read.is === "cut") return stop({ is: "cut" });
    if (read.is === "refused") {
      const zeros = octets.subarray(at).every((octet) => octet === 0);
      return stop(zeros ? { is: "cut" } : { is: "broken", why: `a record does not read: ${read.reason}` });
    }
    const { record, digest, lengthBytes } = read;
    const expected = head ?? (record.seq === 1 ? noHead : undefined);
    if (expected && record.seq !== expected.seq + 1)
      return stop({ is: "broken", why: `record ${record.seq} follows record ${expected.seq}` });
    if (expected && Buffer.compare(record.prev, expected.digest) !== 0)
      return stop({ is: "broken", why: `record ${record.seq} does not continue the one before` });
    visit(record);
    head = { seq: record.seq, digest };
    firstSeq ??= record.seq;
    records++;
    at += lengthBytes;
  }
  return stop({ is: "whole" });
}
