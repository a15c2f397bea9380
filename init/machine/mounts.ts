/** The file systems that PID 1 itself lives on. Everything else is mounted by the room that needs it. */
import { mkdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { GimbalError } from "../errors.ts";
import type { Kernel } from "../kernel.ts";
import { MS_BIND, MS_MOVE, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_REC } from "../linux.ts";
import { isErrno, kernelRefusal } from "./kernel-refusal.ts";

type Mount = {
  readonly type: string;
  readonly target: string;
  readonly flags: number;
  readonly data?: string;
  /** The device comes up without it as well. */
  readonly optional?: true;
};

const quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC;

/** In this order: a later one may lie inside an earlier one. */
const system: readonly Mount[] = [
  { type: "proc", target: "/proc", flags: quiet },
  { type: "sysfs", target: "/sys", flags: quiet },
  { type: "devtmpfs", target: "/dev", flags: MS_NOSUID | MS_NOEXEC, data: "mode=0755" },
  { type: "securityfs", target: "/sys/kernel/security", flags: quiet, optional: true },
  { type: "cgroup2", target: "/sys/fs/cgroup", flags: quiet, data: "nsdelegate" },
  { type: "devpts", target: "/dev/pts", flags: MS_NOSUID | MS_NOEXEC, data: "mode=0620,gid=5,ptmxmode=0666" },
  { type: "tmpfs", target: "/dev/shm", flags: quiet, data: "mode=1777,size=16m" },
  // cryptsetup's locks, sockets, the own event log: small things. A limit keeps a leak from taking the machine's memory.
  { type: "tmpfs", target: "/run", flags: quiet, data: "mode=0755,size=64m" },
  { type: "tmpfs", target: "/tmp", flags: quiet, data: "mode=1777,size=32m" },
];

/**
 * Mounts what PID 1 needs, before anything else. What the kernel mounted already (devtmpfs) is left.
 * Returns the targets of optional ones that this kernel lacks. Throws "kernel-refused".
 */
export function mountSystem(kernel: Kernel, root = "/"): readonly string[] {
  const missing: string[] = [];
  for (const { type, target, flags, data, optional } of system) {
    try {
      mkdirSync(join(root, target), { recursive: true, mode: 0o755 });
      kernel.mount(type, join(root, target), type, flags, data ?? "");
    } catch (error) {
      if (isErrno(error, "EBUSY")) continue; // mounted already
      if (!optional)
        throw kernelRefusal("mount", target, error, "the kernel lacks a file system it must have");
      missing.push(target);
    }
  }
  mkdirSync(join(root, "run/gimbal"), { recursive: true, mode: 0o755 });
  return missing;
}

/** Mounts the firmware's variables, once their module is loaded. False: this machine did not boot through UEFI. */
export function mountEfivars(kernel: Kernel, target = "/sys/firmware/efi/efivars"): boolean {
  try {
    statSync(target);
    kernel.mount("efivarfs", target, "efivarfs", quiet, "");
    return true;
  } catch (error) {
    if (isErrno(error, "EBUSY")) return true;
    if (isErrno(error, "ENOENT", "ENODEV", "EOPNOTSUPP")) return false; // no UEFI, or a kernel without the module
    throw kernelRefusal("mount", target, error);
  }
}

/**
 * Lifts the root off the initramfs' rootfs, which has no parent mount and so cannot be pivoted away from: bind it to
 * /newroot, move that over /, enter it. No copy. Once, before the first container (facts of the container start, section 4).
 */
export function makePivotable(kernel: Kernel): void {
  if (process.pid !== 1) throw new GimbalError("unsupported", notPidOne);
  try {
    kernel.mount("/", "/newroot", "", MS_BIND | MS_REC, "");
    process.chdir("/newroot");
    kernel.mount(".", "/", "", MS_MOVE, "");
    kernel.chroot(".");
    process.chdir("/");
    kernel.mount("", "/", "", MS_REC | MS_PRIVATE, "");
  } catch (error) {
    throw kernelRefusal("move", "the root file system", error);
  }
}

const notPidOne = { tried: "move", on: "the root file system", why: "this process is not PID 1" };
