/**
 * Orphans become children of PID 1, and libuv waits only for processes it started itself: the others would stay zombies.
 * This takes them, and leaves to child_process and to container starts what is their own. (A child cloned with exit signal 0
 * is in its sight as well: execve sets the signal to SIGCHLD.)
 */
import type { Kernel } from "../kernel.ts";
import { isErrno } from "./kernel-refusal.ts";
import { isOwnChild } from "./process.ts";

export type Reaper = Disposable & {
  /** How many orphans were taken so far. */
  readonly reaped: number;
};

/** At most this many in a row, then the event loop gets its turn: a flood must not stop the watchdog's feeding. */
const batch = 256;
/** While an exit that is not the reaper's stands first in the queue: no spinning until its owner comes. */
const ownDelayMs = 5;

/** Begins to reap. SIGCHLD is coalesced, so each one looks until there is nobody left. */
export function startReaper(kernel: Kernel, isOwn: (pid: number) => boolean = isOwnChild): Reaper {
  let reaped = 0;
  let again: ReturnType<typeof setTimeout> | undefined;
  const later = (delayMs: number) => {
    again ??= setTimeout(() => {
      again = undefined;
      look();
    }, delayMs);
  };
  const look = () => {
    for (let count = 0; count < batch; count++) {
      const pid = nextExited(kernel);
      if (pid === undefined) return;
      if (isOwn(pid)) return later(ownDelayMs); // its owner takes it, as a rule before that
      try {
        kernel.reapChild(pid);
        reaped++;
      } catch (error) {
        if (!isErrno(error, "ECHILD")) throw error; // libuv was quicker: it is gone, as wanted
      }
    }
    later(0);
  };
  process.on("SIGCHLD", look);
  look(); // some may have ended before
  return {
    get reaped() {
      return reaped;
    },
    [Symbol.dispose]() {
      process.off("SIGCHLD", look);
      clearTimeout(again);
    },
  };
}

function nextExited(kernel: Kernel): number | undefined {
  try {
    return kernel.peekExitedChild();
  } catch (error) {
    if (isErrno(error, "ECHILD")) return undefined; // no children at all
    throw error;
  }
}
