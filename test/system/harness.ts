/**
 * Devices for system tests: QEMU with the real firmware, the real image and a software TPM. A TestDevice is what lies on
 * the table (disk, TPM, firmware variables; it keeps its state between boots and can be cloned), a Boot is one run of
 * it. All of it lies in build/system/<name>/; the logs stay there, the disk goes with the test unless GIMBAL_KEEP=1.
 *
 *   await using device = await TestDevice.create("seal-refuses-x");
 *   await using boot = await device.boot();
 *   await boot.waitFor(/c0 started/, 120_000);
 */
import { spawn } from "node:child_process";
import { appendFileSync, existsSync, readFileSync, rmSync } from "node:fs";
import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { usableAccelerator } from "../../board/accelerator.ts";
import { type Board, loadBoard } from "../../board/board.ts";
import { builtGuestos, writeBootPartition, writeDisk } from "../../board/image.ts";
import { type Disk, type Machine, prepareState, sockets, startMachine } from "../../board/qemu.ts";
import { command } from "../../initramfs/command.ts";
import { connectDevice, type Device } from "../../tool/device.ts";
import { PlainText } from "../../tool/plain-text.ts";

export const repository = join(import.meta.dirname, "../..");

/** What board/build.ts made for a board: build/<board>/build.json. */
export type Built = {
  readonly ukiPath: string;
  readonly initramfsPath: string;
  readonly kernelPath: string;
  readonly cmdline: string;
  readonly pcr11: string;
  readonly firmwarePath: string;
  readonly variablesPath: string;
  readonly emptyVariablesPath: string;
};

/** Builds a board, which takes seconds where nothing changed, and says where the results are. */
export async function buildForTest(boardName = "qemu-x86-64", flags: readonly string[] = []): Promise<Built> {
  await command(process.execPath, [join(repository, "board/build.ts"), boardName, ...flags], {
    cwd: repository,
  });
  return JSON.parse(await readFile(join(repository, "build", boardName, "build.json"), "utf8"));
}

export type DeviceOptions = {
  readonly board?: string;
  /** Another kernel image than the one built. */
  readonly ukiPath?: string;
  /** Folders of GuestOSes for the boot partition; default: all that were built. */
  readonly guestosFolders?: readonly string[];
  /** false: a firmware without keys, which boots anything. */
  readonly secureBoot?: boolean;
  /** Size of the data partition; default: the board's. */
  readonly dataBytes?: number;
};

export type BootOptions = {
  /** Start the kernel directly, without firmware: no Secure Boot, but 15 s less. The string is the command line; true: the built one. */
  readonly direct?: boolean | string;
  readonly tpm?: boolean;
  readonly rebootAllowed?: boolean;
  readonly memoryMiB?: number;
  readonly network?: "virtio" | "e1000e" | "none";
  readonly bus?: Disk["bus"];
  readonly disks?: readonly Disk[];
  /** More QEMU arguments, such as -smbios. */
  readonly extra?: readonly string[];
};

export class TestDevice implements AsyncDisposable {
  readonly name: string;
  readonly folder: string;
  readonly board: Board;
  readonly built: Built;
  #boots = 0;

  private constructor(name: string, board: Board, built: Built) {
    this.name = name;
    this.folder = folderOf(name);
    this.board = board;
    this.built = built;
  }

  static async create(name: string, options: DeviceOptions = {}): Promise<TestDevice> {
    const built = await buildForTest(options.board);
    const declared = await loadBoard(options.board ?? "qemu-x86-64");
    const dataBytes = options.dataBytes ?? declared.disk.dataBytes;
    const device = new TestDevice(name, { ...declared, disk: { ...declared.disk, dataBytes } }, built);
    await rm(device.folder, { recursive: true, force: true });
    await mkdir(device.folder, { recursive: true });
    const variables = options.secureBoot === false ? built.emptyVariablesPath : built.variablesPath;
    await prepareState(device.folder, variables, true);
    await writeDisk(device.diskPath, device.board, bootFiles(built, options));
    return device;
  }

  get diskPath(): string {
    return join(this.folder, "disk.img");
  }

  /** A second device with the same disk, TPM and variables. Not while this one runs. */
  async clone(name: string): Promise<TestDevice> {
    const copy = new TestDevice(name, this.board, this.built);
    await rm(copy.folder, { recursive: true, force: true });
    await mkdir(copy.folder, { recursive: true });
    await command("cp", ["--sparse=always", this.diskPath, copy.diskPath]);
    await cp(join(this.folder, "vars.fd"), join(copy.folder, "vars.fd"));
    await cp(join(this.folder, "tpm"), join(copy.folder, "tpm"), { recursive: true });
    return copy;
  }

  /** Writes the boot partition anew, as an update from outside would; the data partition stays. */
  async replaceBoot(options: Pick<DeviceOptions, "ukiPath" | "guestosFolders">): Promise<void> {
    await writeBootPartition(this.diskPath, this.board, bootFiles(this.built, options));
  }

  /** A factory-new TPM in place of the one the device had. */
  async replaceTpm(): Promise<void> {
    await rm(join(this.folder, "tpm"), { recursive: true });
    await prepareState(this.folder, undefined, true);
  }

  /** Other firmware variables: `variablesPath` of `built`, the empty ones, or a test's own. */
  async replaceVariables(path: string): Promise<void> {
    await cp(path, join(this.folder, "vars.fd"));
  }

  async boot(options: BootOptions = {}): Promise<Boot> {
    const { built } = this;
    const disk: Disk = { path: "disk.img", format: "raw", serial: "gimbal", bus: options.bus ?? "virtio" };
    const machine = await startMachine({
      folder: this.folder,
      boot:
        options.direct === undefined || options.direct === false
          ? { is: "firmware", codePath: built.firmwarePath, smm: true }
          : {
              is: "kernel",
              kernelPath: built.kernelPath,
              initrdPath: built.initramfsPath,
              cmdline: options.direct === true ? built.cmdline : options.direct,
            },
      accelerator: await usableAccelerator(built.kernelPath, built.firmwarePath),
      memoryMiB: options.memoryMiB ?? 1536,
      cpus: 2,
      disks: options.disks ?? [disk],
      network: options.network ?? "virtio",
      tpm: options.tpm ?? true,
      rebootAllowed: options.rebootAllowed ?? false,
      ...(options.extra === undefined ? {} : { extra: options.extra }),
    });
    this.#boots++;
    return new Boot(machine, this.folder, `boot-${this.#boots}.log`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (process.env["GIMBAL_KEEP"] === "1") return;
    await rm(this.diskPath, { force: true });
  }
}

/** One run of a device. What it writes on its console is kept as text without escape codes. */
export class Boot implements AsyncDisposable {
  readonly machine: Machine;
  readonly #folder: string;
  readonly #logPath: string;
  readonly #plain = new PlainText();
  readonly #changed = new Set<() => void>();
  #text = "";
  #seen = 0;
  #devices: Device[] = [];

  constructor(machine: Machine, folder: string, logName: string) {
    this.machine = machine;
    this.#folder = folder;
    this.#logPath = join(folder, logName);
    rmSync(this.#logPath, { force: true });
    machine.serial.on("data", (chunk: Buffer) => {
      const text = this.#plain.take(chunk).toString();
      this.#text += text;
      appendFileSync(this.#logPath, text);
      this.#wake();
    });
    void machine.ended.then(() => this.#wake());
  }

  /** Everything so far. */
  get console(): string {
    return this.#text;
  }

  /** Waits for text behind what an earlier call found. Rejects with the end of the console after `timeoutMs` or when QEMU ends. */
  async waitFor(wanted: string | RegExp, timeoutMs = 180_000): Promise<RegExpExecArray> {
    const pattern =
      typeof wanted === "string" ? new RegExp(wanted.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")) : wanted;
    const end = Date.now() + timeoutMs;
    let over = false;
    for (;;) {
      const found = pattern.exec(this.#text.slice(this.#seen));
      if (found !== null) {
        this.#seen += found.index + found[0].length;
        return found;
      }
      if (over) throw new Error(`QEMU ended, ${pattern} never came\n${this.tail()}`);
      if (Date.now() > end) throw new Error(`${pattern} did not come within ${timeoutMs} ms\n${this.tail()}`);
      over = this.machine.qemu.exitCode !== null || this.machine.qemu.signalCode !== null;
      if (!over) await this.#change(Math.min(1000, end - Date.now() + 1));
      else await sleep(100); // the last octets may still be on their way
    }
  }

  /** The last lines of the console, for a message. */
  tail(lines = 20): string {
    return this.#text.split("\n").slice(-lines).join("\n");
  }

  /** Types on the console. */
  send(keys: string): void {
    this.machine.serial.write(keys);
  }

  /** Presses keys while the firmware or the kernel holds the screen; names as QEMU has them ("ret", "ctrl-alt-delete"). */
  async sendKey(name: string): Promise<void> {
    const keys = name.split("-").map((data) => ({ type: "qcode", data }));
    await this.machine.monitor.command("send-key", { keys });
  }

  /** The control connection of a development image, as soon as the device serves it. */
  async device(timeoutMs = 180_000): Promise<Device> {
    const limit = AbortSignal.timeout(timeoutMs);
    const ended = this.machine.ended.then((status): never => {
      throw new Error(`QEMU ended with ${status} before the device was up\n${this.tail()}`);
    });
    const device = await Promise.race([connectDevice(this.controlPath, limit), ended]);
    this.#devices.push(device);
    return device;
  }

  /** The unix socket of the control port: for tests that speak the protocol themselves. */
  get controlPath(): string {
    return join(this.#folder, sockets.control);
  }

  /** Waits until QEMU ended; says why the guest stopped ("guest-shutdown", "guest-reset", "guest-panic"). */
  async ended(timeoutMs = 120_000): Promise<string> {
    const status = await Promise.race([this.machine.ended, sleep(timeoutMs, undefined, { ref: false })]);
    if (status === undefined) throw new Error(`QEMU still runs after ${timeoutMs} ms\n${this.tail()}`);
    return this.machine.monitor.shutdown?.reason ?? `ended with ${status}`;
  }

  /** Pulls the power cord. */
  async kill(): Promise<void> {
    for (const device of this.#devices) device.close();
    await this.machine.kill();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  #wake(): void {
    for (const each of this.#changed) each();
  }

  #change(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#changed.delete(done);
        resolve();
      };
      const timer = setTimeout(done, timeoutMs);
      this.#changed.add(done);
    });
  }
}

function folderOf(name: string): string {
  if (!/^[a-z0-9-]{1,40}$/.test(name)) throw new Error(`a test device is named with a-z, 0-9 and -: ${name}`);
  return join(repository, "build/system", name);
}

function bootFiles(built: Built, options: Pick<DeviceOptions, "ukiPath" | "guestosFolders">) {
  return {
    ukiPath: options.ukiPath ?? built.ukiPath,
    guestosFolders: options.guestosFolders ?? builtGuestos(repository),
  };
}

/** Makes another kernel image out of `path` and returns where it lies: for the refusals. */
export async function changedCopy(
  path: string,
  to: string,
  change: (bytes: Buffer) => Buffer,
): Promise<string> {
  await mkdir(join(to, ".."), { recursive: true });
  await writeFile(to, change(readFileSync(path)));
  return to;
}

/** True where this machine can run system tests at all; else why not. */
export async function canRunSystemTests(): Promise<true | string> {
  for (const program of ["qemu-system-x86_64", "swtpm", "swtpm_setup"]) {
    const found = (process.env["PATH"] ?? "").split(":").some((folder) => existsSync(join(folder, program)));
    if (!found) return `${program} is not installed`;
  }
  return true;
}

/** Runs a program and gives its status and both outputs: for `make run` as a user calls it. */
export async function runProgram(
  program: string,
  args: readonly string[],
  input: string,
  timeoutMs: number,
  env: Readonly<Record<string, string>> = {},
): Promise<{ status: number | string; stdout: string; stderr: string }> {
  const child = spawn(program, args, {
    cwd: repository,
    timeout: timeoutMs,
    stdio: ["pipe", "pipe", "pipe"],
    env: { ...process.env, ...env },
  });
  const [output, errors]: [Buffer[], Buffer[]] = [[], []];
  child.stdout.on("data", (chunk: Buffer) => output.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => errors.push(chunk));
  child.stdin.end(input);
  const status = await new Promise<number | string>((resolve) =>
    child.once("close", (code, signal) => resolve(code ?? signal ?? "unknown")),
  );
  return { status, stdout: Buffer.concat(output).toString(), stderr: Buffer.concat(errors).toString() };
}
