/**
 * A guest's /dev and devpts, made by PID 1 since a device node cannot be made in a user namespace. Both are detached
 * mounts; /dev is id-mapped later, once the guest's user namespace exists.
 */
import { closeSync, existsSync, readFileSync } from "node:fs";
import type { Kernel } from "../kernel.ts";
import { MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, RESOLVE_BENEATH, S_IFBLK, S_IFCHR } from "../linux.ts";
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
    for (const folder of folders) kernel.mkdirat(dev, folder, 0o755);
    for (const [name, target] of links) kernel.symlinkat(target, dev, name);
    // What is the guest's own stays so: an allowed machine-wide ptmx or console must not take its place.
    const made = new Set([...folders, ...links.map(([name]) => name), "console"]);
    for (const node of [...defaultNodes, ...nodesOf(rules)]) makeNode(kernel, dev, node, made);
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

function makeNode(kernel: Kernel, dev: number, node: DeviceNode, made: Set<string>): void {
  if (made.has(node.name)) return;
  const parts = node.name.split("/");
  for (let depth = 1; depth < parts.length; depth++) {
    const folder = parts.slice(0, depth).join("/");
    if (!made.has(folder)) kernel.mkdirat(dev, folder, 0o755);
    made.add(folder);
  }
  const type = node.type === "b" ? S_IFBLK : S_IFCHR;
  kernel.mknodat(dev, node.name, type | node.mode, { major: node.major, minor: node.minor });
  made.add(node.name);
}

/** Nodes for the rules that name one device which this machine has now, under the kernel's own name for it. */
export function nodesOf(rules: readonly DeviceRule[]): DeviceNode[] {
  const nodes: DeviceNode[] = [];
  for (const { type, major, minor } of rules) {
    if (major === "*" || minor === "*" || isDefault(type, major, minor)) continue;
    const uevent = `/sys/dev/${type === "b" ? "block" : "char"}/${major}:${minor}/uevent`;
    if (!existsSync(uevent)) continue;
    const name = /^DEVNAME=([A-Za-z0-9._/-]+)$/m.exec(readFileSync(uevent, "utf8"))?.[1];
    if (name === undefined || name.split("/").includes("..")) continue;
    nodes.push({ name, type, major, minor, mode: 0o660 });
  }
  return nodes;
}

const isDefault = (type: "c" | "b", major: number, minor: number): boolean =>
  defaultNodes.some((node) => node.type === type && node.major === major && node.minor === minor);
