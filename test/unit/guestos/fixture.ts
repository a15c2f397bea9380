/** GuestOSes with small images, signed by a signer that a test trusts. */
import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { encodeManifest, manifestContentType } from "../../../init/guestos/manifest-format.ts";
import { signEnvelope } from "../../../init/trust/cose.ts";
import { anchor, type Issued, now, rootCa, signer, subCa } from "../trust/certificates.ts";

export const root = rootCa("platform root");
export const sub = subCa(root);
export const leaf = signer(sub);
export const chain = [leaf.der, sub.der];
export const anchors = [anchor(root)];
export const judge = { at: now, hardware: "x86-64" } as const;

/** 3 blocks: data, superblock, tree. What is in them is dm-verity's matter. */
export const image = Buffer.alloc(12_288, "image");

type Entry = Readonly<Record<string, unknown>>;

export function imageMount(content: Uint8Array = image, more: Entry = {}): Entry {
  return {
    image_file: "root.img",
    mount_point: "/",
    fs_type: "erofs",
    mount_type: "SHARED",
    image_size: content.length,
    image_sha256: createHash("sha256").update(content).digest(),
    verity: { root_hash: Buffer.alloc(32, 1), salt: Buffer.alloc(32, 2), hash_offset: 4096, data_blocks: 1 },
    ...more,
  };
}

export const volume = (more: Entry = {}): Entry => ({
  image_file: "home",
  mount_point: "/home",
  fs_type: "ext4",
  mount_type: "EMPTY",
  def_size: 16,
  ...more,
});

export const fields = (more: Entry = {}): Entry => ({
  format: 1,
  name: "web",
  hardware: "x86-64",
  version: 1,
  mounts: [imageMount()],
  init_path: "/init",
  profile: "service",
  build_date: 1_767_225_600,
  ...more,
});

export type By = { readonly leaf: Issued; readonly chain: readonly Uint8Array[] };

export function signed(more: Entry = {}, by: By = { leaf, chain }): Uint8Array {
  return signEnvelope(encodeManifest(fields(more)), manifestContentType, by.chain, by.leaf.key.privateKey);
}

/** A folder with manifest.cose and root.img. */
export function guestosFolder(path: string, manifest: Uint8Array, content: Uint8Array = image): string {
  mkdirSync(path, { recursive: true });
  writeFileSync(join(path, "manifest.cose"), manifest);
  writeFileSync(join(path, "root.img"), content);
  return path;
}
