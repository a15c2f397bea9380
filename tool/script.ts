/**
 * `make run` with a standard input that is no terminal: each line is a command for c0. Their output is all that appears
 * on standard output; the console goes to standard error. After the last line the device is shut down, and the status
 * is that of the last command, or 125 when the device itself did not come up or go down in order.
 */

import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { type Machine, sockets } from "../board/qemu.ts";
import { connectDevice, type Device } from "./device.ts";
import { PlainText } from "./plain-text.ts";

/** The status for a device that misbehaved, as env(1) and others use it for their own failures. */
export const deviceFailed = 125;

export type Limits = { readonly bootMs: number; readonly shutdownMs: number };

export async function runScript(machine: Machine, folder: string, limits: Limits): Promise<number> {
  const console = new PlainText();
  machine.serial.on("data", (chunk: Buffer) => process.stderr.write(console.take(chunk)));
  const device = await comesUp(machine, join(folder, sockets.control), limits.bootMs);
  if (device === undefined) return deviceFailed;
  let status = 0;
  const lines = createInterface({ input: process.stdin, crlfDelay: Number.POSITIVE_INFINITY });
  for await (const line of lines) {
    if (line.trim() === "") continue;
    const ran = await Promise.race([runLine(device, line), machine.ended.then(() => undefined)]);
    if (ran === undefined) return endedEarly(machine, line);
    status = ran;
  }
  return (await goesDown(machine, device, limits.shutdownMs)) ? status : deviceFailed;
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

async function runLine(device: Device, line: string): Promise<number> {
  const [output, errors] = [new PlainText(), new PlainText()];
  const { status } = await device.run(
    line,
    (chunk) => process.stdout.write(output.take(chunk)),
    (chunk) => process.stderr.write(errors.take(chunk)),
  );
  process.stdout.write(output.end());
  process.stderr.write(errors.end());
  return status;
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
