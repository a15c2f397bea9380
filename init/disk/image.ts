/** What a signed manifest says about an image, and the checks that need no kernel. */
import { GimbalError, quoted } from "../errors.ts";

/** Taken from a verified manifest, never from the image itself. */
export type Image = {
  readonly path: string;
  /** The whole file: data, superblock of dm-verity, hash tree. */
  readonly sizeBytes: number;
  readonly fsType: "erofs" | "squashfs" | "ext4";
  readonly verity: {
    /** SHA-256, hex or octets. */
    readonly rootHash: string | Uint8Array;
    /** 0 to 256 octets. */
    readonly salt: string | Uint8Array;
    /** Where dm-verity's superblock lies; the tree follows in the next block. */
    readonly hashOffsetBytes: number;
    /** In blocks of 4,096 octets. */
    readonly dataBlocks: number;
  };
  /** PKCS#7 in DER over the root hash in hex, by a key of the firmware's db: then the kernel checks it, too. */
  readonly signature?: Uint8Array;
  /** Begins the device's name: letters, digits, `.`, `_`, `-`. */
  readonly name: string;
  /** What a block that does not verify does to the machine. Default: the reader gets EIO. */
  readonly onCorruption?: "error" | "restart" | "panic";
};

export const blockBytes = 4096;
const hashesPerBlock = blockBytes / 32;

/** The parameters of dm-verity's table line for an image on `device`. Throws "bad-argument" on what cannot be one. */
export function verityParameters(image: Image, device: string, signatureKey?: string): string {
  const { rootHash, salt, hashOffsetBytes, dataBlocks } = checked(image).verity;
  const options = [
    ...(image.onCorruption === "restart" ? ["restart_on_corruption"] : []),
    ...(image.onCorruption === "panic" ? ["panic_on_corruption"] : []),
    ...(signatureKey === undefined ? [] : ["root_hash_sig_key_desc", signatureKey]),
  ];
  return [
    ...["1", device, device, blockBytes, blockBytes, dataBlocks, hashOffsetBytes / blockBytes + 1],
    ...["sha256", hexOf(rootHash), hexOf(salt) || "-"],
    ...(options.length > 0 ? [options.length, ...options] : []),
  ].join(" ");
}

/** Throws "image-truncated" where the file is not as long as the manifest says, or too short for its own hash tree. */
export function checkImageSize(image: Image, actualBytes: number): void {
  const { dataBlocks, hashOffsetBytes } = checked(image).verity;
  const needed = hashOffsetBytes + blockBytes * (1 + treeBlocks(dataBlocks));
  const refuse = (why: string) => {
    throw new GimbalError("image-truncated", {
      tried: "open the image",
      on: quoted(image.path),
      why,
      todo: "install the GuestOS again",
    });
  };
  if (actualBytes !== image.sizeBytes)
    refuse(`it has ${actualBytes} octets, its manifest says ${image.sizeBytes}`);
  if (actualBytes < needed) refuse(`it has ${actualBytes} octets, its hash tree ends at ${needed}`);
}

/** Blocks of a hash tree over `dataBlocks`: each level's hashes are packed into blocks until one is left. */
export function treeBlocks(dataBlocks: number): number {
  let total = 0;
  for (let level = dataBlocks; level > 1; total += level) level = Math.ceil(level / hashesPerBlock);
  return total;
}

/** Where each kind of file system has its magic number: what verity lets through must also be what the manifest says. */
const magics: Readonly<Record<Image["fsType"], readonly [at: number, octets: readonly number[]]>> = {
  erofs: [1024, [0xe2, 0xe1, 0xf5, 0xe0]],
  squashfs: [0, [0x68, 0x73, 0x71, 0x73]],
  ext4: [1080, [0x53, 0xef]],
};

export const hasMagic = (fsType: Image["fsType"], start: Uint8Array): boolean => {
  const [at, octets] = magics[fsType];
  return octets.every((octet, index) => start[at + index] === octet);
};

function checked(image: Image): Image {
  const { sizeBytes, name, fsType, verity } = image;
  const { rootHash, salt, hashOffsetBytes, dataBlocks } = verity;
  const blocks = (value: number) => Number.isSafeInteger(value) && value > 0;
  const right =
    blocks(sizeBytes) &&
    blocks(dataBlocks) &&
    blocks(hashOffsetBytes) &&
    hashOffsetBytes % blockBytes === 0 &&
    dataBlocks * blockBytes <= hashOffsetBytes &&
    /^[0-9a-f]{64}$/.test(hexOf(rootHash)) &&
    /^(?:[0-9a-f]{2}){0,256}$/.test(hexOf(salt)) &&
    /^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$/.test(name) &&
    Object.hasOwn(magics, fsType);
  if (right) return image;
  throw new GimbalError("bad-argument", {
    tried: "open the image",
    on: quoted(image.path),
    why: "its description is impossible",
  });
}

const hexOf = (value: string | Uint8Array): string =>
  typeof value === "string" ? value : Buffer.from(value).toString("hex");
