/** Octets that wait, oldest first. Many small pieces share a buffer, so that a piece of one octet does not cost a hundred. */
export class ByteQueue {
  readonly #buffers: { readonly octets: Uint8Array; start: number; end: number }[] = [];
  #lengthBytes = 0;

  get lengthBytes(): number {
    return this.#lengthBytes;
  }

  /** Copies `bytes`. */
  push(bytes: Uint8Array): void {
    this.#lengthBytes += bytes.length;
    for (let at = 0; at < bytes.length; ) {
      const last = this.#buffers.at(-1);
      const tail = last && last.end < last.octets.length ? last : this.#grow(bytes.length - at);
      const part = bytes.subarray(at, at + tail.octets.length - tail.end);
      tail.octets.set(part, tail.end);
      tail.end += part.length;
      at += part.length;
    }
  }

  /** The oldest octets, as many as lie together, at most `maxBytes`; undefined when it is empty. */
  shift(maxBytes: number = Number.POSITIVE_INFINITY): Uint8Array | undefined {
    const head = this.#buffers[0];
    if (head === undefined || maxBytes <= 0) return undefined;
    const bytes = head.octets.subarray(head.start, Math.min(head.end, head.start + maxBytes));
    head.start += bytes.length;
    this.#lengthBytes -= bytes.length;
    if (head.start === head.end) this.#buffers.shift();
    return bytes;
  }

  clear(): void {
    this.#buffers.length = 0;
    this.#lengthBytes = 0;
  }

  #grow(wantedBytes: number): { octets: Uint8Array; start: number; end: number } {
    const buffer = { octets: new Uint8Array(Math.max(wantedBytes, smallestBytes)), start: 0, end: 0 };
    this.#buffers.push(buffer);
    return buffer;
  }
}

const smallestBytes = 4096;
