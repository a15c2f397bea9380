/** What `make image` hands out: the disk image, its block map, and the digests of both. */
import { basename, join } from "node:path";
import { fileDigest, writeAtomic } from "../initramfs/cache.ts";
import { step } from "../initramfs/step.ts";
import { blockMap, usedPart } from "./block-map.ts";
import type { Board } from "./board.ts";
import { type BootFiles, type Extent, layoutOf, writeDisk } from "./image.ts";

const mebibyte = 1 << 20;
/** Written as zeros, so that a volume of an earlier life of the device is not taken for this one's: LUKS2 keeps its
 * second header within the first 4 MiB, and other formats their signatures in the first. */
const dataHeadBytes = 16 * mebibyte;

/** Writes <folder>/gimbal-<board>-<version>.img with .bmap and SHA256SUMS; returns the image's path. */
export async function writeRelease(
  folder: string,
  board: Board,
  version: string,
  files: BootFiles,
): Promise<string> {
  const image = join(folder, `gimbal-${board.name}-${version}.img`);
  await step("IMAGE", basename(image), () => writeDisk(image, board, files));
  await step("BMAP", `${basename(image)}.bmap, SHA256SUMS`, async () => {
    await writeAtomic(`${image}.bmap`, await blockMap(image, await writtenExtents(image, board)));
    const sums: string[] = [];
    for (const path of [image, `${image}.bmap`]) sums.push(`${await fileDigest(path)}  ${basename(path)}\n`);
    await writeAtomic(join(folder, "SHA256SUMS"), sums.join(""));
  });
  return image;
}

/** The first table and the boot partition as far as it is used, the head of the data partition, the second table. */
async function writtenExtents(image: string, board: Board): Promise<Extent[]> {
  const { boot, data, diskBytes } = layoutOf(board.disk);
  const used = await usedPart(image, boot);
  const dataEnd = data.offsetBytes + data.sizeBytes;
  return [
    { offsetBytes: 0, sizeBytes: used.offsetBytes + used.sizeBytes },
    { offsetBytes: data.offsetBytes, sizeBytes: dataHeadBytes },
    { offsetBytes: dataEnd, sizeBytes: diskBytes - dataEnd },
  ];
}
