/** What `make run` needs of the device beside its console, through the control protocol on the virtio port. */
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { Connection, ConnectionLost, DeviceError } from "../init/control/connection.ts";

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

/** QEMU takes what is written before the guest has opened its port, so a silent port is asked again. */
const answerMs = 3000;
const pauseMs = 300;
const core = "c0";

/** Waits until c0 runs. Rejects when `signal` fires before. */
export async function connectDevice(socketPath: string, signal: AbortSignal): Promise<Device> {
  for (let connection = await whenServed(socketPath, signal); ; ) {
    signal.throwIfAborted();
    try {
      if (await coreRuns(connection)) return deviceOn(connection);
    } catch (error) {
      if (!(error instanceof ConnectionLost)) throw error;
      connection = await whenServed(socketPath, signal); // the device restarts
    }
    await sleep(pauseMs, undefined, { signal });
  }
}

async function whenServed(socketPath: string, signal: AbortSignal): Promise<Connection> {
  for (;;) {
    signal.throwIfAborted();
    const socket = await open(socketPath);
    if (socket) {
      const connection = new Connection(socket);
      const answered = await Promise.race([
        connection.request("get_provisioned").then(
          () => true,
          () => false,
        ),
        sleep(answerMs, false, { ref: false }),
      ]);
      if (answered) return connection;
      connection.close();
    }
    await sleep(pauseMs, undefined, { signal });
  }
}

function open(socketPath: string): Promise<Socket | undefined> {
  return new Promise((resolve) => {
    const socket = connect(socketPath);
    socket.once("connect", () => resolve(socket));
    socket.once("error", () => resolve(undefined)); // QEMU is not there yet
  });
}

async function coreRuns(connection: Connection): Promise<boolean> {
  try {
    const state = await connection.request("state", new Map([["container", core]]));
    return state instanceof Map && state.get("state") === "RUNNING";
  } catch (error) {
    if (error instanceof DeviceError && error.code === "container-unknown") return false;
    throw error;
  }
}

function deviceOn(connection: Connection): Device {
  return {
    async run(line, onStdout, onStderr) {
      const { status, sentence } = await connection.run({
        container: core,
        argv: ["/bin/sh", "-c", line],
        onStdout,
        onStderr,
        onStarted: (input) => input.end(),
      });
      if (sentence !== undefined) process.stderr.write(`${sentence}\n`);
      return { status };
    },
    async powerOff() {
      await connection.request("poweroff");
    },
    close: () => connection.close(),
  };
}
