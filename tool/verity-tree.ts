/**
 * The hash tree of dm-verity (kernel: admin-guide/device-mapper/verity, format 1; superblock as veritysetup writes it), appended to
 * the image it covers: data, superblock block, tree with its top block first. SHA-256, blocks of 4096 octets. Memory does not
 * grow with the image: one block per level.
 */
import { hash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { treeBlocks } from "../init/disk/image.ts";

export const blockBytes = 4096;
const digestBytes = 32;
const hashesPerBlock = blockBytes / digestBytes;
const readBytes = 1 << 20;

export type HashTree = {
  /** Hex. */
  readonly rootHash: string;
  readonly salt: string;
  /** Octets of data before the superblock, a multiple of 4096. */
  readonly hashOffsetBytes: number;
  readonly dataBlocks: number;
};

/**
 * Appends superblock and tree to the file, whose size is a multiple of 4096 octets.
 * @param salt hex, at most 256 octets @param uuid of the superblock
 */
export async function appendHashTree(
  path: string,
  { salt, uuid }: { readonly salt: string; readonly uuid: string },
): Promise<HashTree> {
  await using file = await open(path, "r+");
  const { size } = await file.stat();
  const dataBlocks = wholeBlocks(path, size);
  await writeAt(file, superblock(dataBlocks, salt, uuid), size);
  const rootHash = await hashTree(file, dataBlocks, salt, (block, index) =>
    writeAt(file, block, size + (1 + index) * blockBytes),
  );
  await file.sync();
  return { rootHash, salt, hashOffsetBytes: size, dataBlocks };
}

/** The root hash of the first `dataBlocks` blocks of a file; its stored tree is not looked at. */
export async function rootHashOf(path: string, dataBlocks: number, salt: string): Promise<string> {
  await using file = await open(path, "r");
  return await hashTree(file, dataBlocks, salt, async () => {});
}

/** Gives each block of the tree to `write`, with its place behind the superblock; returns the root hash. */
async function hashTree(
  file: FileHandle,
  dataBlocks: number,
  salt: string,
  write: (block: Uint8Array, index: number) => Promise<void>,
): Promise<string> {
  const digest = saltedDigest(salt);
  const levels = levelsOf(dataBlocks);
  let root: Buffer | undefined;
  const add = async (hashed: Buffer, depth: number): Promise<void> => {
    const level = levels[depth];
    if (!level) {
      root = hashed;
      return;
    }
    hashed.copy(level.block, level.count++ * digestBytes);
    level.left--;
    if (level.count < hashesPerBlock && level.left > 0) return;
    level.block.fill(0, level.count * digestBytes);
    await write(level.block, level.next++);
    level.count = 0;
    await add(digest(level.block), depth + 1);
  };
  const buffer = Buffer.alloc(readBytes);
  for (let block = 0; block < dataBlocks; ) {
    const wanted = Math.min(readBytes, (dataBlocks - block) * blockBytes);
    const length = await readFully(file, buffer.subarray(0, wanted), block * blockBytes);
    if (length !== wanted) throw new Error(`the image ended at octet ${block * blockBytes + length}`);
    for (let at = 0; at < length; at += blockBytes, block++) {
      await add(digest(buffer.subarray(at, at + blockBytes)), 0);
    }
  }
  if (!root) throw new Error("an image of no blocks has no root hash");
  return root.toString("hex");
}

type Level = {
  readonly block: Buffer;
  /** Digests in `block`. */
  count: number;
  /** Digests that are still to come. */
  left: number;
  /** Where the next block goes, in blocks behind the superblock. */
  next: number;
};

/** Level 0 has the digests of the data. The last level, one block, comes first on the disk. */
function levelsOf(dataBlocks: number): Level[] {
  const levels: Level[] = [];
  let end = treeBlocks(dataBlocks);
  for (let digests = dataBlocks; digests > 1; ) {
    const blocks = Math.ceil(digests / hashesPerBlock);
    end -= blocks;
    levels.push({ block: Buffer.alloc(blockBytes), count: 0, left: digests, next: end });
    digests = blocks;
  }
  return levels;
}

/** SHA-256 over salt and block. */
function saltedDigest(salt: string): (block: Uint8Array) => Buffer {
  const prefix = Buffer.from(salt, "hex");
  const input = Buffer.concat([prefix, Buffer.alloc(blockBytes)]);
  return (block) => {
    input.set(block, prefix.length);
    return hash("sha256", input, "buffer");
  };
}

/** struct verity_sb of cryptsetup, little-endian, 512 octets in a block of their own. */
function superblock(dataBlocks: number, salt: string, uuid: string): Buffer {
  const saltBytes = Buffer.from(salt, "hex");
  if (!/^([0-9a-f]{2}){0,256}$/.test(salt)) throw new TypeError("the salt is no hex of at most 256 octets");
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(uuid)) throw new TypeError("no uuid");
  const block = Buffer.alloc(blockBytes);
  block.write("verity", 0, "latin1");
  block.writeUInt32LE(1, 8); // superblock version
  block.writeUInt32LE(1, 12); // hash type: the salt comes first
  block.write(uuid.replaceAll("-", ""), 16, "hex");
  block.write("sha256", 32, "latin1");
  block.writeUInt32LE(blockBytes, 64);
  block.writeUInt32LE(blockBytes, 68);
  block.writeBigUInt64LE(BigInt(dataBlocks), 72);
  block.writeUInt16LE(saltBytes.length, 80);
  saltBytes.copy(block, 88);
  return block;
}

function wholeBlocks(path: string, size: number): number {
  if (size === 0 || size % blockBytes !== 0) throw new Error(`${path} has no whole number of blocks`);
  return size / blockBytes;
}

async function readFully(file: FileHandle, buffer: Buffer, position: number): Promise<number> {
  let length = 0;
  while (length < buffer.length) {
    const { bytesRead } = await file.read(buffer, length, buffer.length - length, position + length);
    if (bytesRead === 0) break;
    length += bytesRead;
  }
  return length;
}

async function writeAt(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    at += (await file.write(bytes, at, bytes.length - at, position + at)).bytesWritten;
  }
}
