/** A GuestOS as it lies in a folder, for `show` and `verify`. */
import { readFile, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { GimbalError, reasonOf } from "../../init/errors.ts";
import { type ClaimedManifest, parseManifest } from "../../init/guestos/manifest.ts";
import { type ManifestFields, manifestMaxBytes } from "../../init/guestos/manifest-format.ts";
import { manifestFile } from "../../init/guestos/source.ts";

export type Found = {
  /** Where the images lie. */
  readonly folder: string;
  readonly claimed: ClaimedManifest;
};

/** @param path a manifest.cose or the folder it lies in @throws {GimbalError} "manifest-malformed" */
export async function findGuestos(path: string): Promise<Found> {
  const refuse = (why: string, cause?: unknown) =>
    new GimbalError("manifest-malformed", { tried: "read", on: path, why }, cause);
  const isFolder = (await stat(path).catch(() => undefined))?.isDirectory() === true;
  const file = isFolder ? join(path, manifestFile) : path;
  const bytes = await readFile(file).catch((cause: unknown) => {
    throw refuse(reasonOf(cause), cause);
  });
  if (bytes.length > manifestMaxBytes) throw refuse(`it has more than ${manifestMaxBytes} octets`);
  return { folder: dirname(file), claimed: parseManifest(bytes) };
}

/** As JSON has it: octets in hex, keys in the manifest's own words. */
export function plainFields(fields: ManifestFields): Record<string, unknown> {
  return plain(fields) as Record<string, unknown>;
}

const renamed: Readonly<Record<string, string>> = {
  minimumMemoryMb: "min_ram_limit",
  defaultMemoryMb: "def_ram_limit",
  tmpfsMb: "tmpfs_size",
  minimumSizeMb: "min_size",
  defaultSizeMb: "def_size",
  maximumSizeMb: "max_size",
};

function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString("hex");
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).filter(([, entry]) => entry !== undefined);
  return Object.fromEntries(
    entries.map(([key, entry]) => [
      renamed[key] ?? key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      plain(entry),
    ]),
  );
}
