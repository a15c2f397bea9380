/**
 * Big-endian structures declared once: writer, reader and type come from one value, as TPM structures need them.
 * Every list and buffer declares its maximum, and octets left over are a refusal. `decode` never throws and never
 * allocates more than the input holds. `encode` throws a RangeError for a value that does not fit: that is a bug.
 */

/** How one kind of value is written and read. Only `encode` and `decode` below call the two functions. */
export interface Codec<T> {
  write(to: Writer, value: T): void;
  read(from: Reader): T;
}

/** The type of a codec's values. */
export type Value<C> = C extends Codec<infer T> ? T : never;

export type Decoded<T> =
  | { readonly is: "value"; readonly value: T }
  | { readonly is: "refused"; readonly reason: string; readonly offset: number };

/** Writes `value`. At most `maxBytes` octets. */
export function encode<T>(codec: Codec<T>, value: T, maxBytes = 65_536): Uint8Array {
  const writer = new Writer(maxBytes);
  codec.write(writer, value);
  return writer.take();
}

/** Reads exactly one value. Buffers in it are views of `input`. */
export function decode<T>(codec: Codec<T>, input: Uint8Array): Decoded<T> {
  const taken = decodeFirst(codec, input);
  if (taken.is === "refused") return taken;
  if (taken.rest.length === 0) return { is: "value", value: taken.value };
  const offset = input.length - taken.rest.length;
  return { is: "refused", reason: `${taken.rest.length} octets left over`, offset };
}

/** Reads one value from the front of `input` and gives the rest. */
export function decodeFirst<T>(
  codec: Codec<T>,
  input: Uint8Array,
):
  | { readonly is: "value"; readonly value: T; readonly rest: Uint8Array }
  | { readonly is: "refused"; readonly reason: string; readonly offset: number } {
  const reader = new Reader(input);
  try {
    const value = codec.read(reader);
    return { is: "value", value, rest: input.subarray(reader.offset) };
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return { is: "refused", reason: error.message, offset: reader.offset };
  }
}

/** Ends a read from within a codec; never leaves this module. */
class Refusal extends Error {}

/** Refuses what is being read. For codecs declared elsewhere. */
export function refuse(reason: string): never {
  throw new Refusal(reason);
}

/** A growing buffer with a limit. */
export class Writer {
  #bytes = new Uint8Array(128);
  #length = 0;
  readonly #maxBytes: number;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get length(): number {
    return this.#length;
  }

  /** Makes room for `count` octets and gives a view of them. */
  claim(count: number): DataView {
    const end = this.#length + count;
    if (end > this.#maxBytes) throw new RangeError(`more than ${this.#maxBytes} octets`);
    if (end > this.#bytes.length) {
      const grown = new Uint8Array(Math.min(this.#maxBytes, Math.max(end, this.#bytes.length * 2)));
      grown.set(this.#bytes.subarray(0, this.#length));
      this.#bytes.fill(0); // it may have held a key
      this.#bytes = grown;
    }
    const view = new DataView(this.#bytes.buffer, this.#length, count);
    this.#length = end;
    return view;
  }

  put(octets: Uint8Array): void {
    const view = this.claim(octets.length);
    new Uint8Array(view.buffer, view.byteOffset, view.byteLength).set(octets);
  }

  /** The octets so far, copied; the buffer is cleared. */
  take(): Uint8Array {
    const octets = this.#bytes.slice(0, this.#length);
    this.#bytes.fill(0);
    this.#length = 0;
    return octets;
  }
}

/** A cursor over a part of an input. */
export class Reader {
  readonly #bytes: Uint8Array;
  #offset = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get offset(): number {
    return this.#offset;
  }

  get remaining(): number {
    return this.#bytes.length - this.#offset;
  }

  take(count: number): Uint8Array {
    if (count > this.remaining) refuse(`needs ${count} octets, has ${this.remaining}`);
    const taken = this.#bytes.subarray(this.#offset, this.#offset + count);
    this.#offset += count;
    return taken;
  }

  view(count: number): DataView {
    const taken = this.take(count);
    return new DataView(taken.buffer, taken.byteOffset, count);
  }
}

function checkRange(value: number, limit: number): number {
  if (!Number.isInteger(value) || value < 0 || value > limit)
    throw new RangeError(`${value} is not 0..${limit}`);
  return value;
}

export const u8: Codec<number> = {
  write: (to, value) => to.claim(1).setUint8(0, checkRange(value, 0xff)),
  read: (from) => from.view(1).getUint8(0),
};

export const u16: Codec<number> = {
  write: (to, value) => to.claim(2).setUint16(0, checkRange(value, 0xffff)),
  read: (from) => from.view(2).getUint16(0),
};

export const u32: Codec<number> = {
  write: (to, value) => to.claim(4).setUint32(0, checkRange(value, 0xffff_ffff)),
  read: (from) => from.view(4).getUint32(0),
};

export const u64: Codec<bigint> = {
  write: (to, value) => {
    if (value < 0n || value > 0xffff_ffff_ffff_ffffn) throw new RangeError(`${value} does not fit 64 bits`);
    to.claim(8).setBigUint64(0, value);
  },
  read: (from) => from.view(8).getBigUint64(0),
};

/** One octet, 0 or 1 (TPMI_YES_NO). */
export const flag: Codec<boolean> = {
  write: (to, value) => u8.write(to, value ? 1 : 0),
  read: (from) => {
    const octet = u8.read(from);
    if (octet > 1) refuse(`${octet} is neither 0 nor 1`);
    return octet === 1;
  },
};

/** Exactly `count` octets. */
export function fixed(count: number): Codec<Uint8Array> {
  return {
    write: (to, value) => {
      if (value.length !== count) throw new RangeError(`${value.length} octets instead of ${count}`);
      to.put(value);
    },
    read: (from) => from.take(count),
  };
}

/** One value only: a magic number, a reserved field. */
export function constant<T extends number | bigint>(codec: Codec<T>, only: T): Codec<T> {
  return {
    write: (to, value) => {
      if (value !== only) throw new RangeError(`${value} instead of ${only}`);
      codec.write(to, value);
    },
    read: (from) => {
      const value = codec.read(from);
      if (value !== only) refuse(`${value} instead of ${only}`);
      return value;
    },
  };
}

/** A length, then that many octets: at most `max`. */
export function sized(length: Codec<number>, max: number): Codec<Uint8Array> {
  return {
    write: (to, value) => {
      checkRange(value.length, max);
      length.write(to, value.length);
      to.put(value);
    },
    read: (from) => {
      const count = length.read(from);
      if (count > max) refuse(`${count} octets where at most ${max} fit`);
      return from.take(count);
    },
  };
}

/** A length in octets, then one structure that fills it (TPM2B_PUBLIC, TPM2B_ECC_POINT). */
export function sizedOne<T>(length: Codec<number>, inner: Codec<T>, max: number): Codec<T> {
  const outer = sized(length, max);
  return {
    write: (to, value) => outer.write(to, encode(inner, value, max)),
    read: (from) => {
      const part = new Reader(outer.read(from));
      const value = inner.read(part);
      if (part.remaining > 0) refuse(`${part.remaining} octets left over in a sized structure`);
      return value;
    },
  };
}

/** A count (u32 unless told), then that many items: at most `max`. */
export function list<T>(item: Codec<T>, max: number, count: Codec<number> = u32): Codec<readonly T[]> {
  return {
    write: (to, values) => {
      count.write(to, checkRange(values.length, max));
      for (const value of values) item.write(to, value);
    },
    read: (from) => {
      const length = count.read(from);
      if (length > max) refuse(`${length} items where at most ${max} fit`);
      const values: T[] = [];
      for (let index = 0; index < length; index++) values.push(item.read(from));
      return values;
    },
  };
}

/** Fields one after the other, in the order in which they are named. */
export function struct<T extends object>(fields: { readonly [K in keyof T]: Codec<T[K]> }): Codec<T> {
  const names = Object.keys(fields) as (keyof T)[];
  return {
    write: (to, value) => {
      for (const name of names) fields[name].write(to, value[name]);
    },
    read: (from) => {
      const value: Partial<T> = {};
      for (const name of names) value[name] = fields[name].read(from);
      return value as T; // every name was read
    },
  };
}

type Cases = Readonly<Record<string, { readonly tag: number; readonly body: Codec<object> }>>;
type Tagged<C extends Cases> = {
  [N in keyof C]: { readonly is: N } & Value<C[N]["body"]>;
}[keyof C];

/**
 * A tag, then the structure which that tag selects. Its values read `{ is: "ecc", ...fields }`. An unknown tag is
 * refused: there is no default.
 */
export function tagged<const C extends Cases>(tag: Codec<number>, cases: C): Codec<Tagged<C>> {
  const byTag = new Map(Object.entries(cases).map(([name, { tag, body }]) => [tag, { name, body }]));
  return {
    write: (to, value) => {
      const chosen = cases[value.is as string];
      if (!chosen) throw new RangeError(`no case ${String(value.is)}`);
      tag.write(to, chosen.tag);
      chosen.body.write(to, value);
    },
    read: (from) => {
      const number = tag.read(from);
      const chosen = byTag.get(number) ?? refuse(`unknown tag ${number}`);
      return { is: chosen.name, ...chosen.body.read(from) } as Tagged<C>; // the map pairs names with their bodies
    },
  };
}

/** One of some numbers, by name: an algorithm, a structure tag. */
export function named<const N extends Readonly<Record<string, number>>>(
  number: Codec<number>,
  names: N,
): Codec<keyof N & string> {
  const byNumber = new Map(Object.entries(names).map(([name, value]) => [value, name]));
  return {
    write: (to, value) => number.write(to, names[value] ?? Number.NaN),
    read: (from) => {
      const value = number.read(from);
      return byNumber.get(value) ?? refuse(`unknown number ${value}`);
    },
  };
}
