/**
 * Starts a plan in a new process: clone, id maps, id-mapped mounts, the shim's report, the exit. One call is one process,
 * and whatever fails on the way leaves nothing behind: no process, no descriptor.
 */
import { closeSync, readSync, writeSync } from "node:fs";
import { constants } from "node:os";
import { GimbalError } from "../errors.ts";
import type { Clone, Kernel, WaitStatus } from "../kernel.ts";
import { UV_DISCONNECT, UV_READABLE } from "../linux.ts";
import { describeOp, encodePlan, type Plan, type PlanOp } from "./plan.ts";

export type SpawnRequest = {
  readonly plan: Plan;
  /** Descriptors that the plan names by index; they stay the caller's. */
  readonly slots: readonly number[];
  /** CLONE_NEW* bits; 0 for a process that joins others by `setns`. */
  readonly namespaces: number;
  /** The cgroup2 directory to be born in. */
  readonly cgroupFd?: number;
  /** First host id of the 65,536 that become 0 to 65,535 in the new user namespace. */
  readonly idBase?: number;
  /** /proc/PID/timens_offsets, "monotonic -5 0\nboottime -5 0\n". */
  readonly timeOffsets?: string;
  /** Detached mounts (also among the slots) that are id-mapped by the new user namespace before the plan runs. */
  readonly idMapped?: readonly number[];
  /** Runs while the child waits at the barrier: move interfaces into its network namespace, for example. */
  readonly beforeRelease?: (child: Clone) => void | Promise<void>;
  /** From the clone to the exec. */
  readonly timeoutMs: number;
};

/** A process that runs what the plan's exec named. Its owner disposes it after `exited`. */
export interface Process extends Disposable {
  readonly pid: number;
  readonly pidfd: number;
  readonly exited: Promise<WaitStatus>;
  /** pidfd_send_signal(2). A process that ended meanwhile is no error. */
  signal(signal: number): void;
}

/** What a failed operation of a plan was: the cause of the GimbalError that `spawn` throws. */
export class PlanFailure extends Error {
  override readonly name = "PlanFailure";
  readonly op: PlanOp | undefined;
  /** "ENOENT" */
  readonly code: string;

  constructor(op: PlanOp | undefined, code: string) {
    super(`${op?.op ?? "exec of the shim"}: ${code}`);
    this.op = op;
    this.code = code;
  }
}

const idsPerContainer = 65_536;
/** `index` of a report by the child before the shim ran (clone.cc). */
const beforeShim = 0xffff;
const reportBytes = 8;
const SIGKILL = 9;

/**
 * @param shimFd the executable of addon/shim
 * @throws {GimbalError} "start-failed": the sentence names the operation; its cause is a PlanFailure where one failed
 */
export async function spawn(kernel: Kernel, shimFd: number, request: SpawnRequest): Promise<Process> {
  const { plan, slots, namespaces, cgroupFd = -1, idBase, timeOffsets = "" } = request;
  const map = idBase === undefined ? "" : `0 ${idBase} ${idsPerContainer}\n`;
  const child = kernel.clone({
    namespaces,
    cgroupFd,
    shimFd,
    plan: encodePlan(plan),
    slots,
    uidMap: map,
    gidMap: map,
    timeOffsets,
  });
  let waiting = true;
  try {
    for (const mount of request.idMapped ?? [])
      kernel.mountSetattr(mount, "", 0, { usernsFd: child.usernsFd });
    await request.beforeRelease?.(child);
    writeSync(child.syncFd, "g");
    closeSync(child.syncFd);
    waiting = false;
    const report = await readReport(kernel, child.reportFd, request.timeoutMs);
    if (report.is === "failed" || report.is === "late") {
      if (report.forked !== undefined) await endForked(kernel, report.forked);
      throw report.is === "late" ? lateError(request.timeoutMs) : planError(plan, report.index, report.code);
    }
    if (report.is === "running") return ownProcess(kernel, child.pid, child.pidfd);
    return await forkedProcess(kernel, child, report.pid);
  } catch (error) {
    if (waiting) closeSync(child.syncFd);
    await endProcess(kernel, child.pidfd);
    closeSync(child.pidfd);
    throw error;
  } finally {
    closeSync(child.reportFd);
    if (child.usernsFd >= 0) closeSync(child.usernsFd);
    kernel.freeStack(child.stack);
  }
}

/** The sibling that a plan with `fork` goes on in. The shim that made it has ended, or is about to. */
async function forkedProcess(kernel: Kernel, child: Clone, pid: number): Promise<Process> {
  // It is a child of this process and nobody waits for it yet, so the pid cannot be another's.
  const pidfd = kernel.pidfdOpen(pid);
  await exited(kernel, child.pidfd);
  closeSync(child.pidfd);
  return ownProcess(kernel, pid, pidfd);
}

/** The sibling did not get to its exec: nobody else will wait for it. */
async function endForked(kernel: Kernel, pid: number): Promise<void> {
  const pidfd = kernel.pidfdOpen(pid);
  try {
    await endProcess(kernel, pidfd);
  } finally {
    closeSync(pidfd);
  }
}

function ownProcess(kernel: Kernel, pid: number, pidfd: number): Process {
  let open = true;
  let ended = false;
  const exit = exited(kernel, pidfd).finally(() => {
    ended = true;
  });
  return {
    pid,
    pidfd,
    exited: exit,
    signal(signal) {
      if (!ended) kernel.pidfdSignal(pidfd, signal);
    },
    [Symbol.dispose]() {
      if (open) closeSync(pidfd);
      open = false;
    },
  };
}

/** Resolves when the process has ended, and waits for it: no zombie is left. */
export function exited(kernel: Kernel, pidfd: number): Promise<WaitStatus> {
  return new Promise((resolve, reject) => {
    const look = () => {
      try {
        const status = kernel.pidfdWait(pidfd);
        if (status === undefined) return;
        watch.close();
        resolve(status);
      } catch (error) {
        watch.close();
        reject(error);
      }
    };
    const watch = kernel.watchFd(pidfd, UV_READABLE, look);
  });
}

async function endProcess(kernel: Kernel, pidfd: number): Promise<void> {
  try {
    kernel.pidfdSignal(pidfd, SIGKILL);
  } catch (error) {
    // ESRCH: it has ended by itself, and is waited for below.
    if (!(error instanceof Error && "code" in error && error.code === "ESRCH")) throw error;
  }
  await exited(kernel, pidfd);
}

type Report =
  | { readonly is: "running" }
  | { readonly is: "forked"; readonly pid: number }
  | {
      readonly is: "failed";
      readonly index: number;
      readonly code: string;
      readonly forked: number | undefined;
    }
  | { readonly is: "late"; readonly forked: number | undefined };

/**
 * Reads reports until end of file. A fork is followed by the end of file (exec) or a failure of the sibling, which holds the
 * same pipe.
 */
function readReport(kernel: Kernel, fd: number, timeoutMs: number): Promise<Report> {
  return new Promise((resolve, reject) => {
    let result: Report = { is: "running" };
    let forked: number | undefined;
    const end = (settle: () => void) => {
      clearTimeout(timer);
      watch.close();
      settle();
    };
    const look = () => {
      const buffer = Buffer.alloc(reportBytes);
      for (;;) {
        let count: number;
        try {
          count = readSync(fd, buffer);
        } catch (error) {
          if (error instanceof Error && "code" in error && error.code === "EAGAIN") return;
          return end(() => reject(error));
        }
        if (count === 0) return end(() => resolve(result));
        if (count !== reportBytes) return end(() => reject(new Error(`a report of ${count} octets`)));
        const [index, errno, value] = [
          buffer.readUInt16LE(0),
          buffer.readUInt16LE(2),
          buffer.readUInt32LE(4),
        ];
        if (errno === 0) forked = value;
        result =
          errno === 0
            ? { is: "forked", pid: value }
            : { is: "failed", index, code: errnoName(errno), forked };
      }
    };
    const timer = setTimeout(() => end(() => resolve({ is: "late", forked })), timeoutMs);
    const watch = kernel.watchFd(fd, UV_READABLE | UV_DISCONNECT, look);
  });
}

const errnoNames = new Map(Object.entries(constants.errno).map(([name, number]) => [number, name]));
const errnoName = (errno: number): string => errnoNames.get(errno) ?? `E${errno}`;

function planError(plan: Plan, index: number, code: string): GimbalError {
  const op = index === beforeShim ? undefined : plan[index];
  const { tried, on } = op ? describeOp(op) : { tried: "run", on: "the start program" };
  const cause = new PlanFailure(op, code);
  return new GimbalError("start-failed", { tried, on, why: whyOf(code) }, cause);
}

function lateError(timeoutMs: number): GimbalError {
  return new GimbalError("start-failed", {
    tried: "start",
    on: "the container's first process",
    why: `it was not running after ${timeoutMs / 1000} s`,
  });
}

const sentences: Record<string, string> = {
  ENOENT: "it does not exist in the image (ENOENT)",
  EACCES: "it may not be executed (EACCES)",
  ENOEXEC: "it is no program of this machine (ENOEXEC)",
  ENOTDIR: "a part of the path is no directory (ENOTDIR)",
  ELOOP: "the path has too many links (ELOOP)",
  EPERM: "the kernel does not permit it (EPERM)",
};

const whyOf = (code: string): string => sentences[code] ?? `the kernel says ${code}`;

/** The PlanFailure behind an error of `spawn`, if that is what it was. */
export function planFailureOf(error: unknown): PlanFailure | undefined {
  return error instanceof GimbalError && error.cause instanceof PlanFailure ? error.cause : undefined;
}
