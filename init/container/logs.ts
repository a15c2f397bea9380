/**
 * The bounded log of a container's console: the newest octets, at most `maxBytes`; older lines are dropped and counted.
 * A guest writes what it likes, so nothing here interprets the octets; who prints them escapes them.
 */

/** What `control logs` gets. */
export type LogView = {
  /** The log as it is now, oldest first. */
  bytes(): Uint8Array;
  /** Lines that were dropped since the log was made. */
  readonly droppedLines: number;
  /** Calls back with what is appended from now on, until disposed. */
  follow(onBytes: (bytes: Uint8Array) => void): Disposable;
};

export const defaultLogBytes = 4 * 1024 * 1024;
const segmentBytes = 32 * 1024;
/** A line longer than this is cut rather than dropped whole. */
const lineBytes = 4096;
const newline = 10;

type Segment = { readonly buffer: Uint8Array; start: number; end: number };

export class ConsoleLog implements LogView {
  readonly #maxBytes: number;
  readonly #segments: Segment[] = [];
  readonly #followers = new Set<(bytes: Uint8Array) => void>();
  #lengthBytes = 0;
  #droppedLines = 0;
  #version = 0;

  constructor(maxBytes: number = defaultLogBytes) {
    this.#maxBytes = maxBytes;
  }

  /** Puts what was kept over a boot before everything else; only while nothing is in it. */
  restore(bytes: Uint8Array): void {
    if (this.#lengthBytes > 0 || this.#version > 0) return;
    this.append(bytes);
    this.#version = 0;
  }

  get maxBytes(): number {
    return this.#maxBytes;
  }

  get droppedLines(): number {
    return this.#droppedLines;
  }

  get lengthBytes(): number {
    return this.#lengthBytes;
  }

  /** Rises with each append: tells whether a kept copy is stale. */
  get version(): number {
    return this.#version;
  }

  append(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.#version++;
    for (let at = 0; at < bytes.length; ) {
      const tail = this.#tail(bytes.length - at);
      const taken = bytes.subarray(at, at + tail.buffer.length - tail.end);
      tail.buffer.set(taken, tail.end);
      tail.end += taken.length;
      at += taken.length;
    }
    this.#lengthBytes += bytes.length;
    if (this.#lengthBytes > this.#maxBytes) this.#drop(this.#lengthBytes - this.#maxBytes);
    for (const follower of this.#followers) follower(bytes);
  }

  bytes(): Uint8Array {
    const all = new Uint8Array(this.#lengthBytes);
    let at = 0;
    for (const { buffer, start, end } of this.#segments) {
      all.set(buffer.subarray(start, end), at);
      at += end - start;
    }
    return all;
  }

  follow(onBytes: (bytes: Uint8Array) => void): Disposable {
    const follower = (bytes: Uint8Array) => onBytes(bytes); // its own identity: the same callback may follow twice
    this.#followers.add(follower);
    return { [Symbol.dispose]: () => void this.#followers.delete(follower) };
  }

  #tail(wantedBytes: number): Segment {
    const last = this.#segments.at(-1);
    if (last && last.end < last.buffer.length) return last;
    // A quiet guest should not cost a whole segment.
    const size = Math.min(segmentBytes, Math.max(wantedBytes, last ? segmentBytes : 1024));
    const segment = { buffer: new Uint8Array(size), start: 0, end: 0 };
    this.#segments.push(segment);
    return segment;
  }

  /** Drops at least `count` octets, then on to the end of the line, so that the log starts with a whole one. */
  #drop(count: number): void {
    let left = count;
    let extra = lineBytes;
    for (let head = this.#segments[0]; head; head = this.#segments[0]) {
      while (head.start < head.end && (left > 0 || extra > 0)) {
        if (left > 0) left--;
        else extra--;
        this.#lengthBytes--;
        if (head.buffer[head.start++] !== newline) continue;
        this.#droppedLines++;
        if (left === 0) extra = 0;
      }
      if (head.start < head.end) return;
      this.#segments.shift();
      if (left === 0 && extra === 0) return;
    }
  }
}
