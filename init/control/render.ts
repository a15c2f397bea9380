/** Results for people: aligned tables and fields. Text from guests is escaped, a terminal is not theirs to write to. */
import type { CborValue } from "../bytes/cbor.ts";
import type { As, Field, Result } from "./command.ts";
import { escaped } from "./safe-text.ts";

/** What a person sees of a result. `columns` is the terminal's width; undefined: no terminal, nothing is cut. */
export function render(is: Result, result: CborValue, columns?: number): string {
  switch (is.is) {
    case "nothing":
      return "";
    case "line":
      return `${escaped(is.of(result))}\n`;
    case "stream":
    case "fields":
      return result instanceof Map ? fieldLines(is.fields, result) : `${cell(result)}\n`;
    case "rows":
      return Array.isArray(result) ? table(is.fields, result, is.empty, columns) : "";
    default:
      return is satisfies never;
  }
}

/** The result with its keys in the order of the table; CBOR sorts them by length. */
export function inOrder(is: Result, result: CborValue): CborValue {
  if (is.is === "nothing" || is.fields.length === 0) return result;
  const keys = is.fields.map(({ key }) => key);
  const one = (value: CborValue): CborValue => {
    if (!(value instanceof Map)) return value;
    const known = keys.filter((key) => value.has(key)).map((key) => [key, value.get(key) ?? null] as const);
    return new Map<string | number, CborValue>([...known, ...value]);
  };
  return Array.isArray(result) ? result.map(one) : one(result);
}

/** The result as JSON: octets in hex, keys as they are. */
export function toJson(value: CborValue, indent: 0 | 2 = 2): string {
  return JSON.stringify(plain(value), null, indent);
}

function plain(value: CborValue): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString("hex");
  if (typeof value === "bigint") return value.toString();
  if (Array.isArray(value)) return value.map(plain);
  // Object.fromEntries defines own properties, so that "__proto__" is a key like any other.
  if (value instanceof Map)
    return Object.fromEntries([...value].map(([key, entry]) => [String(key), plain(entry)]));
  return value;
}

function fieldLines(fields: readonly Field[], result: ReadonlyMap<string | number, CborValue>): string {
  const longest = Math.max(0, ...[...result.keys()].map((key) => widthOf(escaped(String(key)))));
  return [...result]
    .map(([key, value]) => {
      const label = padEnd(escaped(String(key)), longest);
      // A list of sentences reads better below one another.
      const lines = Array.isArray(value) && value.length > 1 ? value.map((entry) => cell(entry)) : [];
      if (lines.length === 0) lines.push(cell(value, fields.find((field) => field.key === key)?.as));
      return lines.map((line, index) => `${index === 0 ? label : " ".repeat(longest)}  ${line}\n`).join("");
    })
    .join("");
}

function table(
  fields: readonly Field[],
  rows: readonly CborValue[],
  empty: string,
  columns: number | undefined,
): string {
  if (rows.length === 0) return `${empty}\n`;
  const cellsOf = (field: Field) =>
    rows.map((row) => cell(row instanceof Map ? row.get(field.key) : undefined, field.as));
  const shown = fields
    .filter((field) => field.title !== undefined)
    .map((field) => ({ field, cells: [field.title ?? "", ...cellsOf(field)] }))
    // A column in which nobody has anything to say is left out.
    .filter(({ cells }) => cells.slice(1).some((text) => text !== "-"));
  const widths = fitted(
    shown.map(({ cells }) => Math.max(...cells.map(widthOf))),
    columns,
  );
  const line = (row: number) =>
    shown
      .map(({ field, cells }, index) => {
        const text = cut(cells[row] ?? "", widths[index] ?? 0);
        return field.right ? padStart(text, widths[index] ?? 0) : padEnd(text, widths[index] ?? 0);
      })
      .join("  ")
      .trimEnd();
  return Array.from({ length: rows.length + 1 }, (_, row) => `${line(row)}\n`).join("");
}

const narrowest = 8;

/** Widths that fit the terminal: the widest columns give way first. */
function fitted(widths: readonly number[], columns: number | undefined): readonly number[] {
  const result = [...widths];
  const total = () => result.reduce((sum, width) => sum + width + 2, -2);
  while (columns !== undefined && total() > columns) {
    const widest = Math.max(...result);
    if (widest <= narrowest) break;
    result[result.indexOf(widest)] = widest - 1;
  }
  return result;
}

function cell(value: CborValue | undefined, as: As = "text"): string {
  if (value === undefined || value === null || value === "") return "-";
  if (value instanceof Uint8Array) return Buffer.from(value).toString("hex");
  if (Array.isArray(value)) return value.length === 0 ? "-" : value.map((entry) => cell(entry)).join(", ");
  if (value instanceof Map)
    return [...value].map(([key, entry]) => `${escaped(String(key))}=${cell(entry)}`).join(" ");
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "string") return escaped(value);
  return typeof value === "number" ? numberAs(value, as) : String(value);
}

function numberAs(value: number, as: As): string {
  switch (as) {
    case "text":
      return String(value);
    case "bytes":
      return bytesText(value);
    case "seconds":
      return secondsText(value);
    case "time":
      return Math.abs(value) < 1e11 ? `${new Date(value * 1000).toISOString().slice(0, 19)}Z` : String(value);
    default:
      return as satisfies never;
  }
}

/** "59 s", "3 min 20 s", "5 h 7 min", "12 d 3 h" */
function secondsText(seconds: number): string {
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 24 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** MB are 10^6 octets. */
function bytesText(bytes: number): string {
  for (const [unit, size] of [
    ["TB", 1e12],
    ["GB", 1e9],
    ["MB", 1e6],
    ["kB", 1e3],
  ] as const) {
    if (bytes >= size) return `${(bytes / size).toFixed(1)} ${unit}`;
  }
  return `${bytes} B`;
}

const wide =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1f64f}\u{1f900}-\u{1f9ff}\u{20000}-\u{3fffd}]/u;

/** Columns of a terminal. */
function widthOf(text: string): number {
  let width = 0;
  for (const sign of text) width += /\p{Mark}/u.test(sign) ? 0 : wide.test(sign) ? 2 : 1;
  return width;
}

const padEnd = (text: string, width: number): string => text + " ".repeat(Math.max(0, width - widthOf(text)));
const padStart = (text: string, width: number): string =>
  " ".repeat(Math.max(0, width - widthOf(text))) + text;

function cut(text: string, width: number): string {
  if (widthOf(text) <= width) return text;
  let kept = "";
  for (const sign of text) {
    if (widthOf(kept + sign) > width - 1) break;
    kept += sign;
  }
  return `${kept}\u2026`;
}
