/**
 * Root file system -> read-only image: EROFS, padded to whole blocks, followed by its dm-verity hash tree. The same tree and seed
 * give the same octets. Needs no privilege: where the caller is not root, a user namespace stands in for it (packages uidmap and
 * an /etc/subuid entry, as Debian's adduser makes one).
 */
import { mkdir, readFile, rename, rm, stat, truncate } from "node:fs/promises";
import { join } from "node:path";
import { digestOf } from "../initramfs/cache.ts";
import { command } from "../initramfs/command.ts";
import { appendHashTree, type HashTree } from "../tool/verity-tree.ts";
import { asRoot } from "./as-root.ts";
import { listingFormat, parseListing, type Root } from "./check.ts";
import { readBack } from "./read-back.ts";

/** `tar`: with the owners and extended attributes that the files shall have. `folder`: all files become root's. */
export type RootSource = { readonly is: "tar" | "folder"; readonly path: string };

/** Raised when this file makes another image of the same tree. */
export const packFormat = "2";
/** 2026-01-01: time of every file in an image. */
export const imageEpochSeconds = 1_767_225_600;
const blockBytes = 4096;

/**
 * Writes the image to `path`, where it appears by rename.
 * @param seed hex digest that stands for the content: uuid and salt come from it
 * @param inspect sees the root before the image is made, and may refuse it
 * @throws GimbalError "build-failed"
 */
export async function packImage(
  source: RootSource,
  path: string,
  seed: string,
  inspect: (root: Root) => Promise<void>,
): Promise<HashTree> {
  const temporary = `${path}.tmp`;
  const root = source.is === "tar" ? `${path}.root` : source.path;
  try {
    const capable = source.is === "tar" ? await unpack(source.path, root) : [];
    await inspect(await rootIn(root, capable));
    await makeFileSystem(source, root, temporary, uuidFrom(digestOf("erofs", seed)));
    await readBack(temporary, root, `${path}.back`, source.is === "tar");
    const { size } = await stat(temporary);
    await truncate(temporary, Math.ceil(size / blockBytes) * blockBytes);
    const salt = digestOf("verity salt", seed);
    const tree = await appendHashTree(temporary, { salt, uuid: uuidFrom(digestOf("verity", seed)) });
    await rename(temporary, path);
    return tree;
  } finally {
    await rm(temporary, { force: true });
    if (source.is === "tar") await asRoot("rm", ["-rf", "--one-file-system", root]);
  }
}

/** Unpacks a tar with owners and attributes. @returns files with capabilities, which are as good as setuid */
async function unpack(tar: string, root: string): Promise<string[]> {
  const attributes = ["--xattrs", "--xattrs-include=*"];
  await mkdir(root);
  await asRoot("tar", [
    ...["--extract", "--numeric-owner", "--same-permissions", ...attributes],
    // the start of a container makes its own, and none can be made without privilege
    ...["--anchored", "--exclude=./dev/*", "--exclude=dev/*", "--file", tar, "--directory", root],
  ]);
  const listing = (await command("tar", ["--list", "-vv", ...attributes, "--file", tar])).toString();
  return listing
    .split("\n")
    .flatMap((line, index, lines) =>
      /^ {2}x: +\d+ security\.capability$/.test(line)
        ? [lines.slice(0, index).findLast((each) => !each.startsWith(" ")) ?? ""]
        : [],
    );
}

async function rootIn(folder: string, capable: readonly string[]): Promise<Root> {
  const listing = await asRoot("find", [folder, "-xdev", "-printf", listingFormat]);
  return {
    entries: parseListing(listing.toString()),
    capable,
    read: async (path) => await readFile(join(folder, path), "utf8").catch(() => undefined),
  };
}

async function makeFileSystem(source: RootSource, root: string, image: string, uuid: string): Promise<void> {
  // lz4hc is read about as fast as plain blocks; clusters of 16 KiB are a tenth smaller than those of 4, and no slower at a first exec
  const options = ["--quiet", "-zlz4hc,12", "-C16384", `-T${imageEpochSeconds}`, `-U${uuid}`];
  await asRoot("mkfs.erofs", [...options, ...(source.is === "folder" ? ["--all-root"] : []), image, root]);
}

/** RFC 9562, version 8: the digits are ours. */
function uuidFrom(hex: string): string {
  const [a, b, c, d, e] = [
    hex.slice(0, 8),
    hex.slice(8, 12),
    hex.slice(13, 16),
    hex.slice(17, 20),
    hex.slice(20, 32),
  ];
  return `${a}-${b}-8${c}-8${d}-${e}`;
}
