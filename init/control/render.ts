/** Results for people: aligned tables and fields. Text from guests is escaped, a terminal is not theirs to write to. */
import type { CborValue } from "../bytes/cbor.ts";
import type { Column, View } from "./commands.ts";

/** One cell; control characters and invisible marks are shown as \u escapes. */
export function plainText(value: CborValue | undefined): string {
  if (value === undefined || value === null) return "-";
  if (value instanceof Uint8Array) return Buffer.from(value).toString("hex");
  if (Array.isArray(value)) return value.length === 0 ? "-" : value.map(plainText).join(", ");
  if (value instanceof Map) return [...value].map(([key, entry]) => `${key}=${plainText(entry)}`).join(" ");
  if (typeof value !== "string") return String(value);
  return value === "" ? "-" : escaped(value);
}

export function escaped(text: string): string {
  return text.replace(
    /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
    (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** The lines a person sees. Wider cells than the terminal are cut in the last column only. */
export function renderView(view: View, result: CborValue, width: number): string {
  switch (view.is) {
    case "nothing":
      return "";
    case "line":
      return `${escaped(view.of(result))}\n`;
    case "fields":
      return result instanceof Map ? renderFields(result) : `${plainText(result)}\n`;
    case "table":
      return Array.isArray(result) ? renderTable(view.columns, result, view.empty, width) : "";
    default:
      return view satisfies never;
  }
}

function renderFields(fields: ReadonlyMap<string | number, CborValue>): string {
  const keys = [...fields.keys()].map(String);
  const longest = Math.max(0, ...keys.map((key) => key.length));
  return [...fields].map(([key, value]) => `${String(key).padEnd(longest)}  ${plainText(value)}\n`).join("");
}

function renderTable(
  columns: readonly Column[],
  rows: readonly CborValue[],
  empty: string,
  width: number,
): string {
  if (rows.length === 0) return `${empty}\n`;
  const cells = rows.map((row) =>
    columns.map(({ key }) => plainText(row instanceof Map ? row.get(key) : undefined)),
  );
  // A column in which nobody has anything to say is left out.
  const shown = columns.map((_, index) => cells.some((row) => row[index] !== "-"));
  const lines = [columns.map((column) => column.title), ...cells].map((row) =>
    row.filter((_, index) => shown[index]),
  );
  const kept = columns.filter((_, index) => shown[index]);
  const widths = kept.map((_, index) => Math.max(...lines.map((line) => (line[index] ?? "").length)));
  return lines
    .map((line) => {
      const padded = line.map((cell, index) => {
        const size = widths[index] ?? 0;
        if (kept[index]?.right) return cell.padStart(size);
        return index === line.length - 1 ? cell : cell.padEnd(size);
      });
      return `${padded.join("  ").slice(0, Math.max(width, 40)).trimEnd()}\n`;
    })
    .join("");
}

/** The result as JSON: octets in hex, keys as they are. */
export function toJson(value: CborValue): string {
  return JSON.stringify(plain(value), null, 2);
}

function plain(value: CborValue): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString("hex");
  if (typeof value === "bigint") return value.toString();
  if (Array.isArray(value)) return value.map(plain);
  if (value instanceof Map) {
    // Object.fromEntries defines own properties, so that "__proto__" is a key like any other.
    return Object.fromEntries([...value].map(([key, entry]) => [String(key), plain(entry)]));
  }
  return value;
}
