/**
 * The block map (bmap 2.0) of a disk image: which blocks a flashing tool must write, each range with its SHA-256. What
 * is not mapped keeps what the device had, so ranges come from the layout and not from which blocks happen to be zero:
 * a zero inside a file or a table is content.
 */
import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import type { Extent } from "./image.ts";

const blockBytes = 4096;
const chunkBytes = 1 << 20;

/** Block numbers, both inclusive. */
export type Range = { readonly first: number; readonly last: number };

/** The XML for the image at `path`; `extents` are in ascending order and do not touch. */
export async function blockMap(path: string, extents: readonly Extent[]): Promise<string> {
  const file = await open(path);
  try {
    const { size } = await file.stat();
    const ranges: (Range & { digest: string })[] = [];
    for (const extent of extents) {
      const range = blocksOf(extent);
      ranges.push({ ...range, digest: await digestOfRange(file, range) });
    }
    return format(size, ranges);
  } finally {
    await file.close();
  }
}

/** The last octet of `extent` that is not zero, as an extent that ends behind it; an empty one where all are zero. */
export async function usedPart(path: string, { offsetBytes, sizeBytes }: Extent): Promise<Extent> {
  const file = await open(path);
  try {
    const buffer = Buffer.alloc(chunkBytes);
    for (let end = offsetBytes + sizeBytes; end > offsetBytes; end -= chunkBytes) {
      const start = Math.max(offsetBytes, end - chunkBytes);
      const { bytesRead } = await file.read(buffer, 0, end - start, start);
      if (!isZero(buffer.subarray(0, bytesRead))) return { offsetBytes, sizeBytes: end - offsetBytes };
    }
    return { offsetBytes, sizeBytes: 0 };
  } finally {
    await file.close();
  }
}

const zeros = Buffer.alloc(chunkBytes);
const isZero = (bytes: Buffer): boolean => bytes.equals(zeros.subarray(0, bytes.length));

const blocksOf = ({ offsetBytes, sizeBytes }: Extent): Range => ({
  first: Math.floor(offsetBytes / blockBytes),
  last: Math.ceil((offsetBytes + sizeBytes) / blockBytes) - 1,
});

async function digestOfRange(file: FileHandle, { first, last }: Range): Promise<string> {
  const hash = createHash("sha256");
  const stream = file.createReadStream({
    start: first * blockBytes,
    end: (last + 1) * blockBytes - 1,
    autoClose: false,
    highWaterMark: chunkBytes,
  });
  for await (const chunk of stream) hash.update(chunk);
  return hash.digest("hex");
}

function format(imageBytes: number, ranges: readonly (Range & { digest: string })[]): string {
  const mapped = ranges.reduce((sum, { first, last }) => sum + last - first + 1, 0);
  const rows = ranges.map(
    ({ first, last, digest }) =>
      `        <Range chksum="${digest}"> ${first === last ? first : `${first}-${last}`} </Range>`,
  );
  const text = (checksum: string) =>
    [
      '<?xml version="1.0" ?>',
      '<bmap version="2.0">',
      `    <ImageSize> ${imageBytes} </ImageSize>`,
      `    <BlockSize> ${blockBytes} </BlockSize>`,
      `    <BlocksCount> ${Math.ceil(imageBytes / blockBytes)} </BlocksCount>`,
      `    <MappedBlocksCount> ${mapped} </MappedBlocksCount>`,
      "    <ChecksumType> sha256 </ChecksumType>",
      `    <BmapFileChecksum> ${checksum} </BmapFileChecksum>`,
      "    <BlockMap>",
      ...rows,
      "    </BlockMap>",
      "</bmap>",
      "",
    ].join("\n");
  // The file's own digest is made with zeros in its place.
  return text(
    createHash("sha256")
      .update(text("0".repeat(64)))
      .digest("hex"),
  );
}
