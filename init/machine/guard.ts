/**
 * What keeps PID 1 alive and in order: no exception, no signal and no exit() may end it, since its death is a panic. Acts only
 * where this process is PID 1: elsewhere an error should end the program as usual.
 */
import { reasonOf } from "../errors.ts";
import type { Kernel } from "../kernel.ts";
import type { Log } from "./kmsg.ts";
import { powerNow } from "./power.ts";

export type GuardParts = {
  readonly kernel: Kernel;
  readonly log: Log;
  /** An error that nobody took: show it, stop what runs. A restart follows, at the latest after `fatalTimeoutMs`. */
  readonly onFatal: (error: unknown) => Promise<void>;
  /** Ctrl-alt-del (SIGINT to PID 1): an orderly restart. */
  readonly onCtrlAltDel: () => void;
  /** SIGPWR, or SIGTERM from whoever may signal PID 1: an orderly power off. */
  readonly onPowerFail: () => void;
  readonly fatalTimeoutMs?: number;
};

/** Signals without a meaning here. SIGUSR1 above all: Node would open its inspector on a TCP port. */
const ignored = ["SIGUSR1", "SIGUSR2", "SIGHUP", "SIGPIPE", "SIGALRM", "SIGVTALRM", "SIGWINCH"] as const;

/** Installs the handlers, once, as early as possible. */
export function installGuard(parts: GuardParts): void {
  if (process.pid !== 1) return;
  const { kernel, log, onFatal, onCtrlAltDel, onPowerFail, fatalTimeoutMs = 30_000 } = parts;
  let dying = false;
  const fatal = (error: unknown) => {
    const stack = error instanceof Error ? (error.stack ?? error.message) : reasonOf(error);
    log.error(`fatal: ${stack}`);
    if (dying) return powerNow(kernel, "reboot"); // a second one, while the first was handled: no more care
    dying = true;
    setTimeout(() => powerNow(kernel, "reboot"), fatalTimeoutMs);
    // An async function, so that also what it throws at once ends in the restart.
    void (async () => onFatal(error))()
      .catch((second: unknown) => log.error(`fatal: ${reasonOf(second)}`))
      .then(() => powerNow(kernel, "reboot"));
  };
  process.on("uncaughtException", fatal);
  process.on("unhandledRejection", fatal);
  for (const signal of ignored) process.on(signal, () => log.warn(`${signal} ignored`));
  process.on("SIGINT", onCtrlAltDel);
  process.on("SIGPWR", onPowerFail);
  process.on("SIGTERM", onPowerFail);
  process.exit = refuseExit;
  process.abort = refuseExit;
  setInterval(() => undefined, 2 ** 30); // an event loop with nothing to wait for would end the process
}

function refuseExit(): never {
  throw new Error("process.exit in PID 1");
}
