/**
 * A guest's /dev and devpts, made by PID 1 since a device node cannot be made in a user namespace. Both are detached
 * mounts; /dev is id-mapped later, once the guest's user namespace exists.
 */
import { closeSync, existsSync, readFileSync } from "node:fs";
import type { Kernel } from "../kernel.ts";
import { MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, O_PATH, RESOLVE_BENEATH, S_IFBLK, S_IFCHR } from "../linux.ts";
import { type DeviceNode, type DeviceRule, defaultNodes } from "./devices.ts";

export type GuestDev = Disposable & {
  readonly dev: number;
  /** Kept open while the guest lives: terminals for `control run` come from it, whatever the guest mounts over it. */
  readonly devpts: number;
};

const folders = ["pts", "shm", "mqueue"];
const links: readonly (readonly [string, string])[] = [
  ["ptmx", "pts/ptmx"],
  ["fd", "/proc/self/fd"],
  ["stdin", "/proc/self/fd/0"],
  ["stdout", "/proc/self/fd/1"],
  ["stderr", "/proc/self/fd/2"],
];
const O_WRONLY_CREAT_EXCL = 0o1 | 0o100 | 0o200;

export function makeGuestDev(kernel: Kernel, idBase: number, rules: readonly DeviceRule[]): GuestDev {
  using undo = new DisposableStack();
  const dev = kernel.fsMount(
    "tmpfs",
    [
      ["size", "1m"],
      ["nr_inodes", "4096"],
      ["mode", "755"],
    ],
    devAttributes,
  );
  undo.defer(() => closeSync(dev));
  const mask = kernel.umask(0); // mknodat obeys it
  try {
    // The devpts of the guest has its own ptmx: an allowed machine-wide one must not take the link's place.
    const nodes = [...defaultNodes, ...nodesOf(rules)].filter(
      ({ name }) => !links.some(([link]) => link === name),
    );
    for (const node of nodes) makeNode(kernel, dev, node);
    for (const folder of folders) kernel.mkdirat(dev, folder, 0o755);
    for (const [name, target] of links) kernel.symlinkat(target, dev, name);
    closeSync(kernel.openat2(dev, "console", O_WRONLY_CREAT_EXCL, 0o600, RESOLVE_BENEATH));
  } finally {
    kernel.umask(mask);
  }
  const devpts = kernel.fsMount(
    "devpts",
    [
      ["ptmxmode", "0666"],
      ["mode", "0620"],
      ["gid", String(idBase + 5)],
      ["max", "1024"],
    ],
    devAttributes,
  );
  undo.defer(() => closeSync(devpts));
  const owned = undo.move();
  return { dev, devpts, [Symbol.dispose]: () => owned.dispose() };
}

const devAttributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;

function makeNode(kernel: Kernel, dev: number, node: DeviceNode): void {
  const parts = node.name.split("/");
  for (let depth = 1; depth < parts.length; depth++) {
    const folder = parts.slice(0, depth).join("/");
    if (!exists(kernel, dev, folder)) kernel.mkdirat(dev, folder, 0o755);
  }
  if (exists(kernel, dev, node.name)) return;
  const type = node.type === "b" ? S_IFBLK : S_IFCHR;
  kernel.mknodat(dev, node.name, type | node.mode, { major: node.major, minor: node.minor });
}

function exists(kernel: Kernel, dev: number, path: string): boolean {
  try {
    closeSync(kernel.openat2(dev, path, O_PATH, 0, RESOLVE_BENEATH));
    return true;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return false;
    throw error;
  }
}

/** Nodes for the rules that name one device which this machine has now, under the kernel's own name for it. */
export function nodesOf(rules: readonly DeviceRule[]): DeviceNode[] {
  const nodes: DeviceNode[] = [];
  for (const { type, major, minor } of rules) {
    if (major === "*" || minor === "*" || (major === 5 && minor === 2)) continue; // ptmx: the guest's own
    const uevent = `/sys/dev/${type === "b" ? "block" : "char"}/${major}:${minor}/uevent`;
    if (!existsSync(uevent)) continue;
    const name = /^DEVNAME=([A-Za-z0-9._/-]+)$/m.exec(readFileSync(uevent, "utf8"))?.[1];
    if (name === undefined || name.split("/").includes("..")) continue;
    nodes.push({ name, type, major, minor, mode: 0o660 });
  }
  return nodes;
}
