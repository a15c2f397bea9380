/**
 * The hardware watchdog, fed from the event loop: when PID 1 dies or hangs, the machine starts again by itself. It goes
 * on running over a reboot, so that one that hangs ends too.
 */
import { closeSync, openSync, writeSync } from "node:fs";
import type { Kernel } from "../kernel.ts";
import { isErrno, kernelRefusal } from "./kernel-refusal.ts";

export type Watchdog = {
  /** What the hardware took of the time asked for. */
  readonly timeoutSeconds: number;
  /** Feeds it no more: it will fire. For the last moment of a shutdown, and for tests. */
  leaveArmed(): void;
  /** Disarms it where the driver allows that (not with nowayout). */
  stop(): void;
};

/** Opens and feeds the watchdog; undefined where there is none. Throws "kernel-refused" where it is there and does not work. */
export function openWatchdog(
  kernel: Kernel,
  { path = "/dev/watchdog0", timeoutSeconds = 30 } = {},
): Watchdog | undefined {
  const fd = openDevice(path);
  if (fd === undefined) return undefined;
  const taken = setTimeoutOf(kernel, fd, timeoutSeconds);
  const feed = () => {
    writeSync(fd, "\0");
  };
  feed();
  const timer = setInterval(feed, (taken * 1000) / 4);
  let armed = true;
  return {
    timeoutSeconds: taken,
    leaveArmed() {
      clearInterval(timer);
    },
    stop() {
      clearInterval(timer);
      if (!armed) return;
      armed = false;
      writeSync(fd, "V"); // the magic close of the kernel's watchdog API
      closeSync(fd);
    },
  };
}

function openDevice(path: string): number | undefined {
  try {
    return openSync(path, "w");
  } catch (error) {
    if (isErrno(error, "ENOENT", "ENODEV", "ENXIO")) return undefined;
    throw kernelRefusal("open the watchdog", path, error);
  }
}

/** A driver with a fixed time refuses: half a minute is then assumed at most, and it is fed often enough for less. */
function setTimeoutOf(kernel: Kernel, fd: number, seconds: number): number {
  try {
    return kernel.setWatchdogTimeout(fd, seconds);
  } catch (error) {
    if (isErrno(error, "EOPNOTSUPP", "EINVAL", "ENOTTY")) return Math.min(seconds, 10);
    throw kernelRefusal("set the time of", "the watchdog", error);
  }
}
