/**
 * `make run` with a standard input that is no terminal: each line is a command for c0. Their output is all that appears
 * on standard output; the console goes to standard error. After the last line the device is shut down, and the status
 * is that of the last command, or 125 when the device itself did not come up or go down in order.
 */

import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { type Machine, sockets } from "../board/qemu.ts";
import { DeviceError } from "../init/control/connection.ts";
import { reasonOf } from "../init/errors.ts";
import { connectDevice, type Device } from "./device.ts";
import { PlainText } from "./plain-text.ts";

/** The status for a device that misbehaved, as env(1) and others use it for their own failures. */
export const deviceFailed = 125;

export type Limits = { readonly bootMs: number; readonly shutdownMs: number };

export async function runScript(machine: Machine, folder: string, limits: Limits): Promise<number> {
  const console = new PlainText();
  machine.serial.on("data", (chunk: Buffer) => process.stderr.write(console.take(chunk)));
  const connect = () => comesUp(machine, join(folder, sockets.control), limits.bootMs);
  let device = await connect();
  let status = 0;
  const lines = createInterface({ input: process.stdin, crlfDelay: Number.POSITIVE_INFINITY });
  for await (const line of lines) {
    if (line.trim() === "") continue;
    for (let done = false; !done; ) {
      if (device === undefined) return deviceFailed;
      const ran = await runLine(machine, device, line);
      done = ran.is !== "not-started";
      if (ran.is === "ended") status = ran.status;
      else if (ran.is === "stopped") return endedEarly(machine, line);
      else {
        // The device restarted, by this line or the one before: what it cut short has failed, what never began begins again.
        if (ran.is === "restarted") status = deviceFailed;
        device.close();
        device = await connect();
      }
    }
  }
  if (device === undefined) return deviceFailed;
  return (await goesDown(machine, device, limits.shutdownMs)) ? status : deviceFailed;
}

/** How long a device that refuses commands may take until it restarts or is off. */
const goingDownMs = 45_000;

type LineEnd =
  | { readonly is: "ended"; readonly status: number }
  | { readonly is: "not-started" | "restarted" | "stopped" };

async function runLine(machine: Machine, device: Device, line: string): Promise<LineEnd> {
  const [output, errors] = [new PlainText(), new PlainText()];
  const stopped = machine.ended.then((): LineEnd => ({ is: "stopped" }));
  const restarted = machine.monitor.nextReset().then((): LineEnd => ({ is: "restarted" }));
  let refused = false;
  const ran = device
    .run(
      line,
      (chunk) => process.stdout.write(output.take(chunk)),
      (chunk) => process.stderr.write(errors.take(chunk)),
    )
    .then(({ status }): LineEnd => ({ is: "ended", status }))
    .catch(async (error: unknown): Promise<LineEnd> => {
      process.stderr.write(`\ncannot run ${JSON.stringify(line)}: ${reasonOf(error)}\n`);
      // A device on its way down takes no commands. It may come up again; else this is the line's end.
      refused = error instanceof DeviceError;
      await sleep(goingDownMs, undefined, { ref: false });
      return { is: "ended", status: deviceFailed };
    });
  const end = await Promise.race([ran, stopped, restarted]);
  process.stdout.write(output.end());
  process.stderr.write(errors.end());
  return refused && end.is === "restarted" ? { is: "not-started" } : end;
}

async function comesUp(machine: Machine, socketPath: string, limitMs: number): Promise<Device | undefined> {
  const giveUp = new AbortController();
  const early = machine.ended.then((status) => `QEMU ended with ${status} before the device was up`);
  const late = sleep(limitMs, `the device was not up after ${limitMs / 1000} s`, { signal: giveUp.signal });
  const result = await Promise.race([connectDevice(socketPath, giveUp.signal), early, late]).finally(() => {
    late.catch(() => {}); // aborted: nobody waits for it any more
  });
  giveUp.abort(); // else the timer keeps this process for its whole time
  if (typeof result !== "string") return result;
  process.stderr.write(`\ncannot run commands: ${result}\n`);
  return undefined;
}

/** A command may power the device off itself; then what follows it cannot run. */
function endedEarly(machine: Machine, line: string): number {
  if (inOrder(machine)) return 0;
  process.stderr.write(`\ncannot run ${JSON.stringify(line)} to its end: the device stopped\n`);
  return deviceFailed;
}

async function goesDown(machine: Machine, device: Device, limitMs: number): Promise<boolean> {
  await Promise.race([device.powerOff().catch(() => {}), machine.ended]); // the answer may be lost with the device
  const status = await Promise.race([machine.ended, sleep(limitMs, undefined, { ref: false })]);
  device.close();
  if (status === 0 && inOrder(machine)) return true;
  const how = status === undefined ? `still runs after ${limitMs / 1000} s` : `ended with ${status}`;
  process.stderr.write(`\ncannot shut the device down in order: QEMU ${how}\n`);
  return false;
}

const inOrder = (machine: Machine): boolean =>
  machine.monitor.shutdown?.reason === "guest-shutdown" && machine.monitor.watchdogBites === 0;
