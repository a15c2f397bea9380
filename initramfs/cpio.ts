/**
 * Writer of the kernel's initramfs format: cpio "newc" (Documentation/driver-api/early-userspace/buffer-format.rst).
 * The same entries give the same octets: sorted by path, inode numbers counted, owner 0:0, one time for all.
 * Left out: hard links, checksums ("070702"), a trailer inside a stream.
 */
import { readFileSync } from "node:fs";

/** Octets, or the file to read them from when the archive is written. */
export type Content = Uint8Array | { readonly path: string };

type Common = { readonly path: string; readonly mode: number };
/** `path` is relative, without a leading slash; parents are added as directories with mode 0755. */
export type Entry =
  | (Common & { readonly is: "file"; readonly data: Content })
  | (Common & { readonly is: "directory" })
  | (Common & { readonly is: "link"; readonly target: string })
  | (Common & { readonly is: "character"; readonly major: number; readonly minor: number });

const typeBits = { file: 0o100000, directory: 0o040000, link: 0o120000, character: 0o020000 } as const;

export const file = (path: string, data: Content | string, mode = 0o644): Entry => ({
  is: "file",
  path,
  mode,
  data: typeof data === "string" ? Buffer.from(data) : data,
});
export const directory = (path: string, mode = 0o755): Entry => ({ is: "directory", path, mode });
export const link = (path: string, target: string): Entry => ({ is: "link", path, mode: 0o777, target });
export const character = (path: string, major: number, minor: number, mode = 0o600): Entry => ({
  is: "character",
  path,
  mode,
  major,
  minor,
});

/**
 * The archive as octets, a multiple of 512 long. Two archives may follow each other in one initramfs, each compressed
 * or not; a directory may be in both.
 * @param timeSeconds modification time of every entry (SOURCE_DATE_EPOCH)
 * @param firstInode archives of one initramfs count on from each other
 */
export function writeCpio(entries: readonly Entry[], timeSeconds: number, firstInode = 1): Buffer {
  const sorted = [...withParents(entries)].sort((a, b) => (a.path < b.path ? -1 : 1));
  const parts: Uint8Array[] = [];
  let inode = firstInode;
  for (const entry of sorted) {
    const data = contentOf(entry);
    parts.push(...record(entry.path, data, header(entry, data.length, inode++, timeSeconds)));
  }
  parts.push(...record("TRAILER!!!", Buffer.alloc(0), header(undefined, 0, 0, 0)));
  const archive = Buffer.concat(parts);
  return Buffer.concat([archive, Buffer.alloc(padding(archive.length, 512))]);
}

function contentOf(entry: Entry): Uint8Array {
  if (entry.is !== "file") return Buffer.from(entry.is === "link" ? entry.target : "");
  return entry.data instanceof Uint8Array ? entry.data : readFileSync(entry.data.path);
}

function withParents(entries: readonly Entry[]): Iterable<Entry> {
  const all = new Map<string, Entry>();
  for (const entry of entries) {
    if (all.has(entry.path)) throw new Error(`two entries for ${entry.path}`);
    all.set(entry.path, entry);
  }
  for (const { path } of entries) {
    const names = path.split("/");
    for (let depth = 1; depth < names.length; depth++) {
      const parent = names.slice(0, depth).join("/");
      if (!all.has(parent)) all.set(parent, directory(parent));
    }
  }
  return all.values();
}

/** Fields after the magic: ino mode uid gid nlink mtime filesize major minor rmajor rminor namesize check. */
function header(entry: Entry | undefined, sizeBytes: number, inode: number, timeSeconds: number): number[] {
  const mode = entry === undefined ? 0 : typeBits[entry.is] | entry.mode;
  const [major, minor] = entry?.is === "character" ? [entry.major, entry.minor] : [0, 0];
  return [inode, mode, 0, 0, entry?.is === "directory" ? 2 : 1, timeSeconds, sizeBytes, 0, 0, major, minor];
}

function record(path: string, data: Uint8Array, fields: readonly number[]): Uint8Array[] {
  const name = Buffer.from(`${path}\0`);
  const numbers = [...fields, name.length, 0].map((value) => value.toString(16).padStart(8, "0"));
  const head = Buffer.concat([Buffer.from(`070701${numbers.join("")}`), name]);
  return [head, Buffer.alloc(padding(head.length, 4)), data, Buffer.alloc(padding(data.length, 4))];
}

const padding = (length: number, unit: number): number => (unit - (length % unit)) % unit;
