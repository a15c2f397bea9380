/** A running guest: what exists from the exec of its init until everything of it is gone. */
import { readFileSync } from "node:fs";
import type { Kernel, WaitStatus } from "../kernel.ts";
import { CLD_EXITED } from "../linux.ts";
import type { Cgroup } from "./cgroup.ts";
import { hasErrno } from "./fd-stream.ts";
import type { Notice } from "./notify.ts";
import type { VerifiedGuestOs } from "./ports.ts";
import type { Settings } from "./settings.ts";
import type { Walls } from "./start-plan.ts";
import type { ExitReport } from "./status.ts";

/** Disposing it kills what is left of it and undoes its start in reverse order. */
export type Guest = AsyncDisposable & {
  readonly pid: number;
  readonly pidfd: number;
  readonly idBase: number;
  readonly cgroup: Cgroup;
  readonly guestOs: VerifiedGuestOs;
  readonly settings: Settings;
  readonly walls: Walls;
  /** The guest's own devpts, for terminals of `control run`. */
  readonly devpts: number;
  readonly startedMs: number;
  /** Limits and walls that this host lacks, in words. */
  readonly missing: readonly string[];
  readonly exited: Promise<WaitStatus>;
  /** Calls back with each notice of its init, until it is disposed. */
  onNotice(callback: (notice: Notice) => void): void;
};

export const SIGHUP = 1;
export const SIGINT = 2;
export const SIGKILL = 9;
export const SIGTERM = 15;
/** SIGRTMIN+3 of systemd's container interface: an orderly halt. */
export const SIGHALT = 37;

/**
 * Whether the init has a handler for the signal or reads it from a descriptor. Init of a pid namespace does not get a
 * signal that it does not handle, so waiting for it would be in vain.
 */
export function actsOn(pid: number, signal: number): boolean {
  try {
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    const mask = (name: string) =>
      BigInt(`0x${new RegExp(`^${name}:\\s*([0-9a-f]+)$`, "m").exec(status)?.[1] ?? 0}`);
    return (((mask("SigCgt") | mask("SigBlk")) >> BigInt(signal - 1)) & 1n) === 1n;
  } catch (error) {
    if (hasErrno(error, "ENOENT", "ESRCH")) return false; // it is gone: there is nobody to wait for
    throw error;
  }
}

/** reboot(2) in a pid namespace ends its init by SIGHUP (restart) or SIGINT (halt, power off), reboot(2). */
export function exitReport(
  { code, status }: WaitStatus,
  oomKills: number,
  endedBy: string | undefined,
  atMs: number,
): ExitReport {
  if (code === CLD_EXITED) {
    return { why: "exited", status, sentence: `its init exited with status ${status}`, atMs };
  }
  if (status === SIGHUP) return { why: "reboot", status: 0, sentence: "it asked for a reboot", atMs };
  if (status === SIGINT) return { why: "poweroff", status: 0, sentence: "it powered off", atMs };
  if (status === SIGKILL && endedBy === undefined && oomKills > 0) {
    return { why: "oom", status: 128 + status, sentence: "it was out of memory (ram_limit)", atMs };
  }
  return {
    why: "killed",
    status: 128 + status,
    sentence: endedBy ?? `its init was ended by signal ${status}`,
    atMs,
  };
}

/** Sends a signal to the init; false when it is gone. */
export function signalGuest(kernel: Kernel, guest: { readonly pidfd: number }, signal: number): boolean {
  try {
    kernel.pidfdSignal(guest.pidfd, signal);
    return true;
  } catch (error) {
    if (hasErrno(error, "ESRCH")) return false;
    throw error;
  }
}
