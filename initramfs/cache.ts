/**
 * Build results kept by content, outside the checkout: ${XDG_CACHE_HOME:-~/.cache}/gimbal/<kind>/<key>. A key is the
 * digest of everything the result depends on, so nothing here is ever stale and a fresh clone finds what another made.
 * A result appears by rename. Of each kind only the results used last are kept. Removing the folder is always safe.
 */
import { createHash } from "node:crypto";
import { createReadStream, existsSync, mkdirSync, readFileSync } from "node:fs";
import { cp, mkdir, readdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, dirname, join } from "node:path";

export const cacheRoot = join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "gimbal");

/** SHA-256 in hex over the parts, each with its length, so that no two lists of parts give one input. */
export function digestOf(...parts: readonly (string | Uint8Array)[]): string {
  const hash = createHash("sha256");
  for (const part of parts) {
    const bytes = typeof part === "string" ? Buffer.from(part) : part;
    hash.update(`${bytes.length}:`).update(bytes);
  }
  return hash.digest("hex");
}

const known = new Map<string, string>(); // identity of a file -> SHA-256
const knownPath = join(cacheRoot, "digests.json");
let knownChanged = false;
let knownLoaded = false;

/** SHA-256 of a file in hex. Remembered by device, inode, size and times, so that a second build reads no big file. */
export async function fileDigest(path: string): Promise<string> {
  loadKnown();
  const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
  const identity = [dev, ino, size, mtimeNs, ctimeNs].join(":");
  const remembered = known.get(identity);
  if (remembered !== undefined) return remembered;
  const digest = await streamDigest(path);
  // A file written in this very moment may change again without its times changing.
  if (Date.now() - Number(mtimeNs / 1_000_000n) > 2000) {
    known.set(identity, digest);
    knownChanged = true;
  }
  return digest;
}

async function streamDigest(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk);
  return hash.digest("hex");
}

function loadKnown(): void {
  if (knownLoaded) return;
  knownLoaded = true;
  try {
    const entries: unknown = JSON.parse(readFileSync(knownPath, "utf8"));
    if (!Array.isArray(entries)) return;
    for (const [identity, digest] of entries) known.set(String(identity), String(digest));
  } catch {
    // absent or damaged: every file is read again
  }
}

/** Writes what `fileDigest` learnt. Called once at the end of a build; losing it costs only time. */
export async function saveDigests(): Promise<void> {
  if (!knownChanged) return;
  await writeAtomic(knownPath, JSON.stringify([...known].slice(-4000)));
  knownChanged = false;
}

/** Writes a file so that it is there whole or not at all. */
export async function writeAtomic(path: string, data: string | Uint8Array, mode = 0o644): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const temporary = temporaryOf(path);
  await writeFile(temporary, data, { mode });
  await rename(temporary, path);
}

/** A name beside `path` for the unfinished result; it keeps the extension, as some tools look at it. */
export function temporaryOf(path: string): string {
  return join(
    dirname(path),
    `.tmp-${process.pid}-${Math.random().toString(36).slice(2, 8)}-${path.split("/").at(-1)}`,
  );
}

export type Cached = { readonly path: string; readonly made: boolean };

/** The file or folder of kind `kind` made from inputs with digest `key`; `make` writes it to the path it is given. */
export async function cached(
  kind: string,
  key: string,
  make: (temporaryPath: string) => Promise<void>,
): Promise<Cached> {
  const path = join(cacheRoot, kind, key);
  if (existsSync(path)) {
    await markUsed(path);
    return { path, made: false };
  }
  mkdirSync(dirname(path), { recursive: true });
  const temporary = temporaryOf(path);
  try {
    await make(temporary);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    // Another build made the same folder in the meantime: same key, same content.
    if (existsSync(path) && isNotEmpty(error)) return { path, made: false };
    throw error;
  }
  await markUsed(path);
  await forgetUnused(kind);
  return { path, made: true };
}

/** How many results of a kind stay: two boards and a few versions of each. Packages are small and many. */
const keptDefault = 10;
const kept: Readonly<Record<string, number>> = { unpacked: 100, executable: 4 };
/** Another build may be using what is younger. */
const keptMs = 3_600_000;

/** A stamp beside the result: its own times belong to its identity in `fileDigest`. */
const stampOf = (path: string): string => join(dirname(path), `.used-${basename(path)}`);

async function markUsed(path: string): Promise<void> {
  await writeFile(stampOf(path), "");
}

async function forgetUnused(kind: string): Promise<void> {
  const folder = join(cacheRoot, kind);
  const results: { path: string; usedMs: number }[] = [];
  for (const name of await readdir(folder)) {
    if (name.startsWith(".used-")) continue;
    const path = join(folder, name);
    // Without a stamp: unfinished (.tmp-...), or of an older version of this file
    const { mtimeMs } = await stat(stampOf(path)).catch(() => stat(path));
    results.push({ path, usedMs: mtimeMs });
  }
  results.sort((a, b) => b.usedMs - a.usedMs);
  for (const { path, usedMs } of results.slice(kept[kind] ?? keptDefault)) {
    if (Date.now() - usedMs < keptMs) continue;
    await rm(path, { recursive: true, force: true });
    await rm(stampOf(path), { force: true });
  }
}

function isNotEmpty(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code;
  return code === "ENOTEMPTY" || code === "EEXIST";
}

/** Copies a result to its place under build/, by rename; does nothing when the same octets are there already. */
export async function place(from: string, to: string): Promise<void> {
  if (existsSync(to) && (await fileDigest(to)) === (await fileDigest(from))) return;
  await mkdir(dirname(to), { recursive: true });
  const temporary = temporaryOf(to);
  await cp(from, temporary, { recursive: true, preserveTimestamps: true });
  await rename(temporary, to);
}
