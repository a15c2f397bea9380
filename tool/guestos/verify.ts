/** What a device checks, on the build host: the very same code, and each image as a whole. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { GimbalError, reasonOf } from "../../init/errors.ts";
import { proveImage } from "../../init/guestos/images.ts";
import { type Manifest, verifyManifest } from "../../init/guestos/manifest.ts";
import { hasImage, storedImages, unsupportedMount } from "../../init/guestos/manifest-format.ts";
import { type Anchor, parseAnchors } from "../../init/trust/anchors.ts";
import { rootHashOf } from "../verity-tree.ts";
import { findGuestos } from "./read.ts";

export type VerifyOptions = {
  readonly caFiles: readonly string[];
  readonly at: Date;
  /** Undefined: any. */
  readonly hardware: string | undefined;
};

/**
 * Signature, chain, role, hardware; then of each image its size, digest and root hash.
 * @throws {GimbalError} as a device would
 */
export async function verifyGuestos(path: string, options: VerifyOptions): Promise<Manifest> {
  const { folder, claimed } = await findGuestos(path);
  const anchors: Anchor[] = [];
  for (const file of options.caFiles) {
    const text = await readFile(file, "utf8").catch((cause: unknown) => {
      throw new GimbalError("ca-refused", { tried: "take as CA", on: file, why: reasonOf(cause) }, cause);
    });
    for (const certificate of parseAnchors(text, file)) anchors.push({ certificate, origin: "platform" });
  }
  const hardware = options.hardware ?? claimed.fields.hardware;
  const manifest = verifyManifest(claimed, anchors, { at: options.at, hardware });
  const id = `${manifest.name}-${manifest.version}`;
  for (const mount of storedImages(manifest)) {
    await proveImage(folder, mount, id);
    if (!hasImage(mount)) continue;
    const { rootHash, salt, dataBlocks } = mount.verity;
    const found = await rootHashOf(
      join(folder, mount.imageFile),
      dataBlocks,
      Buffer.from(salt).toString("hex"),
    );
    if (found === Buffer.from(rootHash).toString("hex")) continue;
    throw new GimbalError("verity-mismatch", {
      tried: "verify",
      on: `the image ${mount.imageFile} of ${id}`,
      why: `its root hash is ${found}, which is not what the manifest says`,
      todo: "build it again",
    });
  }
  const why = unsupportedMount(manifest);
  if (why) throw new GimbalError("unsupported", { tried: "start", on: id, why });
  return manifest;
}
