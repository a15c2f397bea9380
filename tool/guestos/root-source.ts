/** What --rootfs and --image name, as something that becomes an image, and a digest that stands for its content. */

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { imageEpochSeconds, packFormat, type RootSource } from "../../guestos/pack.ts";
import { GimbalError } from "../../init/errors.ts";
import { digestOf } from "../../initramfs/cache.ts";
import { command } from "../../initramfs/command.ts";
import { checkTar } from "./tar-check.ts";

export type PreparedSource = { readonly source: RootSource; readonly seed: string };

/** Sorted, one time for all: the same files give the same archive. */
const sameAlways = [
  ...["--create", "--sort=name", `--mtime=@${imageEpochSeconds}`, "--numeric-owner", "--format=posix"],
  "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
];

/**
 * A tar file is checked; a folder becomes a tar as root, so that owners and attributes are kept, else all its files become root's.
 * @param work folder for what is made on the way
 * @throws {GimbalError} "build-failed"
 */
export async function prepareSource(path: string, work: string): Promise<PreparedSource> {
  const found = await stat(path).catch((cause: unknown) => {
    throw new GimbalError("build-failed", { tried: "read", on: path, why: "it is not there" }, cause);
  });
  if (!found.isDirectory()) {
    await checkTar(path);
    return { source: { is: "tar", path }, seed: seedOf("tar", await digest(createReadStream(path))) };
  }
  if (process.getuid?.() !== 0) {
    const owners = ["--owner=0", "--group=0"];
    const archive = spawn("tar", [...sameAlways, ...owners, "--file=-", "--directory", path, "."], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    return { source: { is: "folder", path }, seed: seedOf("folder", await digest(archive.stdout)) };
  }
  const tar = join(work, "root.tar");
  const attributes = ["--xattrs", "--xattrs-include=*", "--one-file-system"];
  await command("tar", [...sameAlways, ...attributes, "--file", tar, "--directory", path, "."]);
  await checkTar(tar);
  return { source: { is: "tar", path: tar }, seed: seedOf("tar", await digest(createReadStream(tar))) };
}

const seedOf = (kind: string, content: string): string =>
  digestOf("gimbal guestos build", packFormat, kind, content);

async function digest(stream: AsyncIterable<Uint8Array>): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of stream) hash.update(chunk);
  return hash.digest("hex");
}
