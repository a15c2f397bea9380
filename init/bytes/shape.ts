/**
 * Shapes: what a decoded CBOR or JSON value must look like, declared once; the type, the check and the way back to CBOR come
 * from it. Unknown keys are refused. Nothing here throws on what an enemy may send.
 */
import { quoted } from "../errors.ts";
import type { CborValue } from "./cbor.ts";

export type Parsed<T> =
  | { readonly is: "ok"; readonly value: T }
  /** `path`: where, ".mounts[3].name"; empty for the whole. `why` follows "it": "is no text". */
  | { readonly is: "refused"; readonly path: string; readonly why: string };

export interface Shape<T> {
  parse(value: unknown, path: string): Parsed<T>;
  toCbor(value: T): CborValue;
  /** Set by `optional` and `withDefault`: the key may be absent. */
  readonly absent?: { readonly value: T };
}

export type Shaped<S> = S extends Shape<infer T> ? T : never;

/** Checks `value`; see Parsed. */
export function parse<T>(shape: Shape<T>, value: unknown): Parsed<T> {
  return shape.parse(value, "");
}

const ok = <T>(value: T): Parsed<T> => ({ is: "ok", value });
const no = (path: string, why: string): Parsed<never> => ({ is: "refused", path, why });

/** A text of at most `max` UTF-16 units (default 256) that matches `pattern` as a whole; `what` names the rule. */
export function text(
  rule: { max?: number; min?: number; pattern?: RegExp; what?: string } = {},
): Shape<string> {
  const { max = 256, min = 0, pattern, what } = rule;
  return {
    parse(value, path) {
      if (typeof value !== "string") return no(path, "is no text");
      if (value.length > max) return no(path, `has more than ${max} characters`);
      if (value.length < min) return no(path, min === 1 ? "is empty" : `has fewer than ${min} characters`);
      if (value.includes("\0")) return no(path, "holds NUL");
      if (pattern && !pattern.test(value)) return no(path, what ?? `does not match ${pattern.source}`);
      return ok(value);
    },
    toCbor: (value) => value,
  };
}

/** A whole number from `min` (default 0) to `max` (default 2^53 - 1). */
export function uint({
  min = 0,
  max = Number.MAX_SAFE_INTEGER,
}: {
  min?: number;
  max?: number;
} = {}): Shape<number> {
  return {
    parse(value, path) {
      if (typeof value !== "number" || !Number.isSafeInteger(value)) return no(path, "is no whole number");
      if (value < min || value > max) return no(path, `is not between ${min} and ${max}`);
      return ok(value);
    },
    toCbor: (value) => value,
  };
}

export function bool(): Shape<boolean> {
  return {
    parse: (value, path) => (typeof value === "boolean" ? ok(value) : no(path, "is neither true nor false")),
    toCbor: (value) => value,
  };
}

/** An octet string of `min` to `max` octets. */
export function bytesOf({ min = 0, max }: { min?: number; max: number }): Shape<Uint8Array> {
  return {
    parse(value, path) {
      if (!(value instanceof Uint8Array)) return no(path, "is no octet string");
      if (value.length > max) return no(path, `has more than ${max} octets`);
      if (value.length < min) return no(path, `has fewer than ${min} octets`);
      return ok(value);
    },
    toCbor: (value) => value,
  };
}

/** One of these texts. */
export function oneOf<const T extends string>(...values: readonly T[]): Shape<T> {
  return {
    parse: (value, path) =>
      values.includes(value as T) ? ok(value as T) : no(path, `is none of ${values.join(", ")}`),
    toCbor: (value) => value,
  };
}

export function listOf<T>(item: Shape<T>, max: number): Shape<readonly T[]> {
  return {
    parse(value, path) {
      if (!Array.isArray(value)) return no(path, "is no list");
      if (value.length > max) return no(path, `has more than ${max} entries`);
      const items: T[] = [];
      for (const [index, entry] of value.entries()) {
        const parsed = item.parse(entry, `${path}[${index}]`);
        if (parsed.is === "refused") return parsed;
        items.push(parsed.value);
      }
      return ok(items);
    },
    toCbor: (value) => value.map((entry) => item.toCbor(entry)),
  };
}

/** A map from texts of one kind to values of one kind, at most `max` of them. */
export function mapOf<T>(key: Shape<string>, item: Shape<T>, max: number): Shape<ReadonlyMap<string, T>> {
  return {
    parse(value, path) {
      const entries = entriesOf(value);
      if (!entries) return no(path, "is no map");
      if (entries.length > max) return no(path, `has more than ${max} entries`);
      const result = new Map<string, T>();
      for (const [name, entry] of entries) {
        const parsedName = key.parse(name, path);
        if (parsedName.is === "refused") return no(path, `has a key that ${parsedName.why}`);
        const parsed = item.parse(entry, `${path}.${shownKey(name)}`);
        if (parsed.is === "refused") return parsed;
        result.set(parsedName.value, parsed.value);
      }
      return ok(result);
    },
    toCbor: (value) => new Map([...value].map(([name, entry]) => [name, item.toCbor(entry)])),
  };
}

/** The key may be absent; then the value is undefined. */
export function optional<T>(shape: Shape<T>): Shape<T | undefined> {
  return {
    parse: (value, path) => shape.parse(value, path),
    toCbor: (value) => (value === undefined ? null : shape.toCbor(value)),
    absent: { value: undefined },
  };
}

/** The key may be absent; then the value is `value`. */
export function withDefault<T>(shape: Shape<T>, value: T): Shape<T> {
  return {
    parse: (given, path) => shape.parse(given, path),
    toCbor: (given) => shape.toCbor(given),
    absent: { value },
  };
}

/** The first of these that fits. The refusal is that of the last. */
export function eitherOf<A, B>(first: Shape<A>, second: Shape<B>): Shape<A | B> {
  return {
    parse(value, path) {
      const parsed = first.parse(value, path);
      return parsed.is === "ok" ? parsed : second.parse(value, path);
    },
    toCbor(value) {
      const parsed = first.parse(value, "");
      return parsed.is === "ok" ? first.toCbor(parsed.value) : second.toCbor(value as B);
    },
  };
}

type Fields = { readonly [name: string]: Shape<unknown> };
type Record_<F extends Fields> = { readonly [K in keyof F]: Shaped<F[K]> };

/**
 * A map with exactly these keys. The field `ramLimit` has the key "ram_limit": CBOR and files are in snake case, TypeScript in
 * camel case.
 */
export function record<const F extends Fields>(fields: F): Shape<Record_<F>> {
  const names = new Map(Object.keys(fields).map((field) => [snakeCase(field), field]));
  return {
    parse(value, path) {
      const entries = entriesOf(value);
      if (!entries) return no(path, "is no map");
      const given = new Map<string, unknown>();
      for (const [key, entry] of entries) {
        if (!names.has(key)) return no(path, `has the unknown key ${quoted(key)}`);
        given.set(key, entry);
      }
      const result: Record<string, unknown> = Object.create(null);
      for (const [key, field] of names) {
        const shape = fields[field];
        if (!shape) continue;
        if (!given.has(key)) {
          if (!shape.absent) return no(path, `lacks the key "${key}"`);
          result[field] = shape.absent.value;
          continue;
        }
        const parsed = shape.parse(given.get(key), `${path}.${key}`);
        if (parsed.is === "refused") return parsed;
        result[field] = parsed.value;
      }
      return ok({ ...result } as Record_<F>);
    },
    toCbor(value) {
      const result = new Map<string, CborValue>();
      for (const [key, field] of names) {
        const entry = (value as Record<string, unknown>)[field];
        if (entry !== undefined) result.set(key, fields[field]?.toCbor(entry) ?? null);
      }
      return result;
    },
  };
}

/** Entries with text keys, of a Map (CBOR) or a plain object (JSON); only own ones. */
function entriesOf(value: unknown): readonly (readonly [string, unknown])[] | undefined {
  if (value instanceof Map) {
    const entries = [...value];
    return entries.every(([key]) => typeof key === "string") ? entries : undefined;
  }
  if (typeof value !== "object" || value === null || Array.isArray(value) || ArrayBuffer.isView(value))
    return undefined;
  return Object.entries(value);
}

/** A key of an owner's choosing, as it may stand in a sentence. */
const shownKey = (name: string): string => (/^[\w-]{1,64}$/.test(name) ? name : quoted(name));

const snakeCase = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
