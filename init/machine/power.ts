/** Orderly power off and restart: the steps of whoever knows what runs, each within its time, then sync and reboot(2). */
import { GimbalError, reasonOf } from "../errors.ts";
import type { Kernel } from "../kernel.ts";
import { LINUX_REBOOT_CMD_HALT, LINUX_REBOOT_CMD_POWER_OFF, LINUX_REBOOT_CMD_RESTART } from "../linux.ts";
import type { Log } from "./kmsg.ts";

export type PowerAction = "poweroff" | "reboot" | "halt";

export type ShutdownStep = {
  /** "stop the containers" */
  readonly name: string;
  readonly run: () => Promise<void>;
  readonly timeoutMs: number;
};

const commands: Readonly<Record<PowerAction, number>> = {
  poweroff: LINUX_REBOOT_CMD_POWER_OFF,
  reboot: LINUX_REBOOT_CMD_RESTART,
  halt: LINUX_REBOOT_CMD_HALT,
};

/**
 * Runs the steps in order; one that fails or takes too long is logged and passed over, since the power goes all the same. Then
 * syncs and tells the kernel. Returns what failed only where this process is not PID 1 (nothing is switched off then).
 */
export async function shutDown(
  kernel: Kernel,
  action: PowerAction,
  steps: readonly ShutdownStep[],
  log: Log,
): Promise<readonly string[]> {
  const failed: string[] = [];
  for (const step of steps) {
    try {
      await within(step);
      log.info(`${action}: ${step.name}: done`);
    } catch (error) {
      failed.push(step.name);
      log.error(`${action}: ${step.name}: ${reasonOf(error)}`);
    }
  }
  powerNow(kernel, action);
  return failed;
}

/** sync(2), then reboot(2) at once. Nothing happens unless this process is PID 1. */
export function powerNow(kernel: Kernel, action: PowerAction): void {
  if (process.pid !== 1) return;
  kernel.sync();
  kernel.reboot(commands[action]);
}

async function within({ name, run, timeoutMs }: ShutdownStep): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const limit = new Promise<never>((_, reject) => {
    const why = `it took more than ${timeoutMs} ms`;
    timer = setTimeout(
      () => reject(new GimbalError("tool-failed", { tried: "finish", on: name, why })),
      timeoutMs,
    );
  });
  try {
    await Promise.race([run(), limit]);
  } finally {
    clearTimeout(timer);
  }
}
