/** The data volume's file system through mke2fs and e2fsck, mounted through the new mount API. */
import { closeSync } from "node:fs";
import { GimbalError } from "../errors.ts";
import type { Kernel } from "../kernel.ts";
import {
  AT_FDCWD,
  MNT_DETACH,
  MOUNT_ATTR_NOATIME,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
} from "../linux.ts";
import { isErrno, kernelRefusal } from "../machine/kernel-refusal.ts";
import { lastWords, type RunTool } from "../machine/process.ts";

export type Ext4Tools = { readonly mke2fs: string; readonly e2fsck: string };

export const ext4Tools: Ext4Tools = { mke2fs: "/usr/sbin/mke2fs", e2fsck: "/usr/sbin/e2fsck" };

const makeTimeoutMs = 300_000;
/** A large, full volume after a power cut: a limit only against a hang. */
const checkTimeoutMs = 3_600_000;

/** Makes an empty ext4 on `device`. Throws "tool-failed". */
export async function makeExt4(runTool: RunTool, device: string, tools = ext4Tools): Promise<void> {
  // Tables are written later by the kernel (lazy): seconds on a large disk. -m 1: root's reserve keeps PID 1 able to write.
  const lazy = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
  const args = [
    "-q",
    "-F",
    "-t",
    "ext4",
    "-b",
    "4096",
    "-m",
    "1",
    "-L",
    "gimbal-data",
    "-e",
    "remount-ro",
    "-E",
    lazy,
  ];
  const { status, stderr } = await runTool(tools.mke2fs, [...args, device], { timeoutMs: makeTimeoutMs });
  if (status !== 0)
    throw new GimbalError("tool-failed", {
      tried: "make a file system on",
      on: device,
      why: `mke2fs ended with ${status}${lastWords(stderr)}`,
    });
}

export type CheckResult = "clean" | "repaired";

/** Replays the journal and repairs what is safe. Throws "filesystem-damaged" where a person must decide. */
export async function checkExt4(runTool: RunTool, device: string, tools = ext4Tools): Promise<CheckResult> {
  const { status, stdout, stderr } = await runTool(tools.e2fsck, ["-p", device], {
    timeoutMs: checkTimeoutMs,
  });
  // e2fsck(8): a sum of bits; 1 corrected, 2 corrected and "reboot" (for a mounted one), from 4 on it is not whole.
  if (status === 0) return "clean";
  if (status < 4) return "repaired";
  throw new GimbalError("filesystem-damaged", {
    tried: "check the file system of",
    on: device,
    why: `e2fsck ended with ${status}${lastWords(stderr || new TextDecoder().decode(stdout))}`,
    todo: "save the disk, then repair it with e2fsck on another machine, or wipe it",
  });
}

/** Mounts ext4 at `target` with no setuid, device files or programs of its own. Disposing unmounts it. */
export function mountExt4(kernel: Kernel, device: string, target: string): AsyncDisposable {
  const tried = "mount the data volume";
  try {
    const attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOATIME;
    const mount = kernel.fsMount(
      "ext4",
      [
        ["source", device],
        ["errors", "remount-ro"],
      ],
      attributes,
    );
    try {
      kernel.moveMount(mount, AT_FDCWD, target);
    } finally {
      closeSync(mount);
    }
  } catch (error) {
    throw kernelRefusal(tried, device, error);
  }
  let mounted = true;
  return {
    async [Symbol.asyncDispose]() {
      if (!mounted) return;
      mounted = false;
      unmount(kernel, target);
    },
  };
}

/** A busy one is detached after a sync: what is on it is safe, and the name is free. */
function unmount(kernel: Kernel, target: string): void {
  try {
    kernel.umount(target, 0);
  } catch (error) {
    if (!isErrno(error, "EBUSY")) throw kernelRefusal("unmount", target, error);
    kernel.sync();
    kernel.umount(target, MNT_DETACH);
  }
}
