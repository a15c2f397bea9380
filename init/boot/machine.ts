/**
 * First stage: the machine under PID 1. Mounts, hardening, the signed image's own description, screen and log. Then measuring: IMA policy,
 * modules, TPM, the own event log. Each stage's result has a mark that only its own function can make, so that no later stage
 * can be called without it.
 */
import { existsSync } from "node:fs";
import { hasCode, quoted } from "../errors.ts";
import type { Kernel } from "../kernel.ts";
import { raiseClock } from "../machine/clock.ts";
import { compareCommandLine, readCommandLine, replaceEnvironment } from "../machine/command-line.ts";
import { type BootScreen, consoleParts, openBootScreen } from "../machine/console.ts";
import { hardenKernel, hardenProcess } from "../machine/hardening.ts";
import { writeImaPolicy } from "../machine/ima-policy.ts";
import { type Log, openKmsgLog } from "../machine/kmsg.ts";
import { closeModuleDoor, loadModules } from "../machine/modules.ts";
import { makePivotable, mountEfivars, mountSystem } from "../machine/mounts.ts";
import { startReaper } from "../machine/reaper.ts";
import { readSecureBoot, type SecureBoot } from "../machine/secure-boot.ts";
import { openWatchdog } from "../machine/watchdog.ts";
import { type EventLog, openEventLog } from "../measure/log.ts";
import { enterPhase } from "../measure/phases.ts";
import { bringLoopbackUp } from "../net/links.ts";
import { isProvisioned } from "../tpm/provisioned.ts";
import { type OpenTransport, openTpmDevice } from "../tpm/transport.ts";
import { type BuildInfo, readBuildInfo } from "./build-info.ts";

declare const prepared: unique symbol;
/** The machine is ours: mounts, log and screen are there. */
export type Prepared = {
  readonly [prepared]: true;
  readonly kernel: Kernel;
  readonly build: BuildInfo;
  readonly screen: BootScreen;
  readonly log: Log;
  /** What an operator should know, for `control status`. */
  readonly warnings: string[];
};

declare const measured: unique symbol;
/** What boots is measured, and "enter-initrd" stands in PCR 11. */
export type Measured = Prepared & {
  readonly [measured]: true;
  readonly secureBoot: SecureBoot;
  readonly provisioned: boolean;
  /** Absent where the machine has no TPM; the board's declaration says whether that may be. */
  readonly trusted: { readonly tpm: OpenTransport; readonly events: EventLog } | undefined;
};

/** Before anything can fail with a sentence there must be a screen to show it on. */
export function prepare(kernel: Kernel): Prepared {
  const missing = mountSystem(kernel);
  const gone = replaceEnvironment();
  hardenProcess(kernel);
  kernel.setConsoleLogLevel(1); // the screen is ours; the kernel's words are in its ring
  const log = openKmsgLog();
  const screen = openBootScreen(consoleParts());
  const warnings: string[] = [];
  const warn = (text: string, todo?: string) => {
    warnings.push(text);
    log.warn(text);
    screen.warn(text, todo);
  };
  const build = readBuildInfo();
  screen.say(`gimbal ${build.version}, release ${build.release}, board ${build.board}`);
  if (build.development) warn("this is a development image: anybody at its console manages the device");
  const clock = raiseClock(kernel, build.buildTime);
  if (clock.raised)
    warn("the clock was earlier than this image: it was set to the image's time", "set the clock");
  if (missing.length > 0) log.warn(`this kernel lacks ${missing.join(", ")}`);
  if (gone.length > 0)
    log.warn(`words of the command line that came as environment and went: ${gone.map(quoted).join(" ")}`);
  const difference = compareCommandLine(readCommandLine(), build.cmdline);
  if (difference.changed) {
    const shown = [
      ...difference.extra.map((word) => `+${word}`),
      ...difference.missing.map((word) => `-${word}`),
    ];
    warn(
      `the kernel's command line is not the signed one: ${shown.map(quoted).join(" ")}`,
      "look at what the firmware adds to it",
    );
  }
  if (
    existsSync("/.extra/credentials") ||
    existsSync("/.extra/sysext") ||
    existsSync("/.extra/global_credentials")
  ) {
    warn(
      "unsigned files lie beside the kernel image; they are not used",
      "remove the .extra.d folder from the boot partition",
    );
  }
  bringLoopbackUp(kernel);
  makePivotable(kernel);
  return { kernel, build, screen, log, warnings } as Omit<Prepared, typeof prepared> as Prepared;
}

export async function measure(before: Prepared): Promise<Measured> {
  const { kernel, screen, log, build, warnings } = before;
  const modules = screen.stage("modules");
  const ima = writeImaPolicy();
  const { loaded, failed } = loadModules(kernel);
  for (const { path, why } of failed) log.warn(`module ${path}: ${why}`);
  closeModuleDoor();
  startReaper(kernel);
  const settings = hardenKernel();
  for (const line of settings) log.info(`kernel setting not taken: ${line}`);
  const watchdog = openWatchdog(kernel);
  log.info(watchdog ? `watchdog: ${watchdog.timeoutSeconds} s` : "no watchdog");
  const counted = `${loaded.length} loaded, signatures checked`;
  if (ima.is !== "written") {
    const why = ima.is === "absent" ? "the kernel has no IMA" : ima.why;
    warnings.push(`modules and device-mapper tables are not measured: ${why}`);
    modules.warn(`${counted}; not measured: ${why}`, "boot a kernel with IMA");
  } else
    modules.done(
      `${counted}, measured${failed.length > 0 ? `; ${failed.length} did not load, see the log` : ""}`,
    );

  mountEfivars(kernel);
  const secureBoot = showSecureBoot(before);
  const tpm = screen.stage("TPM");
  const trusted = await openTpm(before);
  const provisioned = trusted ? await isProvisioned(trusted.tpm) : false;
  if (trusted) {
    await enterPhase(trusted.events, "enter-initrd");
    tpm.done(`2.0, event log open; the device is ${provisioned ? "provisioned" : "not provisioned"}`);
  } else if (build.storageKey === "tpm") {
    warnings.push("there is no TPM");
    tpm.warn("there is none, and this board keeps its disk key in one", "check the firmware's settings");
  } else tpm.done("none, and this board needs none");
  return { ...before, secureBoot, provisioned, trusted } as Omit<Measured, typeof measured> as Measured;
}

async function openTpm({ log }: Prepared): Promise<Measured["trusted"]> {
  try {
    const tpm = await openTpmDevice();
    return { tpm, events: await openEventLog(tpm) };
  } catch (error) {
    if (!hasCode(error, "tpm-absent")) throw error;
    log.warn(error.message);
    return undefined;
  }
}

function showSecureBoot({ screen, warnings }: Prepared): SecureBoot {
  const state = readSecureBoot();
  const stage = screen.stage("firmware");
  const kernelPart = `kernel lockdown ${state.lockdown}, module signatures ${state.moduleSignatures ? "enforced" : "not enforced"}`;
  const warn = (text: string, todo: string) => {
    warnings.push(text);
    stage.warn(text, todo);
  };
  if (state.firmware === "none")
    warn(`no UEFI: nothing checked the kernel image; ${kernelPart}`, "boot through UEFI with Secure Boot");
  else if (!state.secureBoot)
    warn(`UEFI, Secure Boot off; ${kernelPart}`, "enrol the keys and switch Secure Boot on");
  else if (state.setupMode)
    warn(`UEFI in setup mode: it takes anybody's keys; ${kernelPart}`, "enrol a platform key");
  else stage.done(`UEFI, Secure Boot on; ${kernelPart}`);
  return state;
}
