/** guestos.yaml and root file systems -> <out>/<name>-<version>/{manifest.cose, images}. The same inputs give the same images. */
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rename, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { packImage } from "../../guestos/pack.ts";
import { signRootHash } from "../../guestos/signer.ts";
import { type BuiltImage, type GuestosSource, manifestOf } from "../../guestos/source.ts";
import { GimbalError } from "../../init/errors.ts";
import { parseManifest } from "../../init/guestos/manifest.ts";
import { decodeManifest, manifestContentType, unsupportedMount } from "../../init/guestos/manifest-format.ts";
import { manifestFile } from "../../init/guestos/source.ts";
import { signEnvelope } from "../../init/trust/cose.ts";
import { fileDigest, temporaryOf } from "../../initramfs/cache.ts";
import { inspectRoot } from "./inspect.ts";
import { prepareSource } from "./root-source.ts";
import type { Signer } from "./signing.ts";

export type BuildInputs = {
  readonly source: GuestosSource;
  /** image_file -> folder or tar. */
  readonly roots: ReadonlyMap<string, string>;
  readonly signer: Signer;
  /** Signs root hashes for the kernel; who has no key in the firmware's db has none. */
  readonly kernelSigner?: { readonly dbKey: string; readonly dbCertificate: string } | undefined;
  readonly version?: number | undefined;
  readonly outFolder: string;
  /** Replaces what is there. */
  readonly force: boolean;
};

export type BuiltGuestos = {
  readonly folder: string;
  readonly name: string;
  readonly version: number;
  readonly images: readonly {
    readonly file: string;
    readonly sizeBytes: number;
    readonly rootHash: string;
  }[];
  /** SHA-256 of manifest.cose, hex: what PCR 13 gets. */
  readonly digest: string;
  readonly warnings: readonly string[];
};

/** @throws {GimbalError} "build-failed", "manifest-malformed", "unsupported"; then nothing is left in the folder */
export async function buildGuestos(inputs: BuildInputs): Promise<BuiltGuestos> {
  const { source, roots, signer, outFolder, force } = inputs;
  const version = inputs.version ?? Number(source.version);
  checkForm(source, roots, version);
  const folder = join(outFolder, `${source.name}-${version}`);
  if (existsSync(folder) && !force)
    throw refuse(folder, "it is there already", "raise the version, or use --force where no device has it");
  await mkdir(outFolder, { recursive: true });
  const temporary = temporaryOf(folder);
  const work = await mkdtemp(join(tmpdir(), "gimbal-guestos-"));
  try {
    await mkdir(temporary);
    const images = new Map<string, BuiltImage>();
    const warnings: string[] = [];
    for (const [file, root] of roots) {
      const isRoot = file === rootFile(source);
      const built = await buildImage(root, join(temporary, file), work, (seen) => {
        if (isRoot) warnings.push(...inspectRoot(seen, source));
      });
      const signature = inputs.kernelSigner && (await signRootHash(inputs.kernelSigner, built.tree.rootHash));
      images.set(file, { ...built, signature });
    }
    const payload = manifestOf(source, { version, buildDate: buildDate(), upstreamVersion: "", images });
    const envelope = signEnvelope(payload, manifestContentType, signer.chain, signer.key);
    const { digest } = parseManifest(envelope); // what a device reads first
    await writeFile(join(temporary, manifestFile), envelope);
    await rm(folder, { recursive: true, force: true });
    await rename(temporary, folder);
    const list = [...images].map(([file, { sizeBytes, tree }]) => ({
      file,
      sizeBytes,
      rootHash: tree.rootHash,
    }));
    return {
      folder,
      name: source.name,
      version,
      images: list,
      digest: Buffer.from(digest).toString("hex"),
      warnings,
    };
  } finally {
    await rm(temporary, { recursive: true, force: true });
    await rm(work, { recursive: true, force: true });
  }
}

async function buildImage(
  root: string,
  path: string,
  work: string,
  inspect: (root: Parameters<Parameters<typeof packImage>[3]>[0]) => void,
): Promise<BuiltImage> {
  const { source, seed } = await prepareSource(root, work);
  const tree = await packImage(source, path, seed, async (seen) => inspect(seen));
  const { size } = await stat(path);
  return { sizeBytes: size, sha256: await fileDigest(path), tree };
}

const rootFile = (source: GuestosSource): string => String(source.mounts[0]?.["image_file"]);

/** Everything that can be known before minutes are spent on images: encodes the manifest with stand-ins. */
function checkForm(source: GuestosSource, roots: ReadonlyMap<string, string>, version: number): void {
  const standIn: BuiltImage = {
    sizeBytes: 12_288,
    sha256: "00".repeat(32),
    tree: { rootHash: "00".repeat(32), salt: "", hashOffsetBytes: 4096, dataBlocks: 1 },
  };
  const wanted = imageFiles(source);
  const missing = wanted.find((file) => !roots.has(file));
  if (missing !== undefined)
    throw refuse(`the image ${missing}`, "nothing says what is in it", `use --image ${missing}=FOLDER|TAR`);
  const unknown = [...roots.keys()].find((file) => !wanted.includes(file));
  if (unknown !== undefined) throw refuse(`the image ${unknown}`, "no mount has this image_file");
  const images = new Map(wanted.map((file) => [file, standIn]));
  const fields = decodeManifest(manifestOf(source, { version, buildDate: 0, upstreamVersion: "", images }));
  const otherType = fields.mounts.find((mount) => mount.verity && mount.fsType !== "erofs");
  if (otherType)
    throw refuse(
      `the image ${otherType.imageFile}`,
      `its fs_type is ${otherType.fsType}, and images are made as erofs`,
    );
  const why = unsupportedMount(fields);
  if (why) throw new GimbalError("unsupported", { tried: "build", on: source.name, why });
}

const volumeTypes = ["EMPTY", "OVERLAY_RW", "BIND_FILE", "BIND_FILE_RW", "DEVICE", "DEVICE_RW"];
const imageFiles = ({ mounts }: GuestosSource): string[] =>
  mounts
    .filter((mount) => !volumeTypes.includes(String(mount["mount_type"])))
    .map((mount) => String(mount["image_file"]));

/** SOURCE_DATE_EPOCH, else now: with it the same inputs give the same manifest but for its signature. */
function buildDate(): number {
  const given = process.env["SOURCE_DATE_EPOCH"];
  return given !== undefined && /^\d+$/.test(given) ? Number(given) : Math.floor(Date.now() / 1000);
}

function refuse(on: string, why: string, todo?: string): GimbalError {
  return new GimbalError("build-failed", {
    tried: "build",
    on,
    why,
    ...(todo === undefined ? {} : { todo }),
  });
}
