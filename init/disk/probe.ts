/** What lies on a partition. Reads only: a partition that is refused stays as it is, octet by octet. */
import { type FileHandle, open } from "node:fs/promises";
import { kernelRefusal } from "../machine/kernel-refusal.ts";
import { unfinishedLabel, volumeSubsystem } from "./luks-check.ts";
import { headerMaxBytes, type LuksHeader, type LuksRead, readLuksHeader } from "./luks-header.ts";
import { endsWithMarker } from "./marker.ts";
import { signatureOf } from "./signatures.ts";

export type Probe =
  /** Zeros at both ends and wherever it was looked. */
  | { readonly is: "empty" }
  /** An initialisation by gimbal that was cut: nothing of value is on it. */
  | { readonly is: "unfinished" }
  /** `octets` are the header and key slots as they were when the header was parsed: open with these, not with the disk's. */
  | { readonly is: "luks2"; readonly header: LuksHeader; readonly octets: Uint8Array }
  | { readonly is: "luks2-damaged"; readonly why: string }
  /** "an ext2/3/4 file system" */
  | { readonly is: "foreign"; readonly what: string };

const endBytes = 1024 * 1024;
const samples = 64;
const sampleBytes = 4096;

/** Looks at a partition (or an image file) of `sizeBytes`. Throws "kernel-refused" where it cannot be read. */
export async function probePartition(path: string, sizeBytes: bigint): Promise<Probe> {
  try {
    const handle = await open(path, "r");
    try {
      return await probe(handle, Number(sizeBytes));
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw kernelRefusal("read", path, error, "check the disk: its start or its end cannot be read");
  }
}

async function probe(handle: FileHandle, sizeBytes: number): Promise<Probe> {
  const first = await readAt(handle, 0, Math.min(headerMaxBytes, sizeBytes));
  const last = await readAt(handle, Math.max(0, sizeBytes - endBytes), Math.min(endBytes, sizeBytes));
  const luks = readLuksHeader(first);
  const signature = signatureOf(first, last);
  const marked = endsWithMarker(last);
  if (luks.is === "header" && !overwritten(luks, signature)) {
    const { header } = luks;
    if (header.label === unfinishedLabel && header.subsystem === volumeSubsystem) return { is: "unfinished" };
    return { is: "luks2", header, octets: new Uint8Array(first.subarray(0, header.headerBytes)) };
  }
  if (luks.is === "damaged" && signature === undefined)
    return marked ? { is: "unfinished" } : { is: "luks2-damaged", why: luks.why };
  if (signature !== undefined) return { is: "foreign", what: signature };
  if (marked) return { is: "unfinished" };
  if (isZero(first) && isZero(last) && (await samplesAreZero(handle, sizeBytes))) return { is: "empty" };
  return { is: "foreign", what: "data of an unknown kind" };
}

/** Somebody made another thing over it: only its second header survived. */
const overwritten = (luks: LuksRead, signature: string | undefined): boolean =>
  luks.is === "header" && luks.header.copies === "secondary-only" && signature !== undefined;

/** A wiped start does not make a partition empty: a used one shows in some of these places. */
async function samplesAreZero(handle: FileHandle, sizeBytes: number): Promise<boolean> {
  for (let index = 1; index < samples; index++) {
    const at = Math.floor((sizeBytes / samples / sampleBytes) * index) * sampleBytes;
    if (!isZero(await readAt(handle, at, sampleBytes))) return false;
  }
  return true;
}

async function readAt(handle: FileHandle, at: number, length: number): Promise<Uint8Array> {
  const octets = new Uint8Array(length);
  for (let got = 0; got < length; ) {
    const { bytesRead } = await handle.read(octets, got, length - got, at + got);
    if (bytesRead === 0) throw new Error(`it ends at octet ${at + got}`);
    got += bytesRead;
  }
  return octets;
}

function isZero(octets: Uint8Array): boolean {
  const words = new BigUint64Array(octets.buffer, octets.byteOffset, octets.length >> 3);
  return (
    words.every((word) => word === 0n) && octets.subarray(words.byteLength).every((octet) => octet === 0)
  );
}
