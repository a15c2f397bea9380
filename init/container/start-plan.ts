/**
 * Inputs of one start -> plan: the order of the steps in the new process, facts of which are in the comments. Pure.
 * Every path after `chdir` is resolved in the guest's root by the shim.
 */
import {
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_RDONLY,
  MS_REC,
  MS_SLAVE,
} from "../linux.ts";
import type { Plan, PlanOp } from "./plan.ts";

export type GuestRoot =
  | { readonly is: "read-only"; readonly slot: number }
  /** The image below a tmpfs: what the guest writes is gone at its end. */
  | { readonly is: "overlay"; readonly slot: number; readonly tmpfsBytes: number };

export type GuestMount =
  /** A detached mount. `make`: its mount point is made first, only below /run. */
  | {
      readonly is: "detached";
      readonly slot: number;
      readonly path: string;
      readonly make: "file" | "directory" | undefined;
    }
  | { readonly is: "tmpfs"; readonly path: string; readonly sizeBytes: number; readonly mode: string };

/** The restrictions that a command in the guest gets as well. */
export type Walls = {
  readonly capabilities: bigint;
  readonly noNewPrivs: boolean;
  readonly seccomp: Uint8Array;
  /** LANDLOCK_SCOPE_* bits, 0 where the kernel has none. */
  readonly landlockScopes: number;
  readonly resourceLimits: readonly PlanOp[];
};

export type StartInputs = {
  readonly staging: string;
  readonly root: GuestRoot;
  /** Slots: the guest's /dev, its devpts, /run/host, and the console as a mount. */
  readonly dev: number;
  readonly devpts: number;
  readonly host: number;
  readonly console: number;
  readonly mounts: readonly GuestMount[];
  readonly hostname: string;
  readonly memoryBytes: number;
  readonly maskProc: boolean;
  readonly walls: Walls;
  readonly init: { readonly path: string; readonly argv: readonly string[]; readonly env: readonly string[] };
};

const quiet = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

export function startPlan(start: StartInputs): Plan {
  return [
    { op: "reset" },
    { op: "setsid" },
    { op: "sessionKeyring" },
    { op: "umask", mask: 0 }, // modes below are meant as they stand
    { op: "oomScore", value: 0 },
    // Nothing mounted here gets out, nothing that PID 1 mounts later gets in for longer than the pivot.
    { op: "propagation", path: "/", flags: MS_SLAVE | MS_REC },
    ...rootOps(start),
    { op: "chdir", path: `${start.staging}/root` },
    ...apiOps(start),
    ...start.mounts.flatMap(mountOps),
    // What is in /etc may be a link to anywhere: it is resolved in the guest's root, or not there (B14).
    {
      op: "bind",
      source: "/run/host/resolv.conf",
      path: "/etc/resolv.conf",
      attributes: MOUNT_ATTR_RDONLY,
      mayBeMissing: true,
    },
    ...(start.maskProc ? maskOps() : []),
    { op: "openStdio", path: "/dev/console" },
    { op: "controllingTty" },
    // The kernel wants proc and sysfs mounted before the old root, with its own, goes.
    { op: "pivot" },
    { op: "hostname", name: start.hostname },
    { op: "umask", mask: 0o022 },
    ...wallOps(start.walls),
    { op: "exec", ...start.init },
  ];
}

/** From here on nothing of PID 1 is left but the walls: the order is that each step still may do the next. */
export function wallOps(walls: Walls): PlanOp[] {
  const drop: PlanOp[] = [
    { op: "boundingSet", keep: walls.capabilities },
    { op: "capabilities", permitted: walls.capabilities, inheritable: 0n },
  ];
  const scope: PlanOp[] = walls.landlockScopes ? [{ op: "landlockScope", scopes: walls.landlockScopes }] : [];
  const filter: PlanOp[] = [...scope, { op: "seccomp", filter: walls.seccomp }];
  const sysAdmin = 1n << 21n;
  // Without no_new_privs, filter and scope need CAP_SYS_ADMIN, which a service's root is about to lose.
  const filterLast = walls.noNewPrivs || (walls.capabilities & sysAdmin) !== 0n;
  return [
    ...walls.resourceLimits,
    { op: "closeOnExec" },
    ...(walls.noNewPrivs ? [{ op: "noNewPrivs" } as const] : []),
    ...(filterLast ? [...drop, ...filter] : [...filter, ...drop]),
  ];
}

/** Recipe B of the overlay: mounted in the guest's user namespace, `userxattr`, upper on a tmpfs of its own. */
function rootOps({ root, staging }: StartInputs): PlanOp[] {
  if (root.is === "read-only") return [{ op: "moveMount", slot: root.slot, path: `${staging}/root` }];
  const [lower, upper] = [`${staging}/l`, `${staging}/u`];
  return [
    { op: "moveMount", slot: root.slot, path: lower },
    tmpfs(upper, root.tmpfsBytes, "755", MOUNT_ATTR_NODEV),
    { op: "mkdir", path: `${upper}/up`, mode: 0o755 },
    { op: "mkdir", path: `${upper}/wk`, mode: 0o755 },
    {
      op: "mountFs",
      fsType: "overlay",
      path: `${staging}/root`,
      options: [["lowerdir+", lower], ["upperdir", `${upper}/up`], ["workdir", `${upper}/wk`], ["userxattr"]],
      attributes: MOUNT_ATTR_NODEV,
    },
  ];
}

function apiOps({ dev, devpts, host, console, memoryBytes }: StartInputs): PlanOp[] {
  return [
    { op: "mountFs", fsType: "proc", path: "/proc", options: [], attributes: quiet },
    { op: "mountFs", fsType: "sysfs", path: "/sys", options: [], attributes: quiet | MOUNT_ATTR_RDONLY },
    { op: "mountFs", fsType: "cgroup2", path: "/sys/fs/cgroup", options: [], attributes: quiet },
    { op: "moveMount", slot: dev, path: "/dev" },
    { op: "moveMount", slot: devpts, path: "/dev/pts" },
    tmpfs("/dev/shm", memoryBytes / 2, "1777", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV),
    { op: "mountFs", fsType: "mqueue", path: "/dev/mqueue", options: [], attributes: quiet },
    { op: "moveMount", slot: console, path: "/dev/console" },
    tmpfs("/run", memoryBytes / 4, "755", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV),
    { op: "mkdir", path: "/run/host", mode: 0o755 },
    { op: "moveMount", slot: host, path: "/run/host" },
  ];
}

function tmpfs(path: string, sizeBytes: number, mode: string, attributes: number): PlanOp {
  const size = String(Math.max(4096, Math.floor(sizeBytes)));
  return {
    op: "mountFs",
    fsType: "tmpfs",
    path,
    options: [
      ["size", size],
      ["mode", mode],
    ],
    attributes,
  };
}

function mountOps(mount: GuestMount): PlanOp[] {
  if (mount.is === "tmpfs") return [tmpfs(mount.path, mount.sizeBytes, mount.mode, MOUNT_ATTR_NODEV)];
  const attach: PlanOp = { op: "moveMount", slot: mount.slot, path: mount.path };
  if (mount.make === undefined) return [attach];
  const parts = mount.path.split("/").slice(1);
  const folders = parts.slice(1, mount.make === "file" ? -1 : undefined);
  const made: PlanOp[] = folders.map((_, index) => ({
    op: "mkdir",
    path: `/${parts.slice(0, index + 2).join("/")}`,
    mode: 0o755,
    mayExist: true,
  }));
  if (mount.make === "file")
    made.push({ op: "file", path: mount.path, content: new Uint8Array(), mode: 0o644 });
  return [...made, attach];
}

/** Of the machine, not of the guest: /dev/null over files, nothing over directories, read-only over the rest. */
const maskedFiles =
  "kcore keys kmsg kallsyms modules timer_list latency_stats sched_debug sysrq-trigger interrupts softirqs";
const readOnlyFolders = "sys irq bus fs";

function maskOps(): PlanOp[] {
  return [
    ...maskedFiles.split(" ").map(
      (name): PlanOp => ({
        op: "bind",
        source: "/dev/null",
        path: `/proc/${name}`,
        attributes: MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC,
        mayBeMissing: true,
      }),
    ),
    ...readOnlyFolders.split(" ").map(
      (name): PlanOp => ({
        op: "bind",
        source: `/proc/${name}`,
        path: `/proc/${name}`,
        attributes: quiet | MOUNT_ATTR_RDONLY,
        mayBeMissing: true,
      }),
    ),
  ];
}
