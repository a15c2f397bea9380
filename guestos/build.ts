/**
 * `node guestos/build.ts [x64] [--update-locks] [NAME...]`: the example guests into build/guestos/<name>-<version>/{manifest.cose,root.img}.
 * Images are kept by content in the cache, so that a build whose inputs did not change needs no network. PRODUCTION=1 and GIMBAL_KEYS
 * as for the boards (board/keys.ts).
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdir, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { debianSources } from "../board/debian/apt.ts";
import { type Keys, keysForBuild } from "../board/keys.ts";
import { GimbalError, reasonOf } from "../init/errors.ts";
import {
  cached,
  cacheRoot,
  digestOf,
  fileDigest,
  place,
  saveDigests,
  temporaryOf,
} from "../initramfs/cache.ts";
import { megabytes, say } from "../initramfs/step.ts";
import type { HashTree } from "../tool/verity-tree.ts";
import { c0 } from "./c0/recipe.ts";
import { checkRoot, executablesOf, type Root } from "./check.ts";
import { debian } from "./debian/recipe.ts";
import { hello } from "./hello/recipe.ts";
import { movedPackages, type PackageSet, readLock, readMoved, recordMoved, writeLock } from "./lock.ts";
import { imageEpochSeconds, packFormat, packImage } from "./pack.ts";
import type { DebianRecipe, ProgramRecipe, Recipe } from "./recipe.ts";
import { signedManifest } from "./release.ts";
import { debianRoot, programRoot } from "./rootfs.ts";
import { guestosSigner, signRootHash } from "./signer.ts";
import { type GuestosSource, mountPointsOf, readSource } from "./source.ts";

const repository = join(import.meta.dirname, "..");
const output = join(repository, "build/guestos");

type RootImage = {
  readonly path: string;
  readonly tree: HashTree;
  readonly upstreamVersion: string;
};

type Guest = {
  readonly name: string;
  readonly folder: string;
  readonly source: GuestosSource;
  readonly recipe: Recipe;
};

const recipes = (development: boolean): Record<string, Recipe> => ({ c0: c0(development), debian, hello });

async function main(args: readonly string[]): Promise<void> {
  const names = args.filter((arg) => !arg.startsWith("-") && arg !== "x64");
  const updateLocks = args.includes("--update-locks");
  const keys = await keysForBuild();
  const all = recipes(keys.development);
  const unknown = names.find((name) => all[name] === undefined);
  if (unknown !== undefined) {
    throw new GimbalError("build-failed", {
      tried: "build",
      on: `the guest ${unknown}`,
      why: "there is none of that name",
      todo: `choose from: ${Object.keys(all).join(", ")}`,
    });
  }
  const kept: string[] = [];
  for (const [name, recipe] of Object.entries(all)) {
    if (names.length > 0 && !names.includes(name)) continue;
    const folder = join(import.meta.dirname, name);
    kept.push(
      await buildGuest({ name, folder, recipe, source: await readSource(folder) }, keys, updateLocks),
    );
  }
  await removeOthers(kept);
  await saveDigests();
}

/** @returns the folder's name, <name>-<version> */
async function buildGuest(guest: Guest, keys: Keys, updateLock: boolean): Promise<string> {
  const started = performance.now();
  const { image, made } =
    guest.recipe.is === "debian"
      ? await debianImage(guest, guest.recipe, updateLock)
      : await programImage(guest, guest.recipe);
  const { size } = await stat(image.path);
  checkSize(guest, size);
  const built = {
    sizeBytes: size,
    sha256: await fileDigest(image.path),
    tree: image.tree,
    signature: await signRootHash(keys, image.tree.rootHash),
  };
  const signed = await signedManifest(guest.source, keys, await guestosSigner(keys), {
    upstreamVersion: image.upstreamVersion,
    images: new Map([["root.img", built]]),
  });
  const id = `${guest.name}-${signed.version}`;
  await mkdir(join(output, id), { recursive: true });
  await place(image.path, join(output, id, "root.img"));
  await place(signed.path, join(output, id, "manifest.cose"));
  say("GUEST", `${id}, signed`, made ? performance.now() - started : undefined, size);
  return id;
}

function checkSize({ name, recipe }: Guest, sizeBytes: number): void {
  if (sizeBytes <= recipe.limits.imageBytes) return;
  throw new GimbalError("build-failed", {
    tried: "use",
    on: `the image of ${name}`,
    why: `it has ${megabytes(sizeBytes)} MB, ${megabytes(recipe.limits.imageBytes)} MB are allowed`,
    todo: `leave something out in guestos/${name}/recipe.ts`,
  });
}

type Made = { readonly image: RootImage; readonly made: boolean };

/** The image with the locked packages, or with those that the archive has instead, from the cache or built now. */
async function debianImage(guest: Guest, recipe: DebianRecipe, updateLock: boolean): Promise<Made> {
  const { name } = guest;
  const locked = readLock(name);
  const seedOf = async (packages: PackageSet) =>
    digestOf(
      ...common,
      JSON.stringify(guest.recipe),
      await treesDigest(guest.folder, recipe),
      JSON.stringify(packages),
    );
  for (const candidate of updateLock ? [] : [locked, readMoved(name)]) {
    const path = candidate && join(cacheRoot, "guest-image", await seedOf(candidate));
    if (path !== undefined && existsSync(path)) return { image: readImage(path), made: false };
  }
  const work = temporaryOf(join(cacheRoot, "guest-image", `${name}-work`));
  await mkdir(work, { recursive: true });
  try {
    const present = await debianRoot(work, guest.folder, recipe, updateLock ? {} : locked);
    const moved = movedPackages(name, locked, present);
    if (updateLock) {
      await writeLock(name, present);
      say("LOCK", `${name}: ${moved.length} packages changed, ${Object.keys(present).length} in all`, 0);
    } else if (moved.length > 0) {
      await recordMoved(name, present);
      say(
        "MOVED",
        `${name}: ${moved.length} packages are not as locked: ${moved.slice(0, 4).join(" ")}${moved.length > 4 ? " ..." : ""}`,
        0,
      );
    }
    const result = await pack(guest, { is: "tar", path: join(work, "root.tar") }, await seedOf(present));
    return { image: readImage(result.path), made: true };
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function programImage(guest: Guest, recipe: ProgramRecipe): Promise<Made> {
  const sources = [join(guest.folder, recipe.source), join(repository, "addon/shim/syscall.h")];
  const seed = digestOf(...common, JSON.stringify(recipe), ...(await Promise.all(sources.map(fileDigest))));
  const known = join(cacheRoot, "guest-image", seed);
  if (existsSync(known)) return { image: readImage(known), made: false };
  const root = temporaryOf(join(cacheRoot, "guest-image", `${guest.name}-root`));
  try {
    await programRoot(root, guest.folder, recipe);
    const result = await pack(guest, { is: "folder", path: root }, seed);
    return { image: readImage(result.path), made: true };
  } finally {
    await rm(root, { recursive: true, force: true });
  }
}

/** Raised when the code here or in rootfs.ts makes another root of the same recipe. */
const common = ["1", packFormat, String(imageEpochSeconds)];

async function pack(guest: Guest, source: { is: "tar" | "folder"; path: string }, seed: string) {
  return await cached("guest-image", seed, async (target) => {
    await mkdir(target);
    let upstreamVersion = "";
    const tree = await packImage(source, join(target, "root.img"), seed, async (root) => {
      await inspect(guest, root);
      const version = (await root.read("/etc/debian_version"))?.trim();
      if (version !== undefined) upstreamVersion = `Debian ${version}`;
    });
    await writeFile(join(target, "image.json"), JSON.stringify({ tree, upstreamVersion }));
  });
}

async function inspect({ name, recipe, source }: Guest, root: Root): Promise<void> {
  const { mirror, securityMirror } = await debianSources();
  const own = [mirror, securityMirror].map((uri) => new URL(uri).hostname);
  await checkRoot(root, {
    name,
    recipe,
    mountPoints: mountPointsOf(source),
    hostNames: own.filter((host) => host !== "deb.debian.org"),
  });
  say("CHECK", `${name}: ${root.entries.length} files, ${executablesOf(root).length} executables`, 0);
}

function readImage(path: string): RootImage {
  return { path: join(path, "root.img"), ...JSON.parse(readFileSync(join(path, "image.json"), "utf8")) };
}

async function treesDigest(folder: string, { trees }: DebianRecipe): Promise<string> {
  const parts: string[] = [];
  for (const tree of trees) {
    for (const entry of readdirSync(join(folder, tree), { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const path = join(entry.parentPath, entry.name);
      const { mode } = await stat(path);
      parts.push(`${path.slice(folder.length)} ${(mode & 0o111) === 0 ? "" : "x"} ${await fileDigest(path)}`);
    }
  }
  return digestOf(...parts.sort());
}

/** Older versions and guests that are no more go, or they would be put on the device. */
async function removeOthers(kept: readonly string[]): Promise<void> {
  const names = new Set(kept.map((id) => id.replace(/-\d+$/, "")));
  for (const id of readdirSync(output)) {
    const mine =
      names.has(id.replace(/-\d+$/, "")) || !existsSync(join(import.meta.dirname, id.replace(/-\d+$/, "")));
    if (mine && !kept.includes(id)) await rm(join(output, id), { recursive: true });
  }
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof GimbalError)) throw error;
  process.stderr.write(`${reasonOf(error)}\n`);
  process.exitCode = 1;
}
