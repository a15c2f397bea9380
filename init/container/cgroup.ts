/**
 * cgroup v2 by its files. Layout of the device: PID 1 in /init (memory.min), containers in /ctr/<uuid> below one
 * common cap, so that no guest and not all of them together take what `control` needs.
 */
import {
  chownSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  watch,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { GimbalError, reasonOf } from "../errors.ts";
import { raiseSharedCounts } from "./shared-counts.ts";

/** Without these a guest could take the whole machine: on the device a start without one is refused. */
const needed = ["memory", "pids", "cpu"] as const;
const wanted = [...needed, "io", "cpuset"] as const;

/** Kept for PID 1, and left free by all guests together. */
const ownReserveBytes = 64 * 2 ** 20;
const machineReserveBytes = 96 * 2 ** 20;

export type CgroupTree = { readonly path: string; readonly controllers: ReadonlySet<string> };

/**
 * Once at boot, what guests share: moves all processes of the root cgroup to /init, enables the controllers, makes /ctr,
 * and raises the counts of shared-counts.ts. `root` is mounted by the caller, with nsdelegate. Kernel threads stay.
 */
export function prepareCgroups(root: string, memoryBytes: number): CgroupTree {
  const own = join(root, "init");
  mkdirSync(own, { recursive: true });
  for (const pid of readFileSync(join(root, "cgroup.procs"), "utf8").split("\n")) {
    if (pid === "") continue;
    try {
      writeFileSync(join(own, "cgroup.procs"), pid);
    } catch (error) {
      if (!hasErrno(error, "EINVAL", "ESRCH")) throw error; // a kernel thread, or gone by now
    }
  }
  raiseSharedCounts();
  enable(root);
  const path = join(root, "ctr");
  mkdirSync(path, { recursive: true });
  const controllers = enable(path);
  if (controllers.has("memory")) {
    set(own, "memory.min", ownReserveBytes);
    set(path, "memory.max", Math.max(memoryBytes - machineReserveBytes, machineReserveBytes));
  }
  return { path, controllers };
}

/** Enables what the machine has for the children of `path`. */
export function enable(path: string): ReadonlySet<string> {
  const available = readFileSync(join(path, "cgroup.controllers"), "utf8").trim().split(/\s+/);
  const enabled = wanted.filter((name) => available.includes(name));
  if (enabled.length > 0) set(path, "cgroup.subtree_control", enabled.map((name) => `+${name}`).join(" "));
  return new Set(enabled);
}

export type Limits = {
  readonly memoryBytes: number;
  readonly pids: number;
  readonly cpuWeight: number;
  readonly cpuPercent: number | undefined;
  readonly cpus: string | undefined;
  /** One victim ends the whole guest: right for a service, not for a guest with an own init. */
  readonly oomGroup: boolean;
};

/** Which limits of a guest cannot be kept here; empty on the device. */
export function missingLimits(controllers: ReadonlySet<string>, limits: Limits): string[] {
  const used = limits.cpus === undefined ? needed : [...needed, "cpuset"];
  return used.filter((name) => !controllers.has(name)).map((name) => `no ${name} limit`);
}

/** For everything in a cgroup to be gone after SIGKILL: milliseconds, but for a machine under load. */
const emptyMs = 10_000;
/** How late a kill is told where no watch is left. */
const oomLookMs = 10_000;

export type Cgroup = AsyncDisposable & {
  readonly path: string;
  /** For CLONE_INTO_CGROUP; owned by the cgroup. */
  readonly fd: number;
  /** A child for processes that join later: a guest's init may have closed the top for processes (B21). */
  makeExecChild(name: string): Cgroup;
  /** Kills everything in it and below, frozen or not. Does not wait: a dispose does. */
  kill(): void;
  freeze(timeoutMs: number): Promise<boolean>;
  thaw(): Promise<void>;
  /** Kills by this cgroup's own limit, or by one of the guest's inside. */
  oomKills(): { readonly ownLimit: number; readonly inside: number };
  watchOom(onOom: () => void): Disposable;
};

/** Makes the leaf of one container with its limits, and hands the delegation files to the guest's root. */
export function createCgroup(tree: CgroupTree, name: string, limits: Limits, idBase: number): Cgroup {
  const path = join(tree.path, name);
  if (existsSync(path)) {
    // Of a life that was cut: a daemon that was killed leaves its guests running.
    set(path, "cgroup.kill", 1);
    removeTree(path);
  }
  try {
    mkdirSync(path);
    set(path, "cgroup.max.depth", 32);
    set(path, "cgroup.max.descendants", 2048);
    if (tree.controllers.has("memory")) {
      set(path, "memory.max", limits.memoryBytes);
      if (existsSync(join(path, "memory.swap.max"))) set(path, "memory.swap.max", 0);
      set(path, "memory.oom.group", limits.oomGroup ? 1 : 0);
    }
    if (tree.controllers.has("pids")) set(path, "pids.max", limits.pids);
    if (tree.controllers.has("cpu")) {
      set(path, "cpu.weight", limits.cpuWeight);
      if (limits.cpuPercent !== undefined) set(path, "cpu.max", `${limits.cpuPercent * 1000} 100000`);
    }
    if (limits.cpus !== undefined && tree.controllers.has("cpuset")) set(path, "cpuset.cpus", limits.cpus);
    // Exactly these: the limits stay PID 1's, cgroup_namespaces(7) and "Delegation" in the kernel's cgroup-v2 page.
    for (const file of ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"]) {
      chownSync(join(path, file), idBase, idBase);
    }
    return owned(path);
  } catch (error) {
    if (existsSync(path)) removeTree(path);
    if (error instanceof GimbalError) throw error;
    throw refused("make the cgroup", path, error);
  }
}

function owned(path: string): Cgroup {
  let fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  /** A cgroup that is gone has nothing running and nothing frozen in it. */
  const event = (name: string) =>
    Number(
      new RegExp(`^${name} (\\d+)$`, "m").exec(unlessGone(() => get(path, "cgroup.events")) ?? "")?.[1] ?? 0,
    );
  const kill = () => void unlessGone(() => set(path, "cgroup.kill", 1));
  return {
    path,
    get fd() {
      return fd;
    },
    makeExecChild(name) {
      const child = join(path, name);
      mkdirSync(child, { recursive: true });
      return owned(child);
    },
    kill,
    async freeze(timeoutMs) {
      set(path, "cgroup.freeze", 1);
      if (await waitFor(path, () => event("frozen") === 1, timeoutMs)) return true;
      set(path, "cgroup.freeze", 0);
      return false;
    },
    async thaw() {
      set(path, "cgroup.freeze", 0);
      await waitFor(path, () => event("frozen") === 0, 1_000);
    },
    oomKills() {
      const count = (file: string) => {
        if (!existsSync(join(path, file))) return 0;
        return Number(/^oom_kill (\d+)$/m.exec(get(path, file))?.[1] ?? 0);
      };
      const ownLimit = /^oom [1-9]/m.test(
        existsSync(join(path, "memory.events.local")) ? get(path, "memory.events.local") : "",
      );
      const all = count("memory.events");
      return ownLimit ? { ownLimit: all, inside: 0 } : { ownLimit: 0, inside: all };
    },
    watchOom(onOom) {
      const watching = watchFile(join(path, "memory.events"), onOom);
      const timer = setInterval(onOom, oomLookMs).unref();
      return {
        [Symbol.dispose]() {
          clearInterval(timer);
          watching[Symbol.dispose]();
        },
      };
    },
    async [Symbol.asyncDispose]() {
      if (fd === -1) return;
      closeSync(fd);
      fd = -1;
      if (event("populated") !== 0) kill();
      if (!(await waitFor(path, () => event("populated") === 0, emptyMs))) {
        throw refused(
          "empty the cgroup",
          path,
          `a process did not end within ${emptyMs / 1000} s of SIGKILL`,
        );
      }
      removeTree(path);
    },
  };
}

/** A guest's init leaves empty cgroups below: depth first. Names are the guest's, but cgroupfs has no links. */
function removeTree(path: string): void {
  for (const entry of unlessGone(() => readdirSync(path, { withFileTypes: true })) ?? []) {
    if (entry.isDirectory()) removeTree(join(path, entry.name));
  }
  try {
    unlessGone(() => rmdirSync(path));
  } catch (error) {
    throw refused("remove the cgroup", path, error);
  }
}

/** A cgroup goes when its guest ends, and a guest removes its own children: what is gone is no error. */
function unlessGone<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    const cause = error instanceof GimbalError ? error.cause : error;
    if (hasErrno(cause, "ENOENT", "ENODEV")) return undefined;
    throw error;
  }
}

/**
 * Resolves true once `done()` holds. The kernel reports each change of cgroup.events to inotify; guests can use up the
 * watches of this machine's root, so the clock asks as well, more and more rarely.
 */
async function waitFor(path: string, done: () => boolean, timeoutMs: number): Promise<boolean> {
  if (done()) return true;
  return await new Promise((resolve) => {
    const begun = Date.now();
    let timer: NodeJS.Timeout | undefined;
    const watching = watchFile(join(path, "cgroup.events"), () => check());
    const check = () => {
      const is = done();
      if (!is && Date.now() - begun < timeoutMs) return;
      clearTimeout(timer);
      watching[Symbol.dispose]();
      resolve(is);
    };
    const ask = (afterMs: number) => {
      timer = setTimeout(() => {
        ask(Math.min(afterMs * 2, 200));
        check();
      }, afterMs);
    };
    ask(5);
  });
}

/** Calls back at each change where the machine has a watch left; else, and when the file is gone, never. */
function watchFile(file: string, onChange: () => void): Disposable {
  try {
    const watcher = watch(file, { persistent: false }, onChange);
    watcher.on("error", () => watcher.close());
    return { [Symbol.dispose]: () => watcher.close() };
  } catch (error) {
    if (!hasErrno(error, "ENOENT", "ENODEV", "ENOSPC", "EMFILE")) throw error;
    return { [Symbol.dispose]() {} };
  }
}

const get = (path: string, file: string) => readFileSync(join(path, file), "utf8");

function set(path: string, file: string, value: string | number): void {
  try {
    writeFileSync(join(path, file), String(value), { flag: "r+" });
  } catch (error) {
    throw refused(`set ${file} to ${value} in`, path, error);
  }
}

function refused(tried: string, on: string, cause: unknown): GimbalError {
  return new GimbalError("kernel-refused", { tried, on, why: reasonOf(cause) }, cause);
}

function hasErrno(error: unknown, ...codes: string[]): boolean {
  return error instanceof Error && "code" in error && codes.includes(String(error.code));
}
