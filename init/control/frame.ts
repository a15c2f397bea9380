/**
 * Control protocol framing (DESIGN section 7): u32 big-endian length, then one CBOR map (RFC 8949) of 1 to 1,048,576 octets.
 * Left out: compression, several maps in a frame. Nothing here throws on input; a refusal ends the connection.
 */
import { type CborValue, decodeCbor, encodeCbor } from "../bytes/cbor.ts";

export const frameMaxBytes = 1024 * 1024;

export type Message = ReadonlyMap<string | number, CborValue>;

export type Taken =
  | { readonly is: "incomplete"; readonly missingBytes: number }
  | { readonly is: "refused"; readonly reason: "empty" | "too-long"; readonly lengthBytes: number }
  | { readonly is: "frame"; readonly body: Uint8Array; readonly rest: Uint8Array };

/** Takes the first frame of `input`. Copies nothing: `body` and `rest` are views and live as long as `input`. */
export function takeFrame(input: Uint8Array): Taken {
  if (input.length < 4) return { is: "incomplete", missingBytes: 4 - input.length };
  const lengthBytes = new DataView(input.buffer, input.byteOffset, 4).getUint32(0);
  if (lengthBytes === 0) return { is: "refused", reason: "empty", lengthBytes };
  if (lengthBytes > frameMaxBytes) return { is: "refused", reason: "too-long", lengthBytes };
  const end = 4 + lengthBytes;
  if (input.length < end) return { is: "incomplete", missingBytes: end - input.length };
  return { is: "frame", body: input.subarray(4, end), rest: input.subarray(end) };
}

/** One frame around a map. Throws RangeError where it would be longer than a frame may be. */
export function encodeFrame(message: Message): Uint8Array {
  const body = encodeCbor(message);
  if (body.length > frameMaxBytes) throw new RangeError(`a message of ${body.length} octets fits no frame`);
  const frame = new Uint8Array(4 + body.length);
  new DataView(frame.buffer).setUint32(0, body.length);
  frame.set(body, 4);
  return frame;
}

export type DecodedMessage =
  | { readonly is: "message"; readonly message: Message }
  | { readonly is: "refused"; readonly why: string };

/** Decodes a frame's body. Never throws. A client allows the device more items than the device allows a client. */
export function decodeMessage(body: Uint8Array, maxItems = 20_000): DecodedMessage {
  const decoded = decodeCbor(body, { maxBytes: frameMaxBytes, maxDepth: 12, maxItems });
  if (decoded.is === "refused") return { is: "refused", why: `${decoded.reason} at octet ${decoded.offset}` };
  if (!(decoded.value instanceof Map)) return { is: "refused", why: "it is no map" };
  return { is: "message", message: decoded.value };
}

/**
 * Gathers chunks until whole frames are there; holds at most one frame and one chunk, however small the pieces were.
 * `bodies` are views of what was pushed. After a refusal it is of no more use: nobody knows where the next frame would begin.
 */
export class FrameReader {
  #held: Uint8Array = new Uint8Array();
  #lengthBytes = 0;
  #wantedBytes = 4;

  /** What is held of a frame that has begun and not ended. */
  get heldBytes(): number {
    return this.#lengthBytes;
  }

  /** The frames that are complete now, or the refusal of what follows. */
  push(chunk: Uint8Array): { readonly bodies: readonly Uint8Array[]; readonly refused?: string } {
    let input = chunk;
    if (this.#lengthBytes > 0) {
      this.#append(chunk);
      if (this.#lengthBytes < this.#wantedBytes) return { bodies: [] };
      input = this.#held.subarray(0, this.#lengthBytes);
    }
    const bodies: Uint8Array[] = [];
    for (;;) {
      const taken = takeFrame(input);
      if (taken.is === "incomplete") {
        this.#wantedBytes = input.length + taken.missingBytes;
        this.#held = new Uint8Array(input); // a copy: three octets would keep the whole chunk that they came in
        this.#lengthBytes = input.length;
        return { bodies };
      }
      if (taken.is === "refused") {
        this.#held = new Uint8Array();
        this.#lengthBytes = 0;
        return { bodies, refused: `a frame of ${taken.lengthBytes} octets` };
      }
      bodies.push(taken.body);
      input = taken.rest;
    }
  }

  #append(chunk: Uint8Array): void {
    const neededBytes = this.#lengthBytes + chunk.length;
    if (neededBytes > this.#held.length) {
      const grown = new Uint8Array(Math.max(neededBytes, Math.min(2 * this.#held.length, this.#wantedBytes)));
      grown.set(this.#held.subarray(0, this.#lengthBytes));
      this.#held = grown;
    }
    this.#held.set(chunk, this.#lengthBytes);
    this.#lengthBytes = neededBytes;
  }
}
