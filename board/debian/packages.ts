/**
 * The Debian packages of an image, by lock file: exact versions and digests. Where the archive has dropped a locked
 * version (its security suite keeps only the newest), the present one is taken, verified by apt in the same way, said
 * in one line and recorded in build/debian-moved.json; a file that nobody verified is never used. What was used once
 * lies in the cache, so a build needs no network then.
 */
import { existsSync, readFileSync } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { GimbalError } from "../../init/errors.ts";
import { cached, cacheRoot, digestOf, fileDigest, temporaryOf, writeAtomic } from "../../initramfs/cache.ts";
import { command } from "../../initramfs/command.ts";
import { step } from "../../initramfs/step.ts";
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
  const packages = new Map<string, Package>();
  for (const name of names) packages.set(name, await verifiedPackage(name, architecture));
  return packages;
}

async function verifiedPackage(name: string, architecture: Architecture): Promise<Package> {
  const locked = readLock(lockPath)[architecture]?.[name];
  const moved = existsSync(movedPath) ? readLock(movedPath)[architecture]?.[name] : undefined;
  for (const choice of [locked, moved]) {
    if (choice !== undefined && existsSync(debPathOf(choice))) return unpacked(name, choice);
  }
  const { choice, isMoved } = await fetched(name, architecture, locked);
  if (isMoved) await recordMove(name, architecture, choice, locked);
  return unpacked(name, choice);
}

function readLock(path: string): Lock {
  return existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : { amd64: {}, arm64: {} };
}

const debPathOf = (locked: Locked): string => join(cacheRoot, "deb", `${locked.sha256}.deb`);

/** Brings a package into the cache: the locked version where the archive still has it, else the present one. */
async function fetched(
  name: string,
  architecture: Architecture,
  locked: Locked | undefined,
): Promise<{ choice: Locked; isMoved: boolean }> {
  const apt = await PrivateApt.open(architecture);
  await apt.update();
  if (locked !== undefined) {
    const offer = await apt.show(locked.real ?? name, locked.version);
    // The archive never changes a version's octets; where it seems to, apt's own index is the signed word: take the newest.
    if (offer?.sha256 === locked.sha256) {
      await download(apt, locked.real ?? name, locked);
      return { choice: locked, isMoved: false };
    }
  }
  const choice = await newest(apt, name);
  if (!existsSync(debPathOf(choice))) await download(apt, choice.real ?? name, choice);
  return { choice, isMoved: true };
}

/** What the archive offers now; a meta package without files of its own is followed to the kernel it depends on. */
export async function newest(apt: PrivateApt, name: string): Promise<Locked> {
  const offer = await apt.show(name);
  const real = /\blinux-image-[0-9][^ ,]*/.exec(
    name.startsWith("linux-image-") ? (offer?.depends ?? "") : "",
  )?.[0];
  const final = real === undefined ? offer : await apt.show(real);
  if (final === undefined) {
    throw new GimbalError("build-failed", {
      tried: "find",
      on: `the Debian package ${name}`,
      why: "the archive's lists have none, or could not be read",
      todo: "check the network; a warm cache needs none",
    });
  }
  return lockedFrom(final, real);
}

function lockedFrom({ version, sha256, sizeBytes }: Offer, real: string | undefined): Locked {
  return { version, sha256, sizeBytes, ...(real === undefined ? {} : { real }) };
}

async function download(apt: PrivateApt, name: string, locked: Locked): Promise<void> {
  await step(
    "APT",
    `${name} ${locked.version}`,
    async () => {
      const target = debPathOf(locked);
      const folder = temporaryOf(target);
      await mkdir(folder, { recursive: true });
      try {
        const path = await apt.download(name, locked.version, folder);
        const digest = await fileDigest(path);
        if (digest !== locked.sha256) {
          throw new GimbalError("build-failed", {
            tried: "use",
            on: `the Debian package ${name} ${locked.version}`,
            why: `its SHA-256 is ${digest}, not ${locked.sha256}`,
          });
        }
        await rename(path, target);
      } finally {
        await rm(folder, { recursive: true, force: true });
      }
      return target;
    },
    (path) => path,
  );
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
