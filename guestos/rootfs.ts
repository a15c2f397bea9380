/**
 * Recipe -> root file system -> read-only image with its dm-verity hash tree, kept by content in the cache. Needs root (directly
 * or through sudo is the caller's matter), since the files of a Debian belong to several users.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { chmod, lstat, mkdir, readdir, rename, rm, symlink, utimes, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { debianSources } from "../board/debian/apt.ts";
import { cached, digestOf, fileDigest } from "../initramfs/cache.ts";
import { command } from "../initramfs/command.ts";
import { say } from "../initramfs/step.ts";
import type { DebianRecipe, ProgramRecipe, Recipe } from "./recipe.ts";

export type Verity = {
  /** Hex. */
  readonly rootHash: string;
  readonly salt: string;
  /** Octets of file system before the verity superblock. */
  readonly hashOffsetBytes: number;
  readonly dataBlocks: number;
};

export type RootImage = {
  readonly path: string;
  readonly sizeBytes: number;
  readonly sha256: string;
  readonly verity: Verity;
  /** Debian packages inside, "name version". */
  readonly packages: readonly string[];
};

/** Raised when this file makes other images of the same recipe. */
const format = "1";
/** 2026-01-01: time of every file in an image, so that the same packages give the same octets. */
const epochSeconds = 1_767_225_600;
const blockBytes = 4096;

/** Builds the image of a recipe, or finds it in the cache. `folder`: where the recipe's sources lie. */
export async function buildRootImage(name: string, folder: string, recipe: Recipe): Promise<RootImage> {
  const started = performance.now();
  const source = recipe.is === "program" ? await sourceDigest(folder, recipe) : "";
  const key = digestOf(format, name, JSON.stringify(recipe), source);
  const result = await cached("guest-image", key, async (target) => {
    await mkdir(target);
    const root = join(target, "root");
    const packages =
      recipe.is === "debian" ? await debianRoot(root, recipe) : await programRoot(root, folder, recipe);
    const image = join(target, "root.img");
    await makeImage(root, image, key);
    await rm(root, { recursive: true });
    const verity = await makeVerity(image, key);
    writeFileSync(join(target, "image.json"), JSON.stringify({ verity, packages }));
  });
  const path = join(result.path, "root.img");
  const { verity, packages } = JSON.parse(readFileSync(join(result.path, "image.json"), "utf8")) as Pick<
    RootImage,
    "verity" | "packages"
  >;
  const { size } = await lstat(path);
  say("GUEST", `root image of ${name}`, result.made ? performance.now() - started : undefined, size);
  return { path, sizeBytes: size, sha256: await fileDigest(path), verity, packages };
}

/** Debian by mmdebstrap from the archive that the host's apt uses; signatures are checked by apt as always. */
async function debianRoot(root: string, recipe: DebianRecipe): Promise<string[]> {
  const sources = await debianSources();
  await command(
    "mmdebstrap",
    [
      "--mode=root",
      "--variant=minbase",
      "--format=directory",
      `--include=${recipe.packages.join(",")}`,
      '--aptopt=Acquire::Languages "none"',
      '--aptopt=APT::Install-Recommends "false"',
      ...recipe.withoutPaths.map((pattern) => `--dpkgopt=path-exclude=${pattern}`),
      sources.suite,
      root,
      ...sources.lines,
    ],
    {
      env: { SOURCE_DATE_EPOCH: String(epochSeconds) },
      todo: "run the build as root and check that the Debian archive can be reached",
    },
  );
  for (const { path, content, mode } of recipe.files) await putFile(root, path, content, mode ?? 0o644);
  for (const [target, path] of recipe.links) {
    await mkdir(join(root, dirname(path)), { recursive: true });
    await rm(join(root, path), { force: true });
    await symlink(target, join(root, path));
  }
  for (const line of recipe.commands) await command("chroot", [root, "/bin/sh", "-ec", line]);
  const listed = await command("chroot", [root, "dpkg-query", "-W", "-f", "${Package} ${Version}\\n"]);
  await leaveNoTraces(root);
  return listed.toString().trim().split("\n").sort();
}

async function putFile(root: string, path: string, content: string, mode: number): Promise<void> {
  await mkdir(join(root, dirname(path)), { recursive: true });
  await writeFile(join(root, path), content);
  await chmod(join(root, path), mode);
}

/** Identities that each device makes for itself, caches, and where the packages came from on this machine. */
async function leaveNoTraces(root: string): Promise<void> {
  const gone = [
    "var/lib/apt/lists",
    "var/cache/apt",
    "var/cache/debconf",
    "var/log",
    "tmp",
    "var/tmp",
    "run",
  ];
  for (const path of gone) {
    for (const entry of await readdir(join(root, path)).catch(() => [])) {
      await rm(join(root, path, entry), { recursive: true, force: true });
    }
  }
  await mkdir(join(root, "var/log/journal"), { recursive: true });
  for (const name of await readdir(join(root, "etc/ssh")).catch(() => [])) {
    if (name.startsWith("ssh_host_")) await rm(join(root, "etc/ssh", name));
  }
  await writeFile(join(root, "etc/machine-id"), "");
  await rm(join(root, "etc/apt/sources.list.d"), { recursive: true, force: true });
  await writeFile(
    join(root, "etc/apt/sources.list"),
    "deb http://deb.debian.org/debian trixie main\ndeb http://deb.debian.org/debian-security trixie-security main\n",
  );
  await rm(join(root, "etc/resolv.conf"), { force: true });
  await writeFile(join(root, "etc/resolv.conf"), "");
}

async function programRoot(root: string, folder: string, recipe: ProgramRecipe): Promise<string[]> {
  for (const path of recipe.folders) await mkdir(join(root, path), { recursive: true });
  await writeFile(join(root, "etc/resolv.conf"), "");
  await command("gcc", [
    ...["-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-asynchronous-unwind-tables"],
    ...["-Os", "-s", "-Wall", "-Wextra", "-Werror", "-Wl,--build-id=none", "-Wl,-z,noexecstack"],
    ...[join(folder, recipe.source), "-o", join(root, recipe.path)],
  ]);
  return [];
}

const sourceDigest = async (folder: string, recipe: ProgramRecipe): Promise<string> =>
  digestOf(
    await fileDigest(join(folder, recipe.source)),
    await fileDigest(join(folder, "../../addon/shim/syscall.h")),
  );

/** EROFS, lz4hc: read lazily, half the first exec of squashfs. Padded to whole blocks for the hash tree. */
async function makeImage(root: string, image: string, key: string): Promise<void> {
  await utimes(root, epochSeconds, epochSeconds);
  const temporary = `${image}.tmp`;
  await command("mkfs.erofs", ["-zlz4hc,12", `-T${epochSeconds}`, `-U${uuidFrom(key)}`, temporary, root]);
  await command("fsck.erofs", [temporary]);
  const { size } = await lstat(temporary);
  await command("truncate", ["-s", String(Math.ceil(size / blockBytes) * blockBytes), temporary]);
  await rename(temporary, image);
}

/** Appends the hash tree. Salt and uuid come from the key, so that the same image gives the same root hash. */
async function makeVerity(image: string, key: string): Promise<Verity> {
  const { size } = await lstat(image);
  const salt = digestOf("verity salt", key);
  const output = await command("veritysetup", [
    "format",
    ...["--hash=sha256", `--salt=${salt}`, `--uuid=${uuidFrom(digestOf("verity", key))}`],
    ...["--data-block-size=4096", "--hash-block-size=4096", `--hash-offset=${size}`, image, image],
  ]);
  const rootHash = /^Root hash:\s+([0-9a-f]{64})$/m.exec(output.toString())?.[1];
  if (rootHash === undefined) throw new Error(`veritysetup printed no root hash: ${output}`);
  return { rootHash, salt, hashOffsetBytes: size, dataBlocks: size / blockBytes };
}

function uuidFrom(hex: string): string {
  return hex.slice(0, 32).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
