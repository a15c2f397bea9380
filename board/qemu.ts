/**
 * A QEMU machine with a software TPM, as `make run` and the system tests use it. All its state lies in one folder:
 * vars.fd (firmware variables), tpm/, sockets and logs. Paths on the command lines are relative to that folder, since
 * the path of a unix socket may have only 107 octets.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { openSync } from "node:fs";
import { cp, mkdir, rm } from "node:fs/promises";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { command } from "../initramfs/command.ts";

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
    | { readonly is: "kernel"; readonly kernelPath: string; readonly initrdPath: string; readonly cmdline: string };
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
export const sockets = { serial: "serial.sock", control: "control.sock", monitor: "monitor.sock", tpm: "tpm.sock" } as const;

/** The virtio-serial port on which a development image serves the control protocol. */
export const controlPort = "org.gimbal.control";

export function qemuArguments(settings: MachineSettings): string[] {
  const { boot, disks, accelerator } = settings;
  const smm = boot.is === "firmware" && boot.smm;
  return [
    ...["-accel", accelerator === "kvm" ? "kvm" : "tcg,thread=multi"],
    ...["-machine", `q35,smm=${smm ? "on" : "off"}`, "-cpu", "max"],
    ...["-smp", String(settings.cpus), "-m", String(settings.memoryMiB)],
    ...["-nodefaults", "-display", "none", "-no-user-config"],
    ...["-chardev", `socket,id=serial,path=${sockets.serial},server=on,wait=on,logfile=serial.log,logappend=on`],
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
  return [...drive, "-device", `ide-hd,bus=ide.${index},${order.replace("serial=", "serial=")}`];
}

function networkArguments(network: MachineSettings["network"]): string[] {
  if (network === "none") return ["-nic", "none"];
  return ["-nic", `user,model=${network === "virtio" ? "virtio-net-pci" : "e1000e"}`];
}

/** Prepares the folder: firmware variables and TPM state, each only where it is not there yet. */
export async function prepareState(folder: string, variablesPath: string, tpm: boolean): Promise<void> {
  await mkdir(folder, { recursive: true });
  if (!existsSync(join(folder, "vars.fd"))) await cp(variablesPath, join(folder, "vars.fd"));
  if (tpm && !existsSync(join(folder, "tpm"))) await makeTpm(folder);
}

/** A new TPM with an endorsement certificate, as a manufacturer would make it. */
async function makeTpm(folder: string): Promise<void> {
  await mkdir(join(folder, "tpm.new"), { recursive: true });
  await command(
    "swtpm_setup",
    [
      ...["--tpm2", "--tpmstate", "tpm.new", "--create-ek-cert", "--create-platform-cert"],
      ...["--pcr-banks", "sha256", "--overwrite"],
    ],
    { cwd: folder },
  );
  await command("mv", ["tpm.new", "tpm"], { cwd: folder });
}

export type Machine = { readonly qemu: ChildProcess; readonly tpm: ChildProcess | undefined };

/** Starts the TPM, then QEMU. What both write on standard error goes to qemu.log and swtpm.log in the folder. */
export async function startMachine(settings: MachineSettings): Promise<Machine> {
  const { folder } = settings;
  for (const name of Object.values(sockets)) await rm(join(folder, name), { force: true });
  const log = (name: string) => openSync(join(folder, name), "w");
  const stdio = (name: string) => ["ignore", log(name), log(name)] as const;
  let tpm: ChildProcess | undefined;
  if (settings.tpm) {
    tpm = spawn(
      "swtpm",
      ["socket", "--tpm2", "--tpmstate", "dir=tpm", "--ctrl", `type=unixio,path=${sockets.tpm}`, "--terminate"],
      { cwd: folder, stdio: [...stdio("swtpm.log")] },
    );
    await appears(join(folder, sockets.tpm), tpm);
  }
  const qemu = spawn("qemu-system-x86_64", qemuArguments(settings), { cwd: folder, stdio: [...stdio("qemu.log")] });
  return { qemu, tpm };
}

/** Waits until a socket's file is there; fails when its program ends before. */
export async function appears(path: string, program: ChildProcess, timeoutMs = 20_000): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (!existsSync(path)) {
    if (program.exitCode !== null || program.signalCode !== null || Date.now() > end) {
      throw new Error(`${program.spawnfile} ended before ${path} was there`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
