/**
 * The Debian packages of an image, by lock file: exact versions and digests. Where the archive has dropped a locked
 * version (its security suite keeps only the newest), the present one is taken, verified by apt in the same way, said
 * in one line and recorded in build/debian-moved.json; a file that nobody verified is never used. What was used once
 * lies in the cache, so a build needs no network then.
 */
import { existsSync, readFileSync } from "node:fs";
import { readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { GimbalError } from "../../init/errors.ts";
import { cached, cacheRoot, digestOf, fileDigest, temporaryOf, writeAtomic } from "../../initramfs/cache.ts";
import { command } from "../../initramfs/command.ts";
import { say } from "../../initramfs/step.ts";
import { type Architecture, type Offer, PrivateApt } from "./apt.ts";

/** `real` is the package that a meta package stands for: "linux-image-cloud-amd64" only names the kernel of the day. */
export type Locked = {
  readonly version: string;
  readonly sha256: string;
  readonly sizeBytes: number;
  readonly real?: string;
};
export type Lock = Readonly<Record<Architecture, Readonly<Record<string, Locked>>>>;

/** A verified package: the .deb, and what it holds, unpacked and not to be written to. */
export type Package = {
  readonly name: string;
  readonly version: string;
  readonly sha256: string;
  readonly debPath: string;
  readonly folder: string;
};

const repository = join(import.meta.dirname, "../..");
export const lockPath = join(import.meta.dirname, "../debian.lock.json");
const movedPath = join(repository, "build/debian-moved.json");

/** The packages `names` for `architecture`, verified and unpacked, by the names asked for. */
export async function verifiedPackages(
  names: readonly string[],
  architecture: Architecture = "amd64",
): Promise<ReadonlyMap<string, Package>> {
  const locked = readLock(lockPath)[architecture] ?? {};
  const moved = existsSync(movedPath) ? (readLock(movedPath)[architecture] ?? {}) : {};
  const inCache = (name: string) =>
    [locked[name], moved[name]].find((choice) => choice !== undefined && existsSync(debPathOf(choice)));
  const missing = names.filter((name) => inCache(name) === undefined);
  const fetched = missing.length === 0 ? new Map() : await fetch(missing, architecture, locked);
  const packages = new Map<string, Package>();
  for (const name of names) packages.set(name, await unpacked(name, fetched.get(name) ?? inCache(name)));
  return packages;
}

function readLock(path: string): Lock {
  return existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : { amd64: {}, arm64: {} };
}

const debPathOf = (locked: Locked): string => join(cacheRoot, "deb", `${locked.sha256}.deb`);

/** Brings packages into the cache: the locked version where the archive still has it, else the present one. */
async function fetch(
  names: readonly string[],
  architecture: Architecture,
  lock: Readonly<Record<string, Locked>>,
): Promise<ReadonlyMap<string, Locked>> {
  const apt = await PrivateApt.open(architecture);
  await apt.update();
  const choices = new Map(await newest(apt, names));
  for (const name of names) {
    const locked = lock[name];
    if (locked === undefined || locked.sha256 === choices.get(name)?.sha256) continue;
    const wanted = versioned(name, locked);
    const offer = (await apt.show([wanted])).get(wanted);
    // apt's index is the signed word: a version under which it has other octets than were locked is not taken
    if (offer?.sha256 === locked.sha256) choices.set(name, locked);
  }
  for (const name of names) if (!choices.has(name)) throw absent(name);
  await download(apt, choices);
  for (const [name, choice] of choices) {
    if (choice.sha256 !== lock[name]?.sha256) await recordMove(name, architecture, choice, lock[name]);
  }
  return choices;
}

const versioned = (name: string, { real, version }: Locked): string => `${real ?? name}=${version}`;

/** What the archive offers now; a meta package without files of its own is followed to the kernel it depends on. */
export async function newest(
  apt: PrivateApt,
  names: readonly string[],
): Promise<ReadonlyMap<string, Locked>> {
  const offers = await apt.show(names);
  const reals = new Map<string, string>();
  for (const [name, { depends }] of offers) {
    const real = name.startsWith("linux-image-") ? /\blinux-image-[0-9][^ ,]*/.exec(depends)?.[0] : undefined;
    if (real !== undefined) reals.set(name, real);
  }
  const realOffers = reals.size === 0 ? new Map() : await apt.show([...reals.values()]);
  const found = new Map<string, Locked>();
  for (const [name, own] of offers) {
    const real = reals.get(name);
    const offer: Offer | undefined = real === undefined ? own : realOffers.get(real);
    if (offer !== undefined) found.set(name, lockedFrom(offer, real));
  }
  return found;
}

function absent(name: string): GimbalError {
  return new GimbalError("build-failed", {
    tried: "find",
    on: `the Debian package ${name}`,
    why: "the archive's lists have none, or could not be read",
    todo: "check the network; a warm cache needs none",
  });
}

function lockedFrom({ version, sha256, sizeBytes }: Offer, real: string | undefined): Locked {
  return { version, sha256, sizeBytes, ...(real === undefined ? {} : { real }) };
}

/** One download for all, then each file is compared with the digest chosen and takes its place in the cache. */
async function download(apt: PrivateApt, choices: ReadonlyMap<string, Locked>): Promise<void> {
  const missing = [...choices].filter(([, choice]) => !existsSync(debPathOf(choice)));
  if (missing.length === 0) return;
  const folder = temporaryOf(join(cacheRoot, "deb", "download"));
  const started = performance.now();
  try {
    await apt.download(
      missing.map(([name, choice]) => versioned(name, choice)),
      folder,
    );
    const digests = new Map<string, string>();
    for (const file of await readdir(folder))
      digests.set(await fileDigest(join(folder, file)), join(folder, file));
    for (const [name, choice] of missing) {
      const path = digests.get(choice.sha256);
      if (path === undefined) throw otherDigest(name, choice);
      await rename(path, debPathOf(choice));
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  const bytes = missing.reduce((sum, [, { sizeBytes }]) => sum + sizeBytes, 0);
  say("APT", `${missing.length} Debian packages, verified`, performance.now() - started, bytes);
}

function otherDigest(name: string, { version, sha256 }: Locked): GimbalError {
  return new GimbalError("build-failed", {
    tried: "use",
    on: `the Debian package ${name} ${version}`,
    why: `no file that came has its SHA-256 ${sha256}`,
  });
}

async function unpacked(name: string, locked: Locked): Promise<Package> {
  const debPath = debPathOf(locked);
  const digest = await fileDigest(debPath);
  if (digest !== locked.sha256) {
    await rm(debPath);
    throw new GimbalError("build-failed", {
      tried: "use",
      on: debPath,
      why: "it changed since it was verified",
      todo: "it was removed: run the build again",
    });
  }
  const { path } = await cached("unpacked", locked.sha256, async (folder) => {
    await command("dpkg-deb", ["-x", debPath, folder]);
  });
  return { name, version: locked.version, sha256: locked.sha256, debPath, folder: path };
}

async function recordMove(
  name: string,
  architecture: Architecture,
  choice: Locked,
  locked: Locked | undefined,
): Promise<void> {
  const was = locked === undefined ? "not in the lock file" : `locked ${locked.version}`;
  process.stderr.write(
    `  MOVED ${name}: ${was}, the archive has ${choice.version} (build/debian-moved.json)\n`,
  );
  const all = readLock(movedPath);
  const changed = { ...all, [architecture]: { ...all[architecture], [name]: choice } };
  await writeAtomic(movedPath, `${JSON.stringify(changed, undefined, 2)}\n`);
}

/** A short digest of the packages used, for keys of what is made from them. */
export function packagesDigest(packages: ReadonlyMap<string, Package>): string {
  return digestOf(...[...packages.values()].map((each) => `${each.name}=${each.sha256}`).sort());
}
