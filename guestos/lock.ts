/**
 * The lock of a Debian guest: name -> "version sha256" of every package inside, guestos/<name>/packages.lock.json. Where the archive
 * has moved on, what is really inside is recorded in build/guestos-moved.json.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { GimbalError } from "../init/errors.ts";
import { writeAtomic } from "../initramfs/cache.ts";

export type PackageSet = Readonly<Record<string, string>>;

const movedPath = join(import.meta.dirname, "../build/guestos-moved.json");
const lockPath = (name: string): string => join(import.meta.dirname, name, "packages.lock.json");

export function readLock(name: string): PackageSet {
  return readJson<PackageSet>(lockPath(name)) ?? {};
}

export async function writeLock(name: string, packages: PackageSet): Promise<void> {
  await writeAtomic(lockPath(name), `${JSON.stringify(packages, undefined, 2)}\n`);
}

/** What was built last instead of what the lock says, if so. */
export function readMoved(name: string): PackageSet | undefined {
  return readJson<Record<string, PackageSet>>(movedPath)?.[name];
}

export async function recordMoved(name: string, packages: PackageSet): Promise<void> {
  const all = readJson<Record<string, PackageSet>>(movedPath) ?? {};
  await writeAtomic(movedPath, `${JSON.stringify({ ...all, [name]: packages }, undefined, 2)}\n`);
}

function readJson<T>(path: string): T | undefined {
  return existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")) as T) : undefined;
}

/** apt preferences that make apt take each locked version, as long as the archive has it. */
export function pinsOf(packages: PackageSet): string {
  const pin = ([name, locked]: [string, string]) =>
    `Package: ${name}\nPin: version ${locked.split(" ")[0]}\nPin-Priority: 1001\n`;
  return Object.entries(packages).map(pin).join("\n");
}

/** Reads stanzas of `apt-cache show`: Package, Version, SHA256. */
export function parseStanzas(text: string): PackageSet {
  const found: [string, string][] = [];
  for (const stanza of text.split(/\n\n+/)) {
    const field = (key: string) => new RegExp(`^${key}: (\\S+)$`, "m").exec(stanza)?.[1];
    const [name, version, sha256] = [field("Package"), field("Version"), field("SHA256")];
    if (name !== undefined && version !== undefined && sha256 !== undefined)
      found.push([name, `${version} ${sha256}`]);
  }
  return Object.fromEntries(found.sort(([a], [b]) => (a < b ? -1 : 1)));
}

/**
 * Names whose version is another than the locked one, or that only one side has.
 * @throws GimbalError "build-failed" where the archive serves other octets under a locked version: that is no move
 */
export function movedPackages(name: string, locked: PackageSet, present: PackageSet): string[] {
  const names = new Set([...Object.keys(locked), ...Object.keys(present)]);
  return [...names].sort().filter((each) => {
    const [was, is] = [locked[each]?.split(" "), present[each]?.split(" ")];
    if (was !== undefined && is !== undefined && was[0] === is[0] && was[1] !== is[1]) {
      throw new GimbalError("build-failed", {
        tried: "use",
        on: `the Debian package ${each} ${is[0]} for ${name}`,
        why: `the archive has other octets under this version than guestos/${name}/packages.lock.json (SHA-256 ${is[1]})`,
        todo: "find out why before you go on; GIMBAL_DEBIAN_MIRROR names another archive",
      });
    }
    return was?.[0] !== is?.[0];
  });
}
