/**
 * CBOR (RFC 8949) in its one deterministic form (4.2.1), bounded. Of two encodings of one value the other is refused, so that
 * what was signed or hashed is what was read.
 *
 * Taken: integers from -2^63 to 2^64 - 1, byte strings, text, arrays, maps with keys of text or 32 bits, false, true, null.
 * Left out, and refused: floats, tags, undefined, indefinite lengths, other simple values.
 * A scan of our own accepts the octets; only then cbor-x decodes them. Maps become Map: "__proto__" is a key like any other.
 */
import { isUtf8 } from "node:buffer";
import { Decoder, Encoder } from "cbor-x";

export type CborValue =
  | null
  | boolean
  /** A whole number; within +-(2^53 - 1). */
  | number
  /** Only where a number would lose digits. */
  | bigint
  | string
  | Uint8Array
  | readonly CborValue[]
  | ReadonlyMap<string | number, CborValue>;

export type CborLimits = {
  readonly maxBytes: number;
  /** Arrays and maps inside one another; a plain value has depth 0. Default 16. */
  readonly maxDepth?: number;
  /** Values and keys altogether. Default 10,000. */
  readonly maxItems?: number;
};

export type Decoded =
  | { readonly is: "value"; readonly value: CborValue }
  | { readonly is: "refused"; readonly reason: string; readonly offset: number };

const encoder = new Encoder({
  mapsAsObjects: false,
  useRecords: false,
  tagUint8Array: false,
  variableMapSize: true,
});
const decoder = new Decoder({ mapsAsObjects: false, useRecords: false });

/** Encodes deterministically. Throws TypeError on what has no place here: a float, undefined, a lone surrogate. */
export function encodeCbor(value: CborValue): Uint8Array {
  // cbor-x returns a view of a buffer that it goes on using.
  return new Uint8Array(encoder.encode(prepared(value)));
}

/** Decodes one value that fills `bytes`. Never throws; `value` shares no memory with `bytes`. */
export function decodeCbor(bytes: Uint8Array, limits: CborLimits): Decoded {
  const refused = scan(bytes, limits);
  if (refused) return { is: "refused", ...refused };
  return { is: "value", value: plain(decoder.decode(bytes)) };
}

/** Sorts maps by their encoded keys, and gives cbor-x numbers in the shape that it encodes shortest. */
function prepared(value: CborValue): unknown {
  if (value === null || typeof value === "boolean") return value;
  if (typeof value === "string") {
    if (!value.isWellFormed()) throw new TypeError("a text holds a lone surrogate");
    return value;
  }
  if (typeof value === "number" || typeof value === "bigint") return integer(value);
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.length);
  if (value instanceof Map) {
    const entries = [...(value as ReadonlyMap<string | number, CborValue>)].map(
      ([key, entry]) => [prepared(smallKey(key)), prepared(entry), encodeCbor(key)] as const,
    );
    entries.sort((a, b) => Buffer.compare(a[2], b[2]));
    return new Map(entries.map(([key, entry]) => [key, entry]));
  }
  if (Array.isArray(value)) return (value as readonly CborValue[]).map(prepared);
  throw new TypeError("a value has no place in CBOR");
}

function smallKey(key: string | number): string | number {
  if (typeof key === "number" && (key < -(2 ** 32) || key >= 2 ** 32))
    throw new TypeError(`the key ${key} is larger than 32 bits`);
  return key;
}

function integer(value: number | bigint): number | bigint {
  if (typeof value === "number" && !Number.isSafeInteger(value))
    throw new TypeError(`${value} is no whole number`);
  if (value < -(2n ** 63n) || value >= 2n ** 64n) throw new TypeError(`${value} does not fit 64 bits`);
  // cbor-x writes a bigint always in 9 octets and a larger number as a float.
  const small = value >= -(2 ** 32) && value < 2 ** 32;
  return small ? Number(value) : BigInt(value);
}

/** What cbor-x returned, in the types of CborValue. */
function plain(value: unknown): CborValue {
  if (typeof value === "bigint") {
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  }
  if (value instanceof Uint8Array) return new Uint8Array(value);
  if (Array.isArray(value)) return value.map(plain);
  if (value instanceof Map) {
    return new Map([...value].map(([key, entry]) => [plain(key) as string | number, plain(entry)]));
  }
  return value as CborValue;
}

type Refusal = { readonly reason: string; readonly offset: number };
type Head = { readonly major: number; readonly argument: bigint; readonly next: number };

/** Undefined where `bytes` is one value in deterministic form within the limits. */
function scan(
  bytes: Uint8Array,
  { maxBytes, maxDepth = 16, maxItems = 10_000 }: CborLimits,
): Refusal | undefined {
  if (bytes.length > maxBytes) return { reason: `it has more than ${maxBytes} octets`, offset: maxBytes };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let items = 0;
  let refusal: Refusal | undefined;
  const refuse = (reason: string, offset: number): undefined => {
    refusal ??= { reason, offset };
    return undefined;
  };

  /** The initial octet and its argument, in the shortest form. */
  const head = (at: number): Head | undefined => {
    if (at >= bytes.length) return refuse("it ends too early", at);
    const first = view.getUint8(at);
    const major = first >> 5;
    const info = first & 31;
    if (info < 24) return { major, argument: BigInt(info), next: at + 1 };
    if (info > 27) return refuse("a length is indefinite or reserved", at);
    const size = 1 << (info - 24);
    if (at + 1 + size > bytes.length) return refuse("it ends too early", at);
    const argument =
      size === 8
        ? view.getBigUint64(at + 1)
        : BigInt(
            size === 1 ? view.getUint8(at + 1) : size === 2 ? view.getUint16(at + 1) : view.getUint32(at + 1),
          );
    const shortest = [24n, 0x100n, 0x10000n, 0x100000000n][info - 24] ?? 0n;
    if (major < 7 && argument < shortest) return refuse("a number is not in its shortest form", at);
    return { major, argument, next: at + 1 + size };
  };

  /** The offset behind the value at `at`. */
  const value = (at: number, depth: number): number | undefined => {
    if (++items > maxItems) return refuse(`it has more than ${maxItems} items`, at);
    const is = head(at);
    if (!is) return undefined;
    if (is.major === 1 && is.argument >= 2n ** 63n) return refuse("a number is below -2^63", at);
    if (is.major < 2) return is.next;
    if (is.major === 7) {
      const first = view.getUint8(at);
      if (first >= 0xf4 && first <= 0xf6) return is.next; // false, true, null
      return refuse("a float, undefined or a simple value has no place here", at);
    }
    if (is.major === 6) return refuse("a tag has no place here", at);
    if (is.argument > BigInt(bytes.length - is.next)) return refuse("a length reaches behind the end", at);
    const count = Number(is.argument);
    if (is.major < 4) {
      const end = is.next + count;
      if (is.major === 3 && !isUtf8(bytes.subarray(is.next, end))) return refuse("a text is not UTF-8", at);
      return end;
    }
    if (depth >= maxDepth) return refuse(`it is nested deeper than ${maxDepth}`, at);
    return is.major === 4 ? array(is.next, count, depth + 1) : map(is.next, count, depth + 1);
  };

  const array = (from: number, count: number, depth: number): number | undefined => {
    let at = from;
    for (let i = 0; i < count; i++) {
      const next = value(at, depth);
      if (next === undefined) return undefined;
      at = next;
    }
    return at;
  };

  const map = (from: number, count: number, depth: number): number | undefined => {
    let at = from;
    let before: Uint8Array | undefined;
    for (let i = 0; i < count; i++) {
      const key = at;
      const type = key < bytes.length ? view.getUint8(key) >> 5 : 0;
      if (type !== 0 && type !== 1 && type !== 3)
        return refuse("a key is neither a text nor an integer", key);
      const behindKey = value(key, depth);
      if (behindKey === undefined) return undefined;
      const octets = bytes.subarray(key, behindKey);
      const order = before ? Buffer.compare(before, octets) : -1;
      if (order === 0) return refuse("a key stands twice", key);
      if (order > 0) return refuse("the keys are not in order", key);
      if (type !== 3 && octets.length === 9) return refuse("a key is larger than 32 bits", key);
      before = octets;
      const next = value(behindKey, depth);
      if (next === undefined) return undefined;
      at = next;
    }
    return at;
  };

  const end = value(0, 0);
  if (refusal) return refusal;
  if (end !== bytes.length) return { reason: "octets are left over", offset: end ?? 0 };
  return undefined;
}
