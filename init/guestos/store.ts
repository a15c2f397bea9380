/**
 * The GuestOSes of this device, /data/guestos/<name>-<version>/: manifest.cose, the images, installed.json (when). A GuestOS appears
 * by rename, whole or not at all; a version never goes down.
 */
import { createHash } from "node:crypto";
import { mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { type ErrorCode, GimbalError, quoted } from "../errors.ts";
import { writeFileAtomic } from "../state/file.ts";
import type { Anchor } from "../trust/anchors.ts";
import { type Manifest, parseManifest, verifyManifest } from "./manifest.ts";
import { manifestMaxBytes, type StoredMount, storedImages } from "./manifest-format.ts";

export type StorePorts = {
  readonly folder: string;
  readonly anchors: () => readonly Anchor[];
  /** "x86-64" */
  readonly hardware: string;
  /** Not before the build date of the image. */
  readonly now: () => Date;
};

/** A GuestOS on this device, or why it is not used. */
export type StoredGuestOs =
  | { readonly is: "verified"; readonly folder: string; readonly manifest: Manifest }
  | { readonly is: "refused"; readonly folder: string; readonly error: GimbalError };

export type Installed = { readonly manifest: Manifest; readonly wasThere: boolean };

/** GuestOSes in a store may be as many as fit; a listing stops here. */
const maxGuestOses = 1024;
const incoming = ".incoming-";
const chunkBytes = 1 << 20;

export class GuestOsStore {
  readonly #ports: StorePorts;

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
    const names = (await readdir(this.#ports.folder)).filter((name) => !name.startsWith(".")).sort();
    const found: StoredGuestOs[] = [];
    for (const name of names.slice(0, maxGuestOses))
      found.push(await this.#load(join(this.#ports.folder, name)));
    return found.sort(byNameAndVersion);
  }

  /**
   * The newest version of `name` that is at least `minimumVersion`, verified now.
   * @throws {GimbalError} "guestos-unknown", or why the only candidate is not trusted
   */
  async newest(name: string, minimumVersion: number): Promise<{ manifest: Manifest; folder: string }> {
    const all = await this.list();
    const candidates = all.filter((entry) => basename(entry.folder).replace(/-\d+$/, "") === name);
    const best = candidates.findLast((entry) => entry.is === "verified");
    if (best?.is === "verified" && best.manifest.version >= minimumVersion) return best;
    const refused = candidates.findLast((entry) => entry.is === "refused");
    if (!best && refused?.is === "refused") throw refused.error;
    throw new GimbalError("guestos-unknown", {
      tried: "find",
      on: `a GuestOS named ${quoted(name)}`,
      why: best ? `the newest version here is below ${minimumVersion}` : "there is none on this device",
      todo: "see `control list_guestos`",
    });
  }

  /**
   * Installs from a folder with manifest.cose and its images: verified before the copy, the images while they are copied.
   * The same GuestOS again changes nothing.
   * @throws {GimbalError} what verifyManifest says; "guestos-version", "image-truncated", "guestos-altered", "disk-full"
   */
  async install(source: string): Promise<Installed> {
    const bytes = await readBounded(join(source, "manifest.cose"));
    const claimed = parseManifest(bytes);
    const at = this.#ports.now();
    const manifest = verifyManifest(claimed, this.#ports.anchors(), { at, hardware: this.#ports.hardware });
    if (await this.#isThere(manifest)) return { manifest, wasThere: true };
    const id = `${manifest.name}-${manifest.version}`;
    const temporary = join(this.#ports.folder, `${incoming}${id}`);
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary, { mode: 0o700 });
    try {
      for (const mount of storedImages(manifest)) await copyImage(source, temporary, mount, id);
      await writeFileAtomic(join(temporary, "manifest.cose"), bytes);
      await writeFileAtomic(join(temporary, "installed.json"), encode(at));
      await rename(temporary, join(this.#ports.folder, id));
      await syncFolder(this.#ports.folder);
    } catch (error) {
      await rm(temporary, { recursive: true, force: true });
      throw withDiskFull(error, id);
    }
    return { manifest, wasThere: false };
  }

  /** Removes all versions of a GuestOS. The caller has seen to it that nothing uses it. Works with a full disk. */
  async remove(name: string): Promise<number> {
    const folders = (await this.list()).map((entry) => entry.folder);
    const mine = folders.filter((folder) => basename(folder).replace(/-\d+$/, "") === name);
    for (const folder of mine) {
      const gone = join(this.#ports.folder, `.gone-${basename(folder)}`);
      await rename(folder, gone);
      await rm(gone, { recursive: true, force: true });
    }
    return mine.length;
  }

  async #load(folder: string): Promise<StoredGuestOs> {
    try {
      const claimed = parseManifest(await readBounded(join(folder, "manifest.cose")));
      const manifest = verifyManifest(claimed, this.#ports.anchors(), {
        at: await this.#installedAt(folder),
        hardware: this.#ports.hardware,
      });
      if (basename(folder) !== `${manifest.name}-${manifest.version}`) {
        throw altered(basename(folder), `its manifest is that of ${manifest.name}-${manifest.version}`);
      }
      for (const mount of storedImages(manifest)) await checkSize(folder, mount, basename(folder));
      return { is: "verified", folder, manifest };
    } catch (error) {
      if (error instanceof GimbalError) return { is: "refused", folder, error };
      throw error;
    }
  }

  /** When it was installed, if that can be: a certificate's last day must not end a device that runs. */
  async #installedAt(folder: string): Promise<Date> {
    const now = this.#ports.now();
    try {
      const value: unknown = JSON.parse(await readFile(join(folder, "installed.json"), "utf8"));
      const at = new Date(Number((value as { at?: unknown } | null)?.at));
      return at <= now ? at : now;
    } catch {
      return now; // absent or damaged: judged by the present, which is the stricter
    }
  }

  /** True where this very GuestOS is installed. Throws where another of the same or a higher version is. */
  async #isThere(manifest: Manifest): Promise<boolean> {
    for (const entry of await this.list()) {
      if (entry.is !== "verified" || entry.manifest.name !== manifest.name) continue;
      if (entry.manifest.version < manifest.version) continue;
      const same = Buffer.compare(entry.manifest.digest, manifest.digest) === 0;
      if (same) return true;
      throw new GimbalError("guestos-version", {
        tried: "install",
        on: `the GuestOS ${manifest.name}-${manifest.version}`,
        why: `version ${entry.manifest.version} is installed, and a version never goes down or changes`,
        todo: "give the new build a higher version",
      });
    }
    return false;
  }
}

function byNameAndVersion(a: StoredGuestOs, b: StoredGuestOs): number {
  const version = (entry: StoredGuestOs) => Number(/-(\d+)$/.exec(entry.folder)?.[1] ?? 0);
  const name = (entry: StoredGuestOs) => entry.folder.replace(/-\d+$/, "");
  return name(a) < name(b) ? -1 : name(a) > name(b) ? 1 : version(a) - version(b);
}

async function readBounded(path: string): Promise<Uint8Array> {
  const name = quoted(basename(path));
  const refuse = (why: string, cause?: unknown) =>
    new GimbalError("manifest-malformed", { tried: "read", on: name, why }, cause);
  const bytes = await readFile(path).catch((cause: unknown) => {
    throw refuse(cause instanceof Error ? cause.message : "it cannot be read", cause);
  });
  if (bytes.length > manifestMaxBytes) throw refuse(`it has more than ${manifestMaxBytes} octets`);
  return bytes;
}

async function checkSize(folder: string, mount: StoredMount, id: string): Promise<void> {
  const found = await stat(join(folder, mount.imageFile)).catch(() => undefined);
  if (!found?.isFile()) throw altered(id, `its image ${mount.imageFile} is missing`);
  if (found.size !== mount.imageSize) throw truncated(id, mount, found.size);
}

/** Copies one image and proves on the way that it is the one that the manifest means. */
async function copyImage(source: string, target: string, mount: StoredMount, id: string): Promise<void> {
  await using from = await open(join(source, mount.imageFile), "r").catch((cause: unknown) => {
    throw altered(id, `its image ${mount.imageFile} cannot be read`, cause);
  });
  const { size } = await from.stat();
  if (size !== mount.imageSize) throw truncated(id, mount, size);
  await using to = await open(join(target, mount.imageFile), "wx", 0o600);
  const hash = createHash("sha256");
  const buffer = new Uint8Array(chunkBytes);
  for (let copied = 0; copied < size; ) {
    const { bytesRead } = await from.read(buffer, 0, chunkBytes, copied);
    if (bytesRead === 0) throw truncated(id, mount, copied);
    const chunk = buffer.subarray(0, bytesRead);
    hash.update(chunk);
    for (let written = 0; written < bytesRead; ) {
      written += (await to.write(chunk, written, bytesRead - written, copied + written)).bytesWritten;
    }
    copied += bytesRead;
  }
  if (!hash.digest().equals(mount.imageSha256)) {
    throw altered(id, `the digest of its image ${mount.imageFile} is not the one in the manifest`);
  }
  await to.sync();
}

async function syncFolder(folder: string): Promise<void> {
  await using handle = await open(folder, "r");
  await handle.sync();
}

const encode = (at: Date): Uint8Array => new TextEncoder().encode(JSON.stringify({ at: at.getTime() }));

function truncated(id: string, mount: StoredMount, size: number): GimbalError {
  return refuse(
    "image-truncated",
    id,
    `its image ${mount.imageFile} has ${size} octets, not ${mount.imageSize}`,
  );
}

function altered(id: string, why: string, cause?: unknown): GimbalError {
  return refuse("guestos-altered", id, why, cause);
}

function refuse(code: ErrorCode, id: string, why: string, cause?: unknown): GimbalError {
  return new GimbalError(
    code,
    { tried: "use", on: `the GuestOS ${quoted(id)}`, why, todo: "install it again" },
    cause,
  );
}

function withDiskFull(error: unknown, id: string): unknown {
  if (!(error instanceof Error && "code" in error && error.code === "ENOSPC")) return error;
  return new GimbalError(
    "disk-full",
    {
      tried: "install",
      on: `the GuestOS ${id}`,
      why: "there is no room left on the disk",
      todo: "remove a container or a GuestOS",
    },
    error,
  );
}
