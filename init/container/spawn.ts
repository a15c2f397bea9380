/**
 * Starts a plan in a new process: clone, id maps, id-mapped mounts, the shim's report, the exit. One call is one process,
 * and whatever fails on the way leaves nothing behind: no process, no descriptor.
 */
import { closeSync, readSync, writeFileSync, writeSync } from "node:fs";
import { constants } from "node:os";
import { GimbalError } from "../errors.ts";
import type { Clone, Kernel, WaitStatus } from "../kernel.ts";
import { UV_DISCONNECT, UV_READABLE } from "../linux.ts";
import { claimPid, expectChild } from "../machine/process.ts";
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
  /** From the release to the exec; `beforeRelease` keeps its own time. */
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
  /** Undefined where the shim itself did not get to run. */
  readonly op: PlanOp | undefined;
  /** "ENOENT"; "ETIME" where the time was over, "EINTR" where somebody ended it. */
  readonly code: string;

  constructor(op: PlanOp | undefined, code: string) {
    super(`${op?.op ?? "exec of the shim"}: ${code}`);
    this.op = op;
    this.code = code;
  }
}

const idsPerContainer = 65_536;
const reportBytes = 8;
const SIGKILL = 9;

/**
 * @param shimFd the executable of addon/shim
 * @throws {GimbalError} "start-failed" or "start-timeout": the sentence names the operation, the cause is a PlanFailure
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
  const first = ownProcess(kernel, child.pid, child.pidfd);
  const forks = plan.some(({ op }) => op === "fork");
  using end = new DisposableStack(); // in reverse order: the job is freed last
  end.defer(() => kernel.freeJob(child.job));
  end.adopt(child.reportFd, closeSync);
  if (child.usernsFd >= 0) end.adopt(child.usernsFd, closeSync);
  if (forks) end.defer(expectChild());
  const barrier = end.adopt(new Barrier(child.syncFd), (barrier) => barrier.close());
  const started: Process[] = [first];
  try {
    resetOomScore(child.pid);
    for (const mount of request.idMapped ?? []) {
      kernel.mountSetattr(mount, "", 0, { usernsFd: child.usernsFd });
    }
    await request.beforeRelease?.(child);
    barrier.release();
    const reports = await readReports(kernel, child.reportFd, request.timeoutMs);
    if (reports.forkedPid !== undefined) {
      // It is a child of this process and nobody has waited for it yet, so the pid cannot be another's.
      started.push(ownProcess(kernel, reports.forkedPid, kernel.pidfdOpen(reports.forkedPid)));
    }
    checkReports(plan, reports, kernel.planProgress(child.job), request.timeoutMs);
    const last = started.pop() ?? first;
    for (const shim of started) await endProcess(shim); // after a fork the shim has ended, or is about to
    return last;
  } catch (error) {
    barrier.close();
    for (const process of started) {
      process.signal(SIGKILL);
      await endProcess(process);
    }
    throw error;
  }
}

/** The pipe that the child waits at: one octet lets it go on, closing it ends the child. */
class Barrier {
  readonly #fd: number;
  #open = true;

  constructor(fd: number) {
    this.#fd = fd;
  }

  release(): void {
    try {
      writeSync(this.#fd, "g");
    } catch (error) {
      // Somebody ended the child while it waited: the end of its reports tells that.
      if (!hasErrno(error, "EPIPE")) throw error;
    }
    this.close();
  }

  close(): void {
    if (this.#open) closeSync(this.#fd);
    this.#open = false;
  }
}

/**
 * What PID 1 has set for itself is inherited with a floor that only the first user namespace's root may move: written here, a
 * guest cannot make itself unkillable for the OOM killer.
 */
function resetOomScore(pid: number): void {
  try {
    writeFileSync(`/proc/${pid}/oom_score_adj`, "0\n");
  } catch (error) {
    // Without CAP_SYS_RESOURCE (a hosted daemon) the inherited value is a floor for this process and the guest alike.
    if (!hasErrno(error, "EACCES")) throw error;
  }
}

/** Takes over `pidfd`. From here on the exit of `pid` is waited for, whatever else happens. */
function ownProcess(kernel: Kernel, pid: number, pidfd: number): Process {
  const unclaim = claimPid(pid);
  let open = true;
  let ended = false;
  const exit = exited(kernel, pidfd).finally(() => {
    ended = true;
    unclaim();
  });
  exit.catch(() => {}); // whoever asks for `exited` gets the error
  return {
    pid,
    pidfd,
    exited: exit,
    signal(signal) {
      if (ended) return;
      try {
        kernel.pidfdSignal(pidfd, signal);
      } catch (error) {
        if (!hasErrno(error, "ESRCH")) throw error;
      }
    },
    [Symbol.dispose]() {
      if (open) closeSync(pidfd);
      open = false;
    },
  };
}

async function endProcess(process: Process): Promise<void> {
  await process.exited;
  process[Symbol.dispose]();
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

type Reports = {
  readonly forkedPid: number | undefined;
  readonly failure: { readonly index: number; readonly code: string } | undefined;
  readonly late: boolean;
};

/**
 * Reads reports until end of file, when all who held the pipe have execed or ended. The report of a fork and a failure of the
 * forked process come in any order.
 */
function readReports(kernel: Kernel, fd: number, timeoutMs: number): Promise<Reports> {
  return new Promise((resolve, reject) => {
    const reports: { -readonly [K in keyof Reports]: Reports[K] } = {
      forkedPid: undefined,
      failure: undefined,
      late: false,
    };
    const end = (settle: () => void) => {
      clearTimeout(timer);
      watch.close();
      settle();
    };
    const take = () => {
      try {
        for (let report = nextReport(fd); report !== "later"; report = nextReport(fd)) {
          if (report === "end") return end(() => resolve(reports));
          if (report.errno === 0) reports.forkedPid = report.value;
          else reports.failure = { index: report.index, code: errnoName(report.errno) };
        }
      } catch (error) {
        end(() => reject(error));
      }
    };
    const timer = setTimeout(() => {
      reports.late = true;
      end(() => resolve(reports));
    }, timeoutMs);
    const watch = kernel.watchFd(fd, UV_READABLE | UV_DISCONNECT, take);
  });
}

function nextReport(fd: number): { index: number; errno: number; value: number } | "end" | "later" {
  const buffer = Buffer.alloc(reportBytes);
  let count: number;
  try {
    count = readSync(fd, buffer);
  } catch (error) {
    if (hasErrno(error, "EAGAIN")) return "later";
    throw error;
  }
  if (count === 0) return "end";
  if (count !== reportBytes) throw new Error(`a report of ${count} octets`);
  return { index: buffer.readUInt16LE(0), errno: buffer.readUInt16LE(2), value: buffer.readUInt32LE(4) };
}

/** Throws unless the plan got to its exec. `progress` is the operation that was last begun. */
function checkReports(plan: Plan, { failure, late }: Reports, progress: number, timeoutMs: number): void {
  if (failure) {
    const why = whyOf(failure.code);
    throw planError("start-failed", plan[failure.index], failure.code, why);
  }
  if (late) {
    const why = `it was not done ${timeoutMs / 1000} s after the start began`;
    throw planError("start-timeout", plan[progress], "ETIME", why);
  }
  if (progress !== plan.length - 1) {
    throw planError("start-failed", plan[progress], "EINTR", "the process was ended from outside");
  }
}

function planError(
  code: "start-failed" | "start-timeout",
  op: PlanOp | undefined,
  errno: string,
  why: string,
): GimbalError {
  const { tried, on } = op ? describeOp(op) : { tried: "run", on: "the start program" };
  return new GimbalError(code, { tried, on, why }, new PlanFailure(op, errno));
}

const hasErrno = (error: unknown, code: string): boolean =>
  error instanceof Error && "code" in error && error.code === code;

const errnoNames = new Map(Object.entries(constants.errno).map(([name, number]) => [number, name]));
const errnoName = (errno: number): string => errnoNames.get(errno) ?? `E${errno}`;

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
