/**
 * Volumes of a container: for now directories on the encrypted disk, /data/containers/<uuid>/volumes/<name>, seen by
 * the guest through an id-mapped mount, so that the disk holds the guest's own ids (0, 33, 1000). Their size is the
 * disk's; encryption per volume comes with the storage issue.
 */
import { closeSync } from "node:fs";
import { mkdir, open, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { GimbalError, quoted } from "../errors.ts";
import type { Kernel } from "../kernel.ts";
import {
  AT_EMPTY_PATH,
  AT_FDCWD,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  MS_PRIVATE,
  OPEN_TREE_CLONE,
} from "../linux.ts";
import { hasErrno } from "./fd-stream.ts";

/** Makes the volume where it is not there yet, and returns it as a detached mount that the caller owns. */
export async function openVolume(
  kernel: Kernel,
  dataPath: string,
  uuid: string,
  name: string,
): Promise<number> {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(name)) {
    throw new GimbalError("bad-argument", {
      tried: "open the volume",
      on: quoted(name),
      why: "a volume's name has letters, digits, . _ and - only",
    });
  }
  const folder = join(dataPath, uuid, "volumes");
  const path = join(folder, name);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  try {
    await mkdir(path, { mode: 0o755 });
    for (const made of [folder, join(dataPath, uuid), dataPath]) await syncFolder(made);
  } catch (error) {
    if (!hasErrno(error, "EEXIST")) throw error;
  }
  const mount = kernel.openTree(AT_FDCWD, path, OPEN_TREE_CLONE);
  try {
    // /data is mounted nosuid and noexec, for PID 1's sake; a guest's own files may be programs.
    kernel.mountSetattr(mount, "", AT_EMPTY_PATH, {
      set: MOUNT_ATTR_NODEV,
      clear: MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC,
      propagation: MS_PRIVATE,
    });
    return mount;
  } catch (error) {
    closeSync(mount);
    throw error;
  }
}

async function syncFolder(path: string): Promise<void> {
  await using handle = await open(path, "r");
  await handle.sync();
}

/**
 * Deletes a tree whose names and depth a guest chose: nothing is followed, and what lies deep is moved up first, since
 * a path of more than 4,095 octets cannot be named. Needs no free block.
 */
export async function deleteTree(path: string): Promise<void> {
  try {
    await rm(path, { recursive: true, force: true });
    return;
  } catch (error) {
    if (!hasErrno(error, "ENAMETOOLONG")) throw error;
  }
  await flatten(path, path, { next: 0 });
  await deleteTree(path);
}

const depthBytes = 2048;

async function flatten(root: string, folder: string, name: { next: number }): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (!entry.isDirectory()) continue;
    const path = join(folder, entry.name);
    if (path.length - root.length < depthBytes) {
      await flatten(root, path, name);
      continue;
    }
    const top = join(root, `.deleting-${name.next++}`);
    await rename(path, top);
    await flatten(root, top, name);
  }
}
