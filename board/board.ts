/** What a board is: one small declaration in board/<name>/board.ts, exported as `board`. docs/boards.md explains each field. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { GimbalError, quoted } from "../init/errors.ts";

export type Board = {
  /** The folder's name. */
  readonly name: string;
  readonly title: string;
  readonly arch: "x64";
  readonly kernel: KernelSource;
  /** Modules to load at boot, in this order but for dependencies, which come first by themselves. */
  readonly modules: readonly string[];
  /** Words of the signed kernel command line beside the hardening ones that all boards have. */
  readonly cmdline: readonly string[];
  /** Where the key of the data partition lives. */
  readonly storageKey: "tpm" | "recovery-only" | "none";
  readonly disk: {
    /** The boot partition: one kernel image is about 45 MB, two slots and the GuestOSes of the image. */
    readonly bootBytes: number;
    /** The data partition in the image; a device may have a larger disk. */
    readonly dataBytes: number;
  };
};

/** Debian's kernel by the meta package that names the kernel of the day, or a folder that an OEM hands in. */
export type KernelSource =
  | { readonly is: "debian"; readonly package: "linux-image-cloud-amd64" | "linux-image-amd64" }
  /** `path` holds vmlinuz and modules/<version>/ with kernel/ and modules.builtin in it. */
  | { readonly is: "folder"; readonly path: string };

/** Counts releases of the product; a device's number never goes down. */
export const releaseNumber = 1;

/** Loads a board's declaration. @throws GimbalError "build-failed" that lists the boards */
export async function loadBoard(name: string): Promise<Board> {
  const path = join(import.meta.dirname, name, "board.ts");
  if (!/^[a-z0-9-]+$/.test(name) || !existsSync(path)) {
    throw new GimbalError("build-failed", {
      tried: "build",
      on: `the board ${quoted(name)}`,
      why: `there is no board/<name>/board.ts of that name`,
      todo: `choose one of: ${boardNames().join(", ")}`,
    });
  }
  const { board }: { board: Board } = await import(path);
  return board;
}

export function boardNames(): string[] {
  const entries = readdirSync(import.meta.dirname, { withFileTypes: true });
  return entries
    .filter((entry) => entry.isDirectory() && existsSync(join(entry.parentPath, entry.name, "board.ts")))
    .map((entry) => entry.name)
    .sort();
}
