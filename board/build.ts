/**
 * `node board/build.ts BOARD [--image]`: everything from sources to a signed kernel image, and with --image to a disk
 * image that can be flashed. Results lie in build/<board>/; build/<board>/build.json names them.
 */
import { existsSync, mkdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { GimbalError, reasonOf } from "../init/errors.ts";
import { digestOf, fileDigest, place, saveDigests, writeAtomic } from "../initramfs/cache.ts";
import { say } from "../initramfs/step.ts";
import { type Board, loadBoard } from "./board.ts";
import { firmwarePackage } from "./debian/wanted.ts";
import { builtGuestos } from "./image.ts";
import { enrolVariables, type Keys } from "./keys.ts";
import { buildParts, fileIn, type Parts, packageVersion, repository } from "./parts.ts";
import { writeRelease } from "./release.ts";
import { buildUki } from "./uki.ts";

export type BuildResult = {
  readonly board: string;
  readonly folder: string;
  readonly ukiPath: string;
  readonly initramfsPath: string;
  readonly kernelPath: string;
  readonly cmdline: string;
  /** As the TPM will have it when the disk is unsealed. */
  readonly pcr11: string;
  /** Which keys the firmware's variables hold. */
  readonly keysDigest: string;
  /** OVMF: code, and variables with this product's keys enrolled. */
  readonly firmwarePath: string;
  readonly variablesPath: string;
  readonly emptyVariablesPath: string;
};

/** Builds a board; what did not change comes from the cache. */
export async function buildBoard(board: Board): Promise<BuildResult> {
  const parts = await buildParts(board);
  const { dbKey, dbCertificate } = parts.keys;
  const uki = await buildUki(parts.uki, { keyPath: dbKey, certificatePath: dbCertificate });
  return placeResults(board, parts, uki);
}

async function placeResults(
  board: Board,
  { keys, packages, uki }: Parts,
  made: { path: string; pcr11: string },
): Promise<BuildResult> {
  const folder = join(repository, "build", board.name);
  mkdirSync(folder, { recursive: true });
  const at = (name: string) => join(folder, name);
  const firmware = (name: string) => fileIn(packages, firmwarePackage, `usr/share/OVMF/${name}`);
  await place(made.path, at("uki.efi"));
  await place(uki.initramfsPath, at("initramfs.cpio.zst"));
  await place(uki.kernelPath, at("vmlinuz"));
  await place(firmware("OVMF_CODE_4M.secboot.fd"), at("OVMF_CODE.fd"));
  await place(firmware("OVMF_VARS_4M.fd"), at("OVMF_VARS.empty.fd"));
  const result: BuildResult = {
    board: board.name,
    folder,
    ukiPath: at("uki.efi"),
    initramfsPath: at("initramfs.cpio.zst"),
    kernelPath: at("vmlinuz"),
    cmdline: uki.cmdline,
    pcr11: made.pcr11,
    keysDigest: await enrol(keys, at("OVMF_VARS.empty.fd"), at("OVMF_VARS.fd")),
    firmwarePath: at("OVMF_CODE.fd"),
    variablesPath: at("OVMF_VARS.fd"),
    emptyVariablesPath: at("OVMF_VARS.empty.fd"),
  };
  await writeAtomic(at("build.json"), `${JSON.stringify(result, undefined, 2)}\n`);
  return result;
}

/** Firmware variables hold the time of their writing, so they are made anew only for other keys. */
async function enrol(keys: Keys, empty: string, enrolled: string): Promise<string> {
  const lists = Object.values(keys.signatureLists);
  const digest = digestOf(await fileDigest(empty), ...(await Promise.all(lists.map(fileDigest))));
  const stamp = `${enrolled}.keys`;
  if (existsSync(enrolled) && existsSync(stamp) && readFileSync(stamp, "utf8") === digest) return digest;
  await enrolVariables(keys, empty, enrolled);
  await writeAtomic(stamp, digest);
  return digest;
}

if (import.meta.main) {
  const [name, ...flags] = process.argv.slice(2);
  try {
    const board = await loadBoard(name ?? "");
    const result = await buildBoard(board);
    say("UKI", `build/${board.name}/uki.efi`, undefined, statSync(result.ukiPath).size);
    if (flags.includes("--image")) {
      const files = { ukiPath: result.ukiPath, guestosFolders: builtGuestos(repository) };
      await writeRelease(result.folder, board, packageVersion(), files);
    }
    await saveDigests();
  } catch (error) {
    if (!(error instanceof GimbalError)) throw error;
    process.stderr.write(`${reasonOf(error)}\n`);
    process.exitCode = 1;
  }
}
