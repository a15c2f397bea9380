/**
 * `node tool/run.ts BOARD`: boots what board/build.ts built. The device's disk, TPM and firmware variables live in
 * build/run/<board>/ and stay from run to run; a new kernel image or new GuestOSes replace the boot partition only.
 * On a terminal this is the device's console; else each line of standard input is a command (script.ts).
 */
import { existsSync, readFileSync, statSync } from "node:fs";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { usableAccelerator } from "../board/accelerator.ts";
import { type Board, loadBoard } from "../board/board.ts";
import { bootFilesDigest, builtGuestos, layoutOf, writeBootPartition, writeDisk } from "../board/image.ts";
import { type Machine, prepareState, startMachine } from "../board/qemu.ts";
import { GimbalError, reasonOf } from "../init/errors.ts";
import { saveDigests, writeAtomic } from "../initramfs/cache.ts";
import { step } from "../initramfs/step.ts";
import { attachTerminal } from "./console.ts";
import { deviceFailed, runScript } from "./script.ts";

const repository = join(import.meta.dirname, "..");

/** What board/build.ts left in build/<board>/build.json. */
type Built = {
  readonly ukiPath: string;
  readonly kernelPath: string;
  readonly firmwarePath: string;
  readonly variablesPath: string;
  readonly keysDigest: string;
};

async function main(boardName: string): Promise<number> {
  const board = await loadBoard(boardName);
  const built = readBuilt(boardName);
  const folder = resolve(process.env["GIMBAL_RUN_FOLDER"] ?? join(repository, "build/run", boardName));
  await mkdir(folder, { recursive: true });
  await using _lock = await lockFolder(folder);
  const accelerator = await usableAccelerator(built.kernelPath, built.firmwarePath);
  await prepareDevice(folder, board, built);
  await saveDigests();
  await rm(join(folder, "serial.log"), { force: true });
  const machine = await startMachine({
    folder,
    boot: { is: "firmware", codePath: built.firmwarePath, smm: true },
    accelerator,
    memoryMiB: Number(process.env["GIMBAL_MEMORY_MIB"] ?? 1536),
    cpus: 2,
    disks: [{ path: "disk.img", format: "raw", serial: "gimbal", bus: "virtio" }],
    network: "virtio",
    tpm: true,
    rebootAllowed: true,
  });
  const stop = () => void machine.kill();
  process.once("SIGTERM", stop);
  process.once("SIGHUP", stop);
  try {
    return await use(machine, folder);
  } finally {
    await machine.kill();
  }
}

async function use(machine: Machine, folder: string): Promise<number> {
  if (process.stdin.isTTY) {
    process.stderr.write("  RUN   Ctrl-A x ends QEMU, Ctrl-A h lists the keys\n");
    const ended = await attachTerminal(machine);
    return ended === 0 ? 0 : deviceFailed;
  }
  return runScript(machine, folder, { bootMs: secondsOf("GIMBAL_BOOT_LIMIT_S", 420), shutdownMs: 120_000 });
}

const secondsOf = (name: string, otherwise: number): number => 1000 * Number(process.env[name] ?? otherwise);

function readBuilt(boardName: string): Built {
  const path = join(repository, "build", boardName, "build.json");
  if (!existsSync(path)) {
    throw new GimbalError("build-failed", {
      tried: "run",
      on: `the board ${boardName}`,
      why: "it is not built",
      todo: `run make run BOARD=${boardName}`,
    });
  }
  return JSON.parse(readFileSync(path, "utf8"));
}

/** The device's parts, made at the first run. */
async function prepareDevice(folder: string, board: Board, built: Built): Promise<void> {
  const disk = join(folder, "disk.img");
  const files = { ukiPath: built.ukiPath, guestosFolders: builtGuestos(repository) };
  const keys = built.keysDigest;
  const content = await bootFilesDigest(files);
  const was = readIfThere(join(folder, "device.json"));
  const now = { keys, content, diskBytes: layoutOf(board.disk).diskBytes };
  if (!existsSync(disk)) {
    await rm(join(folder, "vars.fd"), { force: true });
    await rm(join(folder, "tpm"), { recursive: true, force: true });
    await step("DISK", "a new device: disk, TPM, firmware variables", async () => {
      await prepareState(folder, built.variablesPath, true);
      await writeDisk(disk, board, files);
    });
  } else if (was?.keys !== keys || statSync(disk).size !== now.diskBytes) {
    throw new GimbalError("build-failed", {
      tried: "run",
      on: `the device in ${folder}`,
      why: was?.keys === keys ? "its disk has another layout" : "it was made with other keys",
      todo: `run make clean-disk BOARD=${board.name} to start over (its data goes)`,
    });
  } else if (was.content !== content) {
    await step("DISK", "the boot partition, written anew", () => writeBootPartition(disk, board, files));
  }
  await writeAtomic(join(folder, "device.json"), JSON.stringify(now));
}

function readIfThere(path: string): { keys?: string; content?: string } | undefined {
  return existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : undefined;
}

/** One QEMU per device folder. A lock whose process is gone is taken over. */
async function lockFolder(folder: string): Promise<AsyncDisposable> {
  const path = join(folder, "lock");
  const holder = existsSync(path) ? Number(readFileSync(path, "utf8")) : 0;
  if (holder > 0 && isAlive(holder)) {
    throw new GimbalError("build-failed", {
      tried: "run",
      on: folder,
      why: `process ${holder} runs it already`,
      todo: "end that one first",
    });
  }
  await writeFile(path, String(process.pid));
  return { [Symbol.asyncDispose]: () => rm(path, { force: true }) };
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

try {
  process.exitCode = await main(process.argv[2] ?? "qemu-x86-64");
} catch (error) {
  if (!(error instanceof GimbalError)) throw error;
  process.stderr.write(`${reasonOf(error)}\n`);
  process.exitCode = deviceFailed;
}
