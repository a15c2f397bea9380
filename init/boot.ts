/**
 * The order of a boot, and of a shutdown, as one page:
 *   prepare -> measure -> unlock -> "leave-initrd" -> mount data -> trust -> verify GuestOSes -> engine -> control -> c0 -> the others
 * Each step takes what only the step before can give (the marks in init/boot/), so a step that runs early does not compile.
 */

import { relayConsole } from "./boot/console-relay.ts";
import {
  autostart,
  controlGroup,
  controlSocket,
  openEngine,
  type Running,
  startCore,
} from "./boot/containers.ts";
import { serveSocket, serveVirtioPort } from "./boot/control-doors.ts";
import { leaveInitrd, mountData, unlock } from "./boot/disk.ts";
import { measure, type Prepared, prepare } from "./boot/machine.ts";
import { loadTrust, verifyGuestOses } from "./boot/trust.ts";
import { coreUuid, type Engine } from "./container/engine.ts";
import { ControlServer } from "./control/server.ts";
import { Device } from "./device.ts";
import { reasonOf } from "./errors.ts";
import type { Kernel } from "./kernel.ts";
import { installGuard } from "./machine/guard.ts";
import { type PowerAction, powerNow, shutDown } from "./machine/power.ts";

/** How long the reason of a boot that failed stays on the screen before the machine starts again. */
const failedBootMs = 30_000;
const stopMs = 60_000;
const closeMs = 20_000;

/** PID 1. Never returns in order: the machine goes off or restarts. */
export async function boot(kernel: Kernel): Promise<void> {
  const begun = prepare(kernel);
  const power = new Power(begun);
  installGuard({
    kernel,
    log: begun.log,
    onFatal: async (error) => {
      begun.screen.fail(error);
      await power.go("reboot");
    },
    onCtrlAltDel: () => void power.go("reboot"),
    onPowerFail: () => void power.go("poweroff"),
  });
  try {
    const measured = await measure(begun);
    const left = await leaveInitrd(await unlock(measured));
    const verified = await verifyGuestOses(await loadTrust(await mountData(left)));
    power.closeDisk = verified.closeDisk;
    const running = await openEngine(verified);
    power.engine = running.engine;
    power.onStopped = () => running.audit.close();
    await openControl(running, power);
    power.console = relayConsole(running);
    await startCore(running);
    await autostart(running);
  } catch (error) {
    await fail(begun, power, error);
  }
}

/** The doors are open before c0 starts: it finds its socket. */
async function openControl(running: Running, power: Power): Promise<void> {
  const { kernel, audit, log, build, engine } = running;
  const device = new Device(running, (action) => void power.go(action));
  const server = new ControlServer({
    device,
    level: () => (device.provisioned ? "V" : "P"),
    onRefused: ({ code, sentence }) => {
      log.info(`control: ${sentence}`);
      void audit.append(
        "refused",
        new Map([
          ["code", code],
          ["sentence", sentence.slice(0, 512)],
        ]),
      );
    },
    onFault: (error) => log.error(`control: ${error instanceof Error ? error.stack : error}`),
  });
  await serveSocket(kernel, server, controlSocket, controlGroup);
  if (build.development) serveVirtioPort(kernel, server, log);
  followCore(engine, power);
}

/** c0 that halts or powers off means the device; its reboot is its own matter (the engine starts it again). */
function followCore(engine: Engine, power: Power): void {
  engine.on("state", ({ uuid, to, exit }) => {
    if (uuid !== coreUuid || to !== "STOPPED" || exit === undefined || exit.why === "start-failed") return;
    void power.go(exit.why === "poweroff" ? "poweroff" : "reboot");
  });
}

/** Before the disk is open, and after it as well: a clear screen, the reason, and the machine starts again. Never a shell. */
async function fail({ screen, log, kernel }: Prepared, power: Power, error: unknown): Promise<void> {
  log.error(`the boot ended: ${error instanceof Error ? error.stack : error}`);
  screen.fail(error);
  screen.banner([
    "This device did not come up. The line marked FAIL says why and what to do.",
    `It starts again in ${failedBootMs / 1000} s.`,
  ]);
  await new Promise((resolve) => setTimeout(resolve, failedBootMs));
  await power.go("reboot");
  powerNow(kernel, "reboot");
}

/** The way down, once: containers, c0 last, then the disk, then the machine. */
class Power {
  readonly #begun: Prepared;
  engine: Engine | undefined;
  closeDisk: (() => Promise<void>) | undefined;
  console: Disposable | undefined;
  onStopped: (() => Promise<void>) | undefined;
  #going: Promise<unknown> | undefined;

  constructor(begun: Prepared) {
    this.#begun = begun;
  }

  /** Later calls join the first. */
  go(action: PowerAction): Promise<unknown> {
    this.#going ??= this.#go(action);
    return this.#going;
  }

  async #go(action: PowerAction): Promise<void> {
    const { kernel, screen, log } = this.#begun;
    const word = action === "reboot" ? "restarts" : "goes off";
    log.info(`the device ${word}`);
    const { engine, closeDisk, onStopped } = this;
    const tell = async (name: string, work: () => Promise<void>) => {
      const stage = screen.stage(action);
      try {
        await work();
        stage.done(name);
      } catch (error) {
        stage.warn(`${name}: ${reasonOf(error)}`);
        throw error;
      }
    };
    const steps = [
      {
        name: "containers stopped",
        run: () => engine?.[Symbol.asyncDispose]() ?? Promise.resolve(),
        timeoutMs: stopMs,
      },
      { name: "audit log closed", run: () => onStopped?.() ?? Promise.resolve(), timeoutMs: closeMs },
      { name: "disk closed", run: () => closeDisk?.() ?? Promise.resolve(), timeoutMs: closeMs },
    ];
    screen.say(`the device ${word}`);
    await shutDown(
      kernel,
      action,
      steps.map((step) => ({ ...step, run: () => tell(step.name, step.run) })),
      log,
    );
  }
}
