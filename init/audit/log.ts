/**
 * The audit log's files: /data/audit/<first seq, 16 digits>.audit. Appended and synced, one record after the other. A full segment
 * is followed by a new one; beyond the bound the oldest goes, and the log says so in a record.
 */
import { constants } from "node:fs";
import * as fs from "node:fs/promises";
import { join } from "node:path";
import type { CborValue } from "../bytes/cbor.ts";
import { GimbalError, quoted, reasonOf } from "../errors.ts";
import { isErrno } from "../machine/kernel-refusal.ts";
import { readStateFile, removeFile, setAside, syncDirectory } from "../state/file.ts";
import { type Head, noHead, type Walk, walkSegment } from "./chain.ts";
import { type AuditRecord, encodeRecord, recordMaxBytes } from "./record.ts";

export type AuditLog = {
  /** Resolves with the record's number once it is on the disk. Throws "disk-full" or "audit-failed"; the log then goes on. */
  append(type: string, data: CborValue): Promise<number>;
  /** The last record on the disk: who keeps it elsewhere can later tell a log that was cut at its end. */
  head(): Head;
  close(): Promise<void>;
};

export type AuditOptions = {
  /** Of all segments together. Default 16 MiB. */
  readonly maxBytes?: number;
  /** A segment that has grown beyond this is followed by a new one. Default 1 MiB. */
  readonly segmentBytes?: number;
  readonly nowMs?: () => number;
};

export type AuditVerdict =
  | {
      readonly is: "whole";
      readonly records: number;
      readonly firstSeq: number;
      readonly head: Head;
      /** The last record was cut while it was written. */
      readonly tailCut: boolean;
    }
  | { readonly is: "broken"; readonly segment: string; readonly offsetBytes: number; readonly why: string };

const segmentName = /^[0-9]{16}\.audit$/;
const nameOf = (seq: number) => `${String(seq).padStart(16, "0")}.audit`;
const segmentMaxBytes = 64 * 1024 * 1024;

/** Opens the log in `directory` (made if absent), verifies it whole, and mends a tail that a power cut left. */
export async function openAuditLog(
  directory = "/data/audit",
  { maxBytes = 16 * 1024 * 1024, segmentBytes = 1024 * 1024, nowMs = Date.now }: AuditOptions = {},
): Promise<AuditLog> {
  return auditing("open", directory, async () => {
    await fs.mkdir(directory, { recursive: true, mode: 0o700 });
    const found = await readAll(directory);
    const log = new OpenLog(directory, maxBytes, segmentBytes, nowMs, found.head);
    if (found.tail) await log.resume(found.tail.name, found.tail.goodBytes);
    for (const { type, data } of await mend(directory, found)) await log.append(type, data);
    return log;
  });
}

/** Reads every record again. Never throws for what is in the files. */
export async function verifyAuditLog(
  directory = "/data/audit",
  visit?: (record: AuditRecord) => void,
): Promise<AuditVerdict> {
  const { segments, head, broken } = await readAll(directory, visit);
  if (broken)
    return { is: "broken", segment: broken.name, offsetBytes: broken.walk.goodBytes, why: broken.why };
  const records = segments.reduce((sum, { walk }) => sum + walk.records, 0);
  const firstSeq = segments.find(({ walk }) => walk.firstSeq !== undefined)?.walk.firstSeq ?? 0;
  return { is: "whole", records, firstSeq, head, tailCut: segments.at(-1)?.walk.end.is === "cut" };
}

type Segment = { readonly name: string; readonly walk: Walk; readonly sizeBytes: number };

type Found = {
  /** Up to the first one that does not fit. */
  readonly segments: readonly Segment[];
  readonly head: Head;
  /** The segment to go on with. */
  readonly tail:
    | { readonly name: string; readonly goodBytes: number; readonly lostBytes: number }
    | undefined;
  readonly broken: { readonly name: string; readonly walk: Walk; readonly why: string } | undefined;
  /** Segments that cannot be believed: the broken one and all after it. */
  readonly unbelievable: readonly string[];
};

async function readAll(directory: string, visit?: (record: AuditRecord) => void): Promise<Found> {
  const names = (await fs.readdir(directory)).filter((name) => segmentName.test(name)).sort();
  const segments: Segment[] = [];
  let head: Head | undefined;
  for (const [index, name] of names.entries()) {
    const read = await readStateFile(join(directory, name), segmentMaxBytes);
    const octets = read.is === "bytes" ? read.bytes : new Uint8Array();
    const walk = walkSegment(octets, head, visit);
    const why = faultOf(walk, name, head, index === names.length - 1);
    if (why !== undefined)
      return {
        segments,
        head: head ?? noHead,
        tail: undefined,
        broken: { name, walk, why },
        unbelievable: names.slice(index),
      };
    segments.push({ name, walk, sizeBytes: octets.length });
    head = walk.head ?? head;
  }
  const last = segments.at(-1);
  const tail = last && {
    name: last.name,
    goodBytes: last.walk.goodBytes,
    lostBytes: last.sizeBytes - last.walk.goodBytes,
  };
  return { segments, head: head ?? noHead, tail, broken: undefined, unbelievable: [] };
}

/** Why a segment cannot be believed; undefined where it can. A cut is the mark of a power loss only at the very end. */
function faultOf(walk: Walk, name: string, before: Head | undefined, last: boolean): string | undefined {
  if (walk.end.is === "broken") return walk.end.why;
  if (walk.end.is === "cut" && !last) return "it is cut, and others follow";
  const expected = walk.firstSeq ?? (before ? before.seq + 1 : undefined);
  if (expected !== undefined && name !== nameOf(expected)) return `it begins with record ${expected}`;
  return undefined;
}

/** Puts away what cannot be believed; returns the records that say what was mended. */
async function mend(
  directory: string,
  { broken, unbelievable, tail }: Found,
): Promise<readonly { type: string; data: CborValue }[]> {
  for (const name of unbelievable)
    await setAside(join(directory, name), broken?.why ?? "it follows a broken one");
  if (broken)
    return [
      {
        type: "audit-broken",
        data: new Map<string, CborValue>([
          ["segment", broken.name],
          ["offset", broken.walk.goodBytes],
          ["why", broken.why],
          ["set-aside", [...unbelievable]],
        ]),
      },
    ];
  if (!tail || tail.lostBytes === 0) return [];
  return [
    {
      type: "audit-tail-cut",
      data: new Map<string, CborValue>([
        ["segment", tail.name],
        ["lost-bytes", tail.lostBytes],
      ]),
    },
  ];
}

class OpenLog implements AuditLog {
  readonly #directory: string;
  readonly #maxBytes: number;
  readonly #segmentBytes: number;
  readonly #nowMs: () => number;
  #head: Head;
  #file: fs.FileHandle | undefined;
  #sizeBytes = 0;
  #last: Promise<unknown> = Promise.resolve();

  constructor(directory: string, maxBytes: number, segmentBytes: number, nowMs: () => number, head: Head) {
    this.#directory = directory;
    this.#maxBytes = maxBytes;
    this.#segmentBytes = Math.min(segmentBytes, maxBytes);
    this.#nowMs = nowMs;
    this.#head = head;
  }

  /** Goes on with a segment after its last whole record; what follows that is cut off. */
  async resume(name: string, goodBytes: number): Promise<void> {
    this.#file = await fs.open(join(this.#directory, name), constants.O_RDWR | constants.O_NOFOLLOW);
    await this.#file.truncate(goodBytes);
    await this.#file.sync();
    this.#sizeBytes = goodBytes;
  }

  head(): Head {
    return this.#head;
  }

  append(type: string, data: CborValue): Promise<number> {
    return this.#inTurn(() => this.#append(type, data));
  }

  async close(): Promise<void> {
    await this.#inTurn(async () => {
      await this.#file?.close();
      this.#file = undefined;
    });
  }

  async #append(type: string, data: CborValue): Promise<number> {
    if (this.#file && this.#sizeBytes >= this.#segmentBytes) {
      await this.#file.close();
      this.#file = undefined;
    }
    const dropped = this.#file ? undefined : await this.#dropOldest();
    if (dropped) await this.#write("audit-segment-dropped", dropped);
    return this.#write(type, data);
  }

  async #write(type: string, data: CborValue): Promise<number> {
    const seq = this.#head.seq + 1;
    const record = { seq, timeMs: this.#nowMs(), type, data, prev: this.#head.digest };
    const { octets, digest } = encodeRecord(record);
    if (octets.length > recordMaxBytes) throw refusedRecord(`it has ${octets.length} octets`);
    this.#file ??= await this.#newSegment(seq);
    const file = this.#file;
    try {
      await writeAt(file, octets, this.#sizeBytes);
      await file.datasync();
    } catch (error) {
      // What was written of it must not be taken for the next record's place.
      await file.truncate(this.#sizeBytes).catch(() => undefined); // the first error is the one to report
      throw error;
    }
    this.#sizeBytes += octets.length;
    this.#head = { seq, digest };
    return seq;
  }

  async #newSegment(seq: number): Promise<fs.FileHandle> {
    const { O_CREAT, O_NOFOLLOW, O_RDWR, O_TRUNC } = constants;
    // Truncated: one of this name holds no record, or its records would be in the chain.
    const flags = O_CREAT | O_RDWR | O_TRUNC | O_NOFOLLOW;
    const file = await fs.open(join(this.#directory, nameOf(seq)), flags, 0o600);
    await syncDirectory(fs, this.#directory);
    this.#sizeBytes = 0;
    return file;
  }

  /** Makes room for one more segment. Returns what the record about it says. */
  async #dropOldest(): Promise<CborValue | undefined> {
    const names = (await fs.readdir(this.#directory)).filter((name) => segmentName.test(name)).sort();
    const sizes = await Promise.all(
      names.map(async (name) => (await fs.stat(join(this.#directory, name))).size),
    );
    let total = sizes.reduce((sum, size) => sum + size, 0);
    const dropped: string[] = [];
    for (const [index, name] of names.entries()) {
      if (total + this.#segmentBytes <= this.#maxBytes) break;
      await removeFile(join(this.#directory, name));
      total -= sizes[index] ?? 0;
      dropped.push(name);
    }
    return dropped.length > 0 ? new Map<string, CborValue>([["segments", dropped]]) : undefined;
  }

  /** One after the other, whatever becomes of the one before: its caller was told. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#last.then(
      () => auditing("append to", this.#directory, work),
      () => auditing("append to", this.#directory, work),
    );
    this.#last = mine;
    return mine;
  }
}

async function writeAt(file: fs.FileHandle, octets: Uint8Array, position: number): Promise<void> {
  for (let at = 0; at < octets.length; ) {
    const { bytesWritten } = await file.write(octets, at, octets.length - at, position + at);
    at += bytesWritten;
  }
}

const refusedRecord = (why: string) =>
  new GimbalError("bad-argument", { tried: "append", on: "an audit record", why });

async function auditing<T>(tried: string, directory: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof GimbalError) throw error;
    const full = isErrno(error, "ENOSPC", "EDQUOT");
    const why = full ? "no space is left" : quoted(reasonOf(error));
    throw new GimbalError(
      full ? "disk-full" : "audit-failed",
      { tried, on: `the audit log in ${directory}`, why },
      error,
    );
  }
}
