/**
 * A QEMU machine with a software TPM, as `make run` and the system tests use it. All its state lies in one folder:
 * vars.fd (firmware variables), tpm/, sockets and logs. Paths on the command lines are relative to that folder, since
 * the path of a unix socket may have only 107 octets.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, existsSync, openSync, readFileSync } from "node:fs";
import { cp, mkdir, rm } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { GimbalError } from "../init/errors.ts";
import { Monitor } from "./monitor.ts";
import { makeTpm } from "./tpm.ts";

export type Disk = {
  readonly path: string;
  readonly format: "raw" | "qcow2";
  readonly serial: string;
  readonly bus: "virtio" | "nvme" | "ahci";
};

export type MachineSettings = {
  readonly folder: string;
  readonly boot:
    | { readonly is: "firmware"; readonly codePath: string; readonly smm: boolean }
    | {
        readonly is: "kernel";
        readonly kernelPath: string;
        readonly initrdPath: string;
        readonly cmdline: string;
      };
  readonly accelerator: "tcg" | "kvm";
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly disks: readonly Disk[];
  readonly network: "virtio" | "e1000e" | "none";
  readonly tpm: boolean;
  /** A reset of the guest boots again; else it ends QEMU. */
  readonly rebootAllowed: boolean;
  readonly extra?: readonly string[];
};

/** Sockets in the machine's folder. QEMU listens on all of them and waits for somebody on `serial` before it starts. */
export const sockets = {
  serial: "serial.sock",
  control: "control.sock",
  monitor: "monitor.sock",
  tpm: "tpm.sock",
} as const;

/** The virtio-serial port on which a development image serves the control protocol. */
export const controlPort = "org.gimbal.control";

/**
 * Without KVM string instructions are emulated octet by octet, and the kernel clears each page with one where the CPU claims that this is
 * fast (ERMS, FSRM): 0.4 ms a page, and init_on_alloc and init_on_free clear every page. Without the claim c0 is up in half the time.
 */
const cpuOf = { kvm: "max", tcg: "max,-erms,-fsrm" } as const;

export function qemuArguments(settings: MachineSettings): string[] {
  const { boot, disks, accelerator } = settings;
  const smm = boot.is === "firmware" && boot.smm;
  return [
    ...["-accel", accelerator === "kvm" ? "kvm" : "tcg,thread=multi"],
    ...["-machine", `q35,smm=${smm ? "on" : "off"}`, "-cpu", cpuOf[accelerator]],
    ...["-smp", String(settings.cpus), "-m", String(settings.memoryMiB)],
    ...["-nodefaults", "-display", "none", "-no-user-config"],
    ...[
      "-chardev",
      `socket,id=serial,path=${sockets.serial},server=on,wait=on,logfile=serial.log,logappend=on`,
    ],
    ...["-serial", "chardev:serial"],
    ...["-qmp", `unix:${sockets.monitor},server=on,wait=off`],
    ...["-device", "virtio-serial-pci"],
    ...["-chardev", `socket,id=control,path=${sockets.control},server=on,wait=off`],
    ...["-device", `virtserialport,chardev=control,name=${controlPort}`],
    ...["-device", "i6300esb", "-action", "watchdog=reset"],
    ...["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"],
    ...(settings.rebootAllowed ? [] : ["-no-reboot"]),
    ...(boot.is === "firmware" ? firmwareArguments(boot.codePath, smm) : kernelArguments(boot)),
    ...(settings.tpm ? tpmArguments : []),
    ...disks.flatMap(diskArguments),
    ...networkArguments(settings.network),
    ...(settings.extra ?? []),
  ];
}

function firmwareArguments(codePath: string, smm: boolean): string[] {
  return [
    ...(smm ? ["-global", "driver=cfi.pflash01,property=secure,value=on"] : []),
    ...["-drive", `if=pflash,unit=0,format=raw,readonly=on,file=${codePath}`],
    ...["-drive", "if=pflash,unit=1,format=raw,file=vars.fd"],
  ];
}

function kernelArguments(boot: { kernelPath: string; initrdPath: string; cmdline: string }): string[] {
  return ["-kernel", boot.kernelPath, "-initrd", boot.initrdPath, "-append", boot.cmdline];
}

const tpmArguments = [
  ...["-chardev", `socket,id=tpm,path=${sockets.tpm}`],
  ...["-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm"],
];

function diskArguments({ path, format, serial, bus }: Disk, index: number): string[] {
  const id = `disk${index}`;
  const drive = ["-drive", `if=none,id=${id},format=${format},file=${path},discard=unmap`];
  const order = `drive=${id},serial=${serial},bootindex=${index + 1}`;
  if (bus === "virtio") return [...drive, "-device", `virtio-blk-pci,${order}`];
  if (bus === "nvme") return [...drive, "-device", `nvme,${order}`];
  return [...drive, "-device", `ide-hd,bus=ide.${index},${order}`];
}

function networkArguments(network: MachineSettings["network"]): string[] {
  if (network === "none") return ["-nic", "none"];
  return ["-nic", `user,model=${network === "virtio" ? "virtio-net-pci" : "e1000e"}`];
}

/** Prepares the folder: firmware variables and TPM state, each only where it is not there yet. */
export async function prepareState(
  folder: string,
  variablesPath: string | undefined,
  tpm: boolean,
): Promise<void> {
  await mkdir(folder, { recursive: true });
  if (variablesPath !== undefined && !existsSync(join(folder, "vars.fd")))
    await cp(variablesPath, join(folder, "vars.fd"));
  if (tpm && !existsSync(join(folder, "tpm"))) await makeTpm(folder);
}

/** A running machine. Whoever holds it ends it: `kill`, or the guest powers off. */
export class Machine {
  readonly qemu: ChildProcess;
  readonly monitor: Monitor;
  /** Both directions of the first serial port, from the first octet on. */
  readonly serial: Socket;
  /** How QEMU ended: a status or a signal's name. */
  readonly ended: Promise<number | string>;
  readonly #tpm: ChildProcess | undefined;

  constructor(qemu: ChildProcess, tpm: ChildProcess | undefined, monitor: Monitor, serial: Socket) {
    this.qemu = qemu;
    this.#tpm = tpm;
    this.monitor = monitor;
    this.serial = serial;
    const exited = new Promise<number | string>((resolve) => {
      const report = () => resolve(qemu.exitCode ?? qemu.signalCode ?? "unknown");
      if (qemu.exitCode !== null || qemu.signalCode !== null) report();
      else qemu.once("exit", report);
    });
    // The monitor's last event says why; it may be read only after the exit was seen.
    this.ended = exited.then((status) => Promise.race([monitor.closed, sleep(1000)]).then(() => status));
  }

  /** The end of a machine that is told nothing: as if its power cord were pulled. */
  async kill(): Promise<void> {
    this.qemu.kill("SIGKILL");
    await this.ended;
    this.monitor.close();
    this.serial.destroy();
    // swtpm ends by itself when QEMU is gone; one that does not would hold its state folder
    if (this.#tpm !== undefined && !(await endsWithin(this.#tpm, 3000))) this.#tpm.kill("SIGKILL");
  }
}

/** Starts the TPM, then QEMU. What both write on standard error goes to qemu.log and swtpm.log in the folder. */
export async function startMachine(settings: MachineSettings): Promise<Machine> {
  const { folder } = settings;
  for (const name of Object.values(sockets)) await rm(join(folder, name), { force: true });
  const tpm = settings.tpm ? await startTpm(folder) : undefined;
  const qemu = spawnIn(folder, "qemu-system-x86_64", qemuArguments(settings), "qemu.log");
  try {
    await appears(join(folder, sockets.serial), qemu);
    const serial = await connected(join(folder, sockets.serial));
    await appears(join(folder, sockets.monitor), qemu);
    return new Machine(qemu, tpm, await Monitor.open(join(folder, sockets.monitor)), serial);
  } catch (error) {
    qemu.kill("SIGKILL");
    tpm?.kill("SIGKILL");
    throw new GimbalError(
      "build-failed",
      {
        tried: "start",
        on: "QEMU",
        why: readFileSync(join(folder, "qemu.log"), "utf8").trim().split("\n").at(-1) ?? "",
      },
      error,
    );
  }
}

async function startTpm(folder: string): Promise<ChildProcess> {
  const control = ["--ctrl", `type=unixio,path=${sockets.tpm}`, "--terminate"];
  const tpm = spawnIn(
    folder,
    "swtpm",
    ["socket", "--tpm2", "--tpmstate", "dir=tpm", ...control],
    "swtpm.log",
  );
  await appears(join(folder, sockets.tpm), tpm);
  return tpm;
}

function spawnIn(folder: string, program: string, args: readonly string[], logName: string): ChildProcess {
  const log = openSync(join(folder, logName), "w");
  const child = spawn(program, args, { cwd: folder, stdio: ["ignore", log, log] });
  closeSync(log);
  return child;
}

/** Waits until a socket's file is there; fails when its program ends before. */
async function appears(path: string, program: ChildProcess, timeoutMs = 20_000): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (!existsSync(path)) {
    if (program.exitCode !== null || program.signalCode !== null || Date.now() > end) {
      throw new Error(`${program.spawnfile} ended before ${path} was there`);
    }
    await sleep(20);
  }
}

async function connected(path: string): Promise<Socket> {
  const socket = connect(path);
  await new Promise<void>((resolve, reject) => {
    socket.once("connect", () => resolve());
    socket.once("error", reject);
  });
  socket.on("error", () => {}); // QEMU ended: its exit status says more
  return socket;
}

async function endsWithin(child: ChildProcess, timeoutMs: number): Promise<boolean> {
  const end = Date.now() + timeoutMs;
  while (child.exitCode === null && child.signalCode === null) {
    if (Date.now() > end) return false;
    await sleep(20);
  }
  return true;
}
