/**
 * guestos.yaml: the manifest as people write it, in the manifest's own words (init/guestos/manifest.ts; docs/guests.md explains each).
 * What only the build knows is added here: size, digest and hash tree of each image, version and date.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parse as parseYaml } from "yaml";
import { GimbalError, quoted } from "../init/errors.ts";
import { encodeManifest } from "../init/guestos/manifest-format.ts";
import type { HashTree } from "../tool/verity-tree.ts";

export type BuiltImage = {
  readonly sizeBytes: number;
  /** Hex. */
  readonly sha256: string;
  readonly tree: HashTree;
  /** Over the root hash, for the kernel (signer.ts). */
  readonly signature?: Uint8Array | undefined;
};

export type GuestosSource = Readonly<Record<string, unknown>> & {
  readonly name: string;
  readonly version: number;
  readonly mounts: readonly Readonly<Record<string, unknown>>[];
};

/** Reads guestos.yaml of `folder`. Only what the build itself uses is checked here; the manifest's shape checks the rest. */
export async function readSource(folder: string): Promise<GuestosSource> {
  const path = join(folder, "guestos.yaml");
  const value: unknown = parseYaml(await readFile(path, "utf8"));
  const source = value as GuestosSource | null;
  const ok =
    typeof source?.name === "string" && Number.isSafeInteger(source.version) && Array.isArray(source.mounts);
  if (ok) return source;
  throw new GimbalError("manifest-malformed", {
    tried: "read",
    on: quoted(path),
    why: "it lacks name, version or mounts",
    todo: "see docs/guests.md",
  });
}

/** Mount points that the image must have as directories. */
export const mountPointsOf = (source: GuestosSource): string[] =>
  source.mounts.map((mount) => String(mount["mount_point"])).filter((path) => path !== "/");

export type BuildFacts = {
  readonly version: number;
  /** Seconds since 1970. */
  readonly buildDate: number;
  readonly upstreamVersion: string;
  /** By image_file. */
  readonly images: ReadonlyMap<string, BuiltImage>;
};

/**
 * The manifest's octets, ready to be signed.
 * @throws {GimbalError} "manifest-malformed", naming the field
 */
export function manifestOf(source: GuestosSource, facts: BuildFacts): Uint8Array {
  const mounts = source.mounts.map((mount) => {
    const image = facts.images.get(String(mount["image_file"]));
    if (image === undefined) return mount;
    const { rootHash, salt, hashOffsetBytes, dataBlocks } = image.tree;
    return {
      ...mount,
      image_size: image.sizeBytes,
      image_sha256: Buffer.from(image.sha256, "hex"),
      verity: {
        root_hash: Buffer.from(rootHash, "hex"),
        salt: Buffer.from(salt, "hex"),
        hash_offset: hashOffsetBytes,
        data_blocks: dataBlocks,
        ...(image.signature ? { signature: image.signature } : {}),
      },
    };
  });
  return encodeManifest({
    format: 1,
    upstream_version: facts.upstreamVersion,
    ...source,
    version: facts.version,
    build_date: facts.buildDate,
    mounts,
  });
}
