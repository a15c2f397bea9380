/** guestos.yaml as people write it: read with its places, so that a fault is told by line. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseDocument } from "yaml";
import type { GuestosSource } from "../../guestos/source.ts";
import { GimbalError, reasonOf } from "../../init/errors.ts";

const maxBytes = 256 * 1024;

/**
 * @param path the file, or a folder with guestos.yaml
 * @throws {GimbalError} "manifest-malformed"
 */
export async function readYaml(path: string): Promise<GuestosSource> {
  const file = /\.ya?ml$/.test(path) ? path : join(path, "guestos.yaml");
  const refuse = (why: string, cause?: unknown) =>
    new GimbalError(
      "manifest-malformed",
      { tried: "read", on: file, why, todo: "see docs/guests.md" },
      cause,
    );
  const text = await readFile(file, "utf8").catch((cause: unknown) => {
    throw refuse(reasonOf(cause), cause);
  });
  if (text.length > maxBytes) throw refuse(`it has more than ${maxBytes} octets`);
  const document = parseDocument(text, { uniqueKeys: true, prettyErrors: true });
  const [error] = document.errors;
  if (error) throw refuse(error.message.split("\n")[0] ?? "", error);
  const value: unknown = valueIn(() => document.toJS({ maxAliasCount: 100 }), refuse);
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw refuse("it is no map");
  const source = value as GuestosSource;
  if (typeof source.name !== "string") throw refuse("it has no name");
  if (!Array.isArray(source.mounts)) throw refuse("it has no list of mounts");
  return source;
}

function valueIn<T>(get: () => T, refuse: (why: string, cause: unknown) => GimbalError): T {
  try {
    return get();
  } catch (cause) {
    throw refuse(reasonOf(cause), cause);
  }
}
