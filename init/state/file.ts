/**
 * Crash-safe files, DESIGN section 4: a state change is visible whole or not at all, whatever instant the power goes.
 * Write to a temporary file beside the target, fsync it, rename it over, fsync the directory. In a stopped process or
 * after a power cut only a file named `.<name>.tmp-*` can stay; `removeLeftovers` takes it away at boot.
 */
import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import * as fs from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { type ErrorCode, GimbalError, quoted, reasonOf } from "../errors.ts";

/** The part of a file handle used here. */
export type StateHandle = {
  write(bytes: Uint8Array, offset: number, length: number): Promise<{ bytesWritten: number }>;
  read(bytes: Uint8Array, offset: number, length: number, position: number): Promise<{ bytesRead: number }>;
  sync(): Promise<void>;
  close(): Promise<void>;
};

/** The calls used here, so that a test can make the n-th one fail. */
export type StateFiles = {
  open(path: string, flags: number, mode?: number): Promise<StateHandle>;
  rename(from: string, to: string): Promise<void>;
  link(from: string, to: string): Promise<void>;
  unlink(path: string): Promise<void>;
  readdir(path: string): Promise<string[]>;
};

export type StateRead = { readonly is: "bytes"; readonly bytes: Uint8Array } | { readonly is: "absent" };

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY } = constants;
const temporary = /^\..+\.tmp-[0-9a-f]{16}$/;

/**
 * Writes `path` so that a reader finds the old octets or the new ones, whole. When this resolves, the new ones are on
 * the disk. Throws "disk-full" or "state-failed"; then the old file is as it was and no temporary file stays.
 */
export async function writeFileAtomic(
  path: string,
  bytes: Uint8Array,
  mode = 0o600,
  files: StateFiles = fs,
): Promise<void> {
  const directory = dirname(path);
  const name = join(directory, `.${basename(path)}.tmp-${randomBytes(8).toString("hex")}`);
  try {
    await writeWhole(files, name, bytes, mode);
    await files.rename(name, path);
  } catch (error) {
    await ignoring("ENOENT", files.unlink(name)).catch(() => undefined); // the first error is the one that counts
    throw failed("write", path, error);
  }
  // From here on the new octets are visible. Whoever hears of an error writes again: that is harmless.
  await syncDirectory(files, directory).catch((error: unknown) => {
    throw failed("write", path, error);
  });
}

/** Reads at most `maxBytes`. Throws "state-too-large" or "state-failed". */
export async function readStateFile(
  path: string,
  maxBytes: number,
  files: StateFiles = fs,
): Promise<StateRead> {
  try {
    const handle = await files.open(path, O_RDONLY | O_NOFOLLOW);
    try {
      return { is: "bytes", bytes: await readWhole(handle, path, maxBytes) };
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (codeOf(error) === "ENOENT") return { is: "absent" };
    throw failed("read", path, error);
  }
}

export type SetAside = {
  /** Where it lies now. */
  readonly path: string;
  /** For the log and the screen: what was set aside, where, why. */
  readonly sentence: string;
};

/**
 * Puts a file that cannot be understood out of the way, as `<path>.bad-<n>`: it is kept for a person, never overwritten.
 * The caller reports the sentence. Throws "state-failed".
 */
export async function setAside(path: string, why: string, files: StateFiles = fs): Promise<SetAside> {
  try {
    const to = await firstFree(path, files);
    await files.unlink(path);
    await syncDirectory(files, dirname(path));
    return { path: to, sentence: `set aside ${quoted(path)} as ${quoted(basename(to))}: ${why}` };
  } catch (error) {
    throw failed("set aside", path, error);
  }
}

/** Removes a file for good, whole or not at all; one that is absent is fine. Works on a full disk. */
export async function removeFile(path: string, files: StateFiles = fs): Promise<void> {
  try {
    await ignoring("ENOENT", files.unlink(path));
    await syncDirectory(files, dirname(path));
  } catch (error) {
    throw failed("remove", path, error);
  }
}

/** Removes what interrupted writes left in `directory` (not below it). Returns the names; an absent directory has none. */
export async function removeLeftovers(directory: string, files: StateFiles = fs): Promise<readonly string[]> {
  try {
    const names = await files.readdir(directory).catch((error: unknown) => {
      if (codeOf(error) === "ENOENT") return [];
      throw error;
    });
    const leftovers = names.filter((name) => temporary.test(name));
    for (const name of leftovers) await ignoring("ENOENT", files.unlink(join(directory, name)));
    if (leftovers.length > 0) await syncDirectory(files, directory);
    return leftovers;
  } catch (error) {
    throw failed("remove leftovers in", directory, error);
  }
}

/** Makes a rename, an unlink or a new name in `directory` survive a power cut. */
export async function syncDirectory(files: StateFiles, directory: string): Promise<void> {
  const handle = await files.open(directory, O_RDONLY | O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function writeWhole(files: StateFiles, path: string, bytes: Uint8Array, mode: number): Promise<void> {
  const handle = await files.open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode);
  try {
    for (let at = 0; at < bytes.length; ) {
      const { bytesWritten } = await handle.write(bytes, at, bytes.length - at);
      at += bytesWritten;
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Reads to the end of the file, whatever its stat says: a length is only known when a read returns nothing. */
async function readWhole(handle: StateHandle, path: string, maxBytes: number): Promise<Uint8Array> {
  let buffer = new Uint8Array(Math.min(maxBytes + 1, 65_536));
  let length = 0;
  for (;;) {
    const { bytesRead } = await handle.read(buffer, length, buffer.length - length, length);
    if (bytesRead === 0) return buffer.subarray(0, length);
    length += bytesRead;
    if (length > maxBytes)
      throw new GimbalError("state-too-large", {
        tried: "read",
        on: path,
        why: `it has more than ${maxBytes} octets`,
      });
    if (length === buffer.length) {
      const larger = new Uint8Array(Math.min(maxBytes + 1, buffer.length * 4));
      larger.set(buffer);
      buffer = larger;
    }
  }
}

/** Links `path` to its first free bad name: link(2) refuses an existing one, so nothing set aside is ever lost. */
async function firstFree(path: string, files: StateFiles): Promise<string> {
  for (let number = 1; number <= 1000; number++) {
    const to = `${path}.bad-${number}`;
    try {
      await files.link(path, to);
      return to;
    } catch (error) {
      if (codeOf(error) !== "EEXIST") throw error;
    }
  }
  throw new Error("a thousand files were set aside already");
}

async function ignoring(code: string, work: Promise<void>): Promise<void> {
  await work.catch((error: unknown) => {
    if (codeOf(error) !== code) throw error;
  });
}

const codeOf = (error: unknown) => (error instanceof Error && "code" in error ? error.code : undefined);

function failed(tried: string, path: string, error: unknown): GimbalError {
  if (error instanceof GimbalError) return error;
  const full = ["ENOSPC", "EDQUOT"].includes(String(codeOf(error)));
  const code: ErrorCode = full ? "disk-full" : "state-failed";
  const why = full ? "no space is left" : quoted(reasonOf(error));
  const todo = full ? { todo: "remove what is not needed, then repeat" } : {};
  return new GimbalError(code, { tried, on: quoted(path), why, ...todo }, error);
}
