/** What `make run` needs of the device beside its console, through the control protocol on the virtio port. */
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import type { CborValue } from "../init/bytes/cbor.ts";
import { Connection, DeviceError } from "../init/control/connection.ts";
import { GimbalError } from "../init/errors.ts";

/** How a command in c0 ended. */
export type Ran = { readonly status: number };

export type Device = {
  /** Runs `sh -c line` in c0 and hands its output on as it comes. */
  run(
    line: string,
    onOutput: (chunk: Uint8Array) => void,
    onErrors: (chunk: Uint8Array) => void,
  ): Promise<Ran>;
  /** Asks the device to shut down in order. The answer may be lost with the device. */
  powerOff(): Promise<void>;
  close(): void;
};

const retryMs = 500;
/** QEMU keeps what is sent until the device opens its port; should it not, the question comes again. */
const askAgainMs = 10_000;

/** Waits until the device serves the control protocol on `socketPath` and c0 runs. Rejects when `signal` fires before. */
export async function connectDevice(socketPath: string, signal: AbortSignal): Promise<Device> {
  for (; ; await pause(signal)) {
    const socket = await open(socketPath);
    if (!socket) continue;
    const connection = new Connection(socket);
    const giveUp = () => connection.close();
    signal.addEventListener("abort", giveUp, { once: true });
    try {
      while (connection.isOpen && !(await coreRuns(connection))) await pause(signal);
      if (connection.isOpen) return deviceOf(connection);
    } finally {
      signal.removeEventListener("abort", giveUp);
    }
    connection.close();
  }
}

function deviceOf(connection: Connection): Device {
  return {
    async run(line, onStdout, onStderr) {
      const { status, sentence } = await connection.run({
        container: "c0",
        argv: ["sh", "-c", line],
        onStdout,
        onStderr,
        onStarted: (input) => input.end(),
      });
      if (sentence !== undefined) onStderr(Buffer.from(`${sentence}\n`));
      return { status };
    },
    powerOff: () => connection.request("poweroff").then(() => {}),
    close: () => connection.close(),
  };
}

/** False also where the connection broke. */
async function coreRuns(connection: Connection): Promise<boolean> {
  const asked = connection
    .request("state", new Map([["container", "c0"]]))
    .then((row: CborValue) => row instanceof Map && row.get("state") === "RUNNING")
    .catch((error: unknown) => {
      // A device that does not know c0 yet, or has gone: both may change.
      if (error instanceof DeviceError || !connection.isOpen) return false;
      throw error;
    });
  return Promise.race([asked, sleep(askAgainMs, false, { ref: false })]);
}

function open(path: string): Promise<Socket | undefined> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once("connect", () => resolve(socket));
    socket.once("error", () => resolve(undefined)); // QEMU has not made it yet
  });
}

async function pause(signal: AbortSignal): Promise<void> {
  await sleep(retryMs);
  if (!signal.aborted) return;
  throw new GimbalError("connection-lost", {
    tried: "connect to",
    on: "the device",
    why: "it was not up in time",
  });
}
