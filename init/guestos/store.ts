/**
 * The GuestOSes of this device, /data/guestos/<name>-<version>/: manifest.cose, the images, installed.json (when). A GuestOS appears
 * by rename, whole or not at all; a version never goes down. Names with a dot in front are on their way in or out.
 */
import { mkdir, open, readdir, rename, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { GimbalError, quoted } from "../errors.ts";
import { readStateFile, writeFileAtomic } from "../state/file.ts";
import type { Anchor } from "../trust/anchors.ts";
import { type Floors, raiseFloor, readFloors } from "./floors.ts";
import { altered, checkSize, checkSpace, copyImage, proveImage, withDiskFull } from "./images.ts";
import { type Manifest, parseManifest, verifyManifest } from "./manifest.ts";
import { manifestMaxBytes, storedImages, unsupportedMount } from "./manifest-format.ts";
import { folderSource, manifestFile, readWhole, type Source } from "./source.ts";

export type StorePorts = {
  readonly folder: string;
  readonly anchors: () => readonly Anchor[];
  /** "x86-64" */
  readonly hardware: string;
  /** Not before the build date of the image. */
  readonly now: () => Date;
  /** Hears of a state file that was set aside. */
  readonly warn?: (sentence: string) => void;
};

/** A GuestOS on this device, or why it is not used. */
export type StoredGuestOs =
  | { readonly is: "verified"; readonly folder: string; readonly manifest: Manifest }
  | { readonly is: "refused"; readonly folder: string; readonly error: GimbalError };
type Verified = Extract<StoredGuestOs, { is: "verified" }>;

export type Installed = { readonly manifest: Manifest; readonly wasThere: boolean };

export type InstallOptions = {
  /** Reads the images of the same GuestOS that is there already as a whole, and replaces it where one is damaged. */
  readonly repair?: boolean;
};

/** GuestOSes in a store may be as many as fit; a listing stops here. */
const maxGuestOses = 1024;
const installedFile = "installed.json";
const incoming = ".incoming-";
const outgoing = ".gone-";
const folderName = /^([a-z0-9-]{1,32})-(\d{1,16})$/;

export class GuestOsStore {
  readonly #ports: StorePorts;
  /** Installations and removals, one after the other. */
  #changes: Promise<unknown> = Promise.resolve();

  constructor(ports: StorePorts) {
    this.#ports = ports;
  }

  /** Removes what an interrupted installation or removal left. Once per boot, before anything else. */
  async recover(): Promise<readonly string[]> {
    await mkdir(this.#ports.folder, { recursive: true, mode: 0o700 });
    const left = (await readdir(this.#ports.folder)).filter((name) => name.startsWith("."));
    for (const name of left) await rm(join(this.#ports.folder, name), { recursive: true, force: true });
    return left;
  }

  /** Every GuestOS, its manifest verified anew, by name and version. */
  async list(): Promise<readonly StoredGuestOs[]> {
    const found: StoredGuestOs[] = [];
    for (const folder of await this.#folders()) found.push(await this.#load(folder));
    return found;
  }

  /**
   * The newest version of `name` that is verified now, at least `minimumVersion`.
   * @throws {GimbalError} "guestos-unknown", or why the newest one is not trusted where no other is
   */
  async newest(name: string, minimumVersion: number): Promise<{ manifest: Manifest; folder: string }> {
    const found = (await this.#named(name)).reverse();
    const best = found.find((entry) => entry.is === "verified");
    if (best && best.manifest.version >= minimumVersion) return best;
    const refused = found.find((entry) => entry.is === "refused");
    if (!best && refused) throw refused.error;
    const why = best
      ? `the newest version here is ${best.manifest.version}, and ${minimumVersion} is wanted`
      : "there is none on this device";
    throw unknown("find", name, why);
  }

  /**
   * Installs from manifest.cose and its images, in a folder or another source: verified before the copy, the images while they are
   * copied. The same GuestOS again changes nothing.
   * @throws {GimbalError} what verifyManifest says; "guestos-version", "guestos-incomplete", "guestos-altered", "image-truncated",
   * "disk-full", "unsupported"
   */
  install(from: string | Source, options: InstallOptions = {}): Promise<Installed> {
    const source = typeof from === "string" ? folderSource(from) : from;
    return this.#exclusively(() => this.#install(source, options));
  }

  async #install(source: Source, { repair = false }: InstallOptions): Promise<Installed> {
    const bytes = await readWhole(source, manifestFile, manifestMaxBytes);
    const at = this.#ports.now();
    const manifest = verifyManifest(parseManifest(bytes), this.#ports.anchors(), this.#judge(at));
    const missing = unsupportedMount(manifest);
    if (missing) throw unsupported(manifest, missing);
    const there = (await this.#named(manifest.name)).filter((entry) => entry.is === "verified");
    const floors = await this.#floors();
    const same = checkUpdate(manifest, there, floors);
    if (same && !(repair && (await isDamaged(same)))) return { manifest, wasThere: true };
    await this.#bringIn(source, bytes, manifest, at, floors);
    return { manifest, wasThere: false };
  }

  /**
   * Removes all versions of a GuestOS; how many there were. The caller has seen to it that nothing uses it. Needs no free space.
   */
  remove(name: string): Promise<number> {
    return this.#exclusively(async () => {
      const mine = (await this.#folders()).filter((folder) => nameOf(folder) === name);
      for (const folder of mine) await this.#moveOut(folder);
      return mine.length;
    });
  }

  #exclusively<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#changes.then(work, work);
    this.#changes = mine.catch(() => undefined); // whoever asked hears of it
    return mine;
  }

  async #bringIn(
    source: Source,
    bytes: Uint8Array,
    manifest: Manifest,
    at: Date,
    floors: Floors,
  ): Promise<void> {
    const { folder } = this.#ports;
    const id = `${manifest.name}-${manifest.version}`;
    const images = storedImages(manifest);
    const temporary = join(folder, `${incoming}${id}`);
    await rm(temporary, { recursive: true, force: true });
    await checkSpace(folder, images, id);
    await mkdir(temporary, { mode: 0o700 });
    try {
      for (const mount of images) await copyImage(source, temporary, mount, id);
      await writeFileAtomic(join(temporary, manifestFile), bytes);
      await writeFileAtomic(join(temporary, installedFile), encode(at));
      // Before the rename: a version that was here is never followed by a lower one, whenever the power goes.
      await raiseFloor(this.#floorsPath, floors, manifest.name, manifest.version);
      await this.#moveOut(join(folder, id)); // only a damaged one can be in the way
      await rename(temporary, join(folder, id));
      await syncFolder(folder);
    } catch (error) {
      await rm(temporary, { recursive: true, force: true });
      throw withDiskFull(error, id);
    }
  }

  /** Out of sight first, then away: a cut leaves it whole or gone. An absent one is fine. */
  async #moveOut(folder: string): Promise<void> {
    const gone = join(this.#ports.folder, `${outgoing}${basename(folder)}`);
    await rm(gone, { recursive: true, force: true });
    try {
      await rename(folder, gone);
    } catch (error) {
      if (error instanceof Error && "code" in error && error.code === "ENOENT") return;
      throw error;
    }
    await syncFolder(this.#ports.folder);
    await rm(gone, { recursive: true, force: true });
  }

  /** Folders with a GuestOS's name, by name and version. */
  async #folders(): Promise<readonly string[]> {
    const entries = await readdir(this.#ports.folder, { withFileTypes: true });
    return entries
      .filter((entry) => entry.isDirectory() && folderName.test(entry.name))
      .map((entry) => join(this.#ports.folder, entry.name))
      .sort(byNameAndVersion)
      .slice(0, maxGuestOses);
  }

  async #named(name: string): Promise<StoredGuestOs[]> {
    const found: StoredGuestOs[] = [];
    for (const folder of await this.#folders()) {
      if (nameOf(folder) === name) found.push(await this.#load(folder));
    }
    return found;
  }

  async #load(folder: string): Promise<StoredGuestOs> {
    const id = basename(folder);
    try {
      const bytes = await readWhole(folderSource(folder), manifestFile, manifestMaxBytes);
      const judge = this.#judge(await this.#installedAt(folder));
      const manifest = verifyManifest(parseManifest(bytes), this.#ports.anchors(), judge);
      if (id !== `${manifest.name}-${manifest.version}`)
        throw altered(id, `its manifest is that of ${manifest.name}-${manifest.version}`);
      for (const mount of storedImages(manifest)) await checkSize(folder, mount, id);
      return { is: "verified", folder, manifest };
    } catch (error) {
      if (error instanceof GimbalError) return { is: "refused", folder, error };
      throw error;
    }
  }

  /**
   * When it was installed: a certificate's last day must not end a device that runs, nor a clock that starts in the past. Where that
   * is not known, the present judges.
   */
  async #installedAt(folder: string): Promise<Date> {
    try {
      const file = await readStateFile(join(folder, installedFile), 1024);
      const value: unknown = file.is === "bytes" ? JSON.parse(Buffer.from(file.bytes).toString()) : null;
      const at = new Date(Number((value as { at?: unknown } | null)?.at));
      return Number.isNaN(at.getTime()) ? this.#ports.now() : at;
    } catch {
      return this.#ports.now();
    }
  }

  async #floors(): Promise<Floors> {
    const { floors, setAside } = await readFloors(this.#floorsPath);
    if (setAside) this.#ports.warn?.(setAside.sentence);
    return floors;
  }

  get #floorsPath(): string {
    return join(this.#ports.folder, "versions.cbor");
  }

  #judge(at: Date): { at: Date; hardware: string } {
    return { at, hardware: this.#ports.hardware };
  }
}

/**
 * The same GuestOS where it is there already.
 * @throws {GimbalError} "guestos-version" where it would go down or change, "guestos-untrusted" where a registered CA's would replace the
 * platform's
 */
function checkUpdate(manifest: Manifest, there: readonly Verified[], floors: Floors): Verified | undefined {
  const { name, version, digest, trustLevel } = manifest;
  const same = there.find((entry) => Buffer.compare(entry.manifest.digest, digest) === 0);
  if (same) return same;
  const highest = Math.max(floors.get(name) ?? 0, ...there.map((entry) => entry.manifest.version));
  const refuse = (code: "guestos-version" | "guestos-untrusted", why: string, todo: string) =>
    new GimbalError(code, { tried: "install", on: `the GuestOS ${name}-${version}`, why, todo });
  if (trustLevel !== "SIGNED" && there.some((entry) => entry.manifest.trustLevel === "SIGNED"))
    throw refuse(
      "guestos-untrusted",
      "one of this name is signed under the platform's CA, and this one is not",
      "give it another name",
    );
  if (version < highest)
    throw refuse(
      "guestos-version",
      `this device has had version ${highest}`,
      "give the new build a higher version",
    );
  if (there.some((entry) => entry.manifest.version === version))
    throw refuse(
      "guestos-version",
      "another GuestOS of this version is installed, and a version never changes",
      "give the new build a higher version",
    );
  return undefined;
}

async function isDamaged({ folder, manifest }: Verified): Promise<boolean> {
  try {
    for (const mount of storedImages(manifest)) await proveImage(folder, mount, basename(folder));
    return false;
  } catch (error) {
    if (error instanceof GimbalError) return true;
    throw error;
  }
}

const nameOf = (folder: string): string => folderName.exec(basename(folder))?.[1] ?? "";
const versionOf = (folder: string): number => Number(folderName.exec(basename(folder))?.[2] ?? 0);

function byNameAndVersion(a: string, b: string): number {
  const [left, right] = [nameOf(a), nameOf(b)];
  return left < right ? -1 : left > right ? 1 : versionOf(a) - versionOf(b);
}

async function syncFolder(folder: string): Promise<void> {
  await using handle = await open(folder, "r");
  await handle.sync();
}

const encode = (at: Date): Uint8Array => new TextEncoder().encode(JSON.stringify({ at: at.getTime() }));

function unknown(tried: string, name: string, why: string): GimbalError {
  const todo = "see `control list_guestos`";
  return new GimbalError("guestos-unknown", { tried, on: `a GuestOS named ${quoted(name)}`, why, todo });
}

function unsupported({ name, version, requires }: Manifest, why: string): GimbalError {
  const todo = requires === undefined ? undefined : `it requires gimbal ${requires}`;
  return new GimbalError("unsupported", {
    tried: "install",
    on: `the GuestOS ${name}-${version}`,
    why,
    ...(todo === undefined ? {} : { todo }),
  });
}
