/** The images of a GuestOS on their way into the store: read once, proved while they are copied, memory bounded. */
import { createHash } from "node:crypto";
import { lstat, open, statfs } from "node:fs/promises";
import { join } from "node:path";
import { type ErrorCode, GimbalError, quoted } from "../errors.ts";
import type { StoredMount } from "./manifest-format.ts";
import { folderSource, type Source } from "./source.ts";

const chunkBytes = 1 << 20;
const mebibyte = 1 << 20;

/** Copies one image and proves on the way that it is the one that the manifest means. On the disk when this resolves. */
export async function copyImage(
  source: Source,
  folder: string,
  mount: StoredMount,
  id: string,
): Promise<void> {
  await using to = await open(join(folder, mount.imageFile), "wx", 0o600);
  let written = 0;
  await readImage(source, mount, id, async (chunk) => {
    for (let at = 0; at < chunk.length; ) {
      at += (await to.write(chunk, at, chunk.length - at, written + at)).bytesWritten;
    }
    written += chunk.length;
  });
  await to.sync();
}

/** Reads an installed image as a whole and proves that it is the one that the manifest means. */
export async function proveImage(folder: string, mount: StoredMount, id: string): Promise<void> {
  await readImage(folderSource(folder), mount, id, async () => {});
}

async function readImage(
  source: Source,
  mount: StoredMount,
  id: string,
  take: (chunk: Uint8Array) => Promise<void>,
): Promise<void> {
  await using from = await source.open(mount.imageFile);
  if (from.sizeBytes !== mount.imageSize) throw truncated(id, mount, from.sizeBytes);
  const hash = createHash("sha256");
  const buffer = new Uint8Array(chunkBytes);
  for (let done = 0; done < mount.imageSize; ) {
    const count = await from.read(buffer.subarray(0, Math.min(chunkBytes, mount.imageSize - done)), done);
    if (count === 0) throw truncated(id, mount, done);
    hash.update(buffer.subarray(0, count));
    await take(buffer.subarray(0, count));
    done += count;
  }
  if (!hash.digest().equals(mount.imageSha256))
    throw altered(id, `the digest of its image ${mount.imageFile} is not the one in the manifest`);
}

/** What is cheap enough for each boot and each start: the image is there and as long as the manifest says. */
export async function checkSize(folder: string, mount: StoredMount, id: string): Promise<void> {
  const found = await lstat(join(folder, mount.imageFile)).catch(() => undefined);
  if (!found?.isFile()) throw altered(id, `its image ${mount.imageFile} is missing`);
  if (found.size !== mount.imageSize) throw truncated(id, mount, found.size);
}

/** Before the first write, as a device with a full disk is a nuisance. @throws {GimbalError} "disk-full" */
export async function checkSpace(folder: string, images: readonly StoredMount[], id: string): Promise<void> {
  const wanted = images.reduce((sum, { imageSize }) => sum + imageSize, mebibyte);
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize >= wanted) return;
  throw diskFull(id, `it takes ${inMb(wanted)} MB, and ${inMb(bavail * bsize)} MB are free`);
}

export function withDiskFull(error: unknown, id: string): unknown {
  const isFull =
    error instanceof Error && "code" in error && ["ENOSPC", "EDQUOT"].includes(String(error.code));
  return isFull ? diskFull(id, "there is no room left on the disk", error) : error;
}

export function altered(id: string, why: string): GimbalError {
  return refuse("guestos-altered", id, why);
}

function truncated(id: string, mount: StoredMount, size: number): GimbalError {
  const why = `its image ${mount.imageFile} has ${size} octets, not ${mount.imageSize}`;
  return refuse("image-truncated", id, why);
}

function refuse(code: ErrorCode, id: string, why: string): GimbalError {
  return new GimbalError(code, {
    tried: "use",
    on: `the GuestOS ${quoted(id)}`,
    why,
    todo: "get and install it again",
  });
}

function diskFull(id: string, why: string, cause?: unknown): GimbalError {
  const todo = "remove a container or a GuestOS";
  return new GimbalError("disk-full", { tried: "install", on: `the GuestOS ${id}`, why, todo }, cause);
}

const inMb = (bytes: number): string => (bytes / 1e6).toFixed(1);
