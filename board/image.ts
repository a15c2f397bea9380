/**
 * The disk image: GPT with gimbal-boot (FAT32, the EFI system partition) and an empty gimbal-data. The same inputs give
 * the same octets: ids come from a seed, times from the sources.
 */
import { createHash } from "node:crypto";
import { existsSync, readdirSync } from "node:fs";
import { rename, rm, truncate, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { digestOf, fileDigest, temporaryOf } from "../initramfs/cache.ts";
import { command } from "../initramfs/command.ts";
import type { Board } from "./board.ts";

export type BootFiles = {
  readonly ukiPath: string;
  /** Folders named <name>-<version>, each with manifest.cose and its images. */
  readonly guestosFolders: readonly string[];
};

const mebibyte = 1 << 20;
const bootStart = mebibyte;
const typeOf = {
  boot: "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", // EFI system partition
  data: "CA7D7CCB-63ED-4C53-861C-1742536059CC", // LUKS
} as const;

/** GUIDs that are the same for every image of a board: a device tells its disk by its own LUKS identity. */
function guid(seed: string): string {
  const bytes = createHash("sha256").update(`gimbal ${seed}`).digest().subarray(0, 16);
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x80; // version 8: made by us
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  const hex = bytes.toString("hex").toUpperCase();
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

export type Layout = { readonly boot: Extent; readonly data: Extent; readonly diskBytes: number };
export type Extent = { readonly offsetBytes: number; readonly sizeBytes: number };

export function layoutOf({ bootBytes, dataBytes }: Board["disk"]): Layout {
  const data = { offsetBytes: bootStart + bootBytes, sizeBytes: dataBytes };
  return {
    boot: { offsetBytes: bootStart, sizeBytes: bootBytes },
    data,
    diskBytes: data.offsetBytes + data.sizeBytes + mebibyte, // room for the second GPT
  };
}

/** Writes a whole disk to `path`, which appears by rename. The data partition stays a hole. */
export async function writeDisk(path: string, board: Board, files: BootFiles): Promise<void> {
  const layout = layoutOf(board.disk);
  const temporary = temporaryOf(path);
  try {
    await writeFile(temporary, "");
    await truncate(temporary, layout.diskBytes);
    await command("sfdisk", ["-q", "--no-tell-kernel", temporary], { input: partitionTable(board, layout) });
    await writeBootPartition(temporary, board, files);
    await rename(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
}

function partitionTable(board: Board, { boot, data }: Layout): string {
  const row = (extent: Extent, type: string, name: string) =>
    `start=${extent.offsetBytes / 512}, size=${extent.sizeBytes / 512}, type=${type}, uuid=${guid(`${board.name} ${name}`)}, name="${name}"`;
  return [
    "label: gpt",
    `label-id: ${guid(`${board.name} disk`)}`,
    row(boot, typeOf.boot, "gimbal-boot"),
    row(data, typeOf.data, "gimbal-data"),
    "",
  ].join("\n");
}

/** Formats the boot partition of the disk at `path` anew and fills it. Nothing else of the disk is touched. */
export async function writeBootPartition(path: string, board: Board, files: BootFiles): Promise<void> {
  const { boot } = layoutOf(board.disk);
  await punch(path, boot);
  const drive = `${path}@@${boot.offsetBytes}`;
  const env = { MTOOLS_SKIP_CHECK: "1", SOURCE_DATE_EPOCH: "1735689600", TZ: "UTC" };
  const serial = createHash("sha256").update(board.name).digest("hex").slice(0, 8);
  const sectors = String(boot.sizeBytes / 512);
  await command(
    "mformat",
    ["-i", drive, "-F", "-T", sectors, "-h", "255", "-s", "63", "-N", serial, "-v", "GIMBAL", "::"],
    { env },
  );
  await command("mmd", ["-i", drive, "::/EFI", "::/EFI/BOOT", "::/gimbal", "::/gimbal/guestos"], { env });
  await command("mcopy", ["-i", drive, files.ukiPath, "::/EFI/BOOT/BOOTX64.EFI"], { env });
  for (const folder of files.guestosFolders) {
    const target = `::/gimbal/guestos/${basename(folder)}`;
    await command("mmd", ["-i", drive, target], { env });
    for (const name of readdirSync(folder).sort()) {
      await command("mcopy", ["-i", drive, join(folder, name), `${target}/${name}`], { env });
    }
  }
}

/** Makes an extent of a file a hole again: zeros that take no space. */
async function punch(path: string, { offsetBytes, sizeBytes }: Extent): Promise<void> {
  await command("fallocate", [
    "--punch-hole",
    "--offset",
    String(offsetBytes),
    "--length",
    String(sizeBytes),
    path,
  ]);
}

/** The GuestOSes that the build made: build/guestos/<name>-<version>/ with a manifest. */
export function builtGuestos(repository: string): string[] {
  const folder = join(repository, "build/guestos");
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => existsSync(join(folder, name, "manifest.cose")))
    .sort()
    .map((name) => join(folder, name));
}

/** Says which content a boot partition has, to see whether it must be written again. */
export async function bootFilesDigest(files: BootFiles): Promise<string> {
  const parts = [await fileDigest(files.ukiPath)];
  for (const folder of files.guestosFolders) {
    for (const name of readdirSync(folder).sort()) {
      parts.push(`${basename(folder)}/${name}`, await fileDigest(join(folder, name)));
    }
  }
  return digestOf("1", ...parts);
}
