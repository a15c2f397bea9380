/**
 * Whether KVM is of use here. That /dev/kvm exists says nothing: nested or emulated hosts have it and no guest boots.
 * So two trials, once per machine: does Debian's kernel reach its end, and does the firmware come up with system
 * management mode, which Secure Boot needs. The answer is cached.
 */
import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { cpus, release } from "node:os";
import { join } from "node:path";
import { cacheRoot, digestOf, writeAtomic } from "../initramfs/cache.ts";
import { command } from "../initramfs/command.ts";
import { say } from "../initramfs/step.ts";

export type Accelerator = "tcg" | "kvm";

export async function usableAccelerator(kernelPath: string, firmwarePath: string): Promise<Accelerator> {
  const forced = process.env["GIMBAL_ACCEL"];
  if (forced === "tcg" || forced === "kvm") return forced;
  if (!canOpenKvm()) return "tcg";
  const qemuVersion = (await command("qemu-system-x86_64", ["--version"])).toString();
  const key = digestOf(qemuVersion, release(), cpus()[0]?.model ?? "").slice(0, 16);
  const answerPath = join(cacheRoot, "accelerator", key);
  if (existsSync(answerPath)) return readFileSync(answerPath, "utf8") === "kvm" ? "kvm" : "tcg";
  const started = performance.now();
  const works = (await kernelBoots(kernelPath)) && (await firmwareStarts(firmwarePath));
  const answer: Accelerator = works ? "kvm" : "tcg";
  await writeAtomic(answerPath, answer);
  say("KVM", works ? "works: used" : "a trial boot failed: not used", performance.now() - started);
  return answer;
}

function canOpenKvm(): boolean {
  try {
    accessSync("/dev/kvm", constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false; // absent, or not ours to open: emulation works everywhere
  }
}

const trialMachine = [
  "-accel",
  "kvm",
  "-cpu",
  "max",
  "-m",
  "512",
  "-nodefaults",
  "-display",
  "none",
  "-serial",
  "stdio",
];

async function kernelBoots(kernelPath: string): Promise<boolean> {
  const append = ["-append", "console=ttyS0 panic=-1"];
  const output = await trial(10, [
    "-machine",
    "q35",
    ...trialMachine,
    "-no-reboot",
    "-kernel",
    kernelPath,
    ...append,
  ]);
  return output.includes("Kernel panic"); // no initramfs: that far it must come
}

async function firmwareStarts(firmwarePath: string): Promise<boolean> {
  const flash = ["-drive", `if=pflash,unit=0,format=raw,readonly=on,file=${firmwarePath}`];
  const output = await trial(20, ["-machine", "q35,smm=on", ...trialMachine, ...flash]);
  return output.includes("BdsDxe");
}

/** What a QEMU wrote on its serial port within so many seconds. */
async function trial(seconds: number, args: readonly string[]): Promise<string> {
  const script = ["timeout", String(seconds), "qemu-system-x86_64", ...args];
  const output = await command("sh", ["-c", '"$@" 2>/dev/null || true', "sh", ...script]);
  return output.toString();
}
