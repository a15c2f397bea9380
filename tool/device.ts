/** What `make run` needs of the device beside its console, through the control protocol on the virtio port. */

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

/** Waits until the device serves the control protocol on `socketPath`. Rejects when `signal` fires before. */
export async function connectDevice(socketPath: string, signal: AbortSignal): Promise<Device> {
  // init/control/client-lib.ts brings the protocol; until it is there, nobody answers.
  const path = "../init/control/client-lib.ts";
  const library: { connectDevice(socketPath: string, signal: AbortSignal): Promise<Device> } = await import(
    path
  );
  return library.connectDevice(socketPath, signal);
}
