/** The user's own terminal or pipe as the input of a command in a container. */
import type { ReadStream, WriteStream } from "node:tty";
import type { RunInput } from "./connection.ts";

export interface Attached extends Disposable {
  size(): { readonly rows: number; readonly columns: number };
  /** From now on keys and sizes go to the command. */
  start(input: RunInput): void;
}

/** Raw mode until disposed: Ctrl-C and all other keys are the command's. */
export function attachTerminal(keys: ReadStream, screen: WriteStream): Attached {
  let onResize = () => {};
  const size = () => ({ rows: screen.rows, columns: screen.columns });
  keys.setRawMode(true);
  // However this process ends, the terminal is usable afterwards.
  const restore = () => keys.setRawMode(false);
  process.once("exit", restore);
  for (const signal of ["SIGTERM", "SIGHUP"] as const) process.once(signal, () => process.exit(128 + 15));
  return {
    size,
    start(input) {
      keys.on("data", (bytes: Uint8Array) => void input.write(bytes));
      onResize = () => input.resize(screen.rows, screen.columns);
      screen.on("resize", onResize);
      onResize(); // it may have changed while the command started
    },
    [Symbol.dispose]() {
      screen.off("resize", onResize);
      restore();
      process.off("exit", restore);
      keys.pause();
    },
  };
}

/** Standard input as octets, with their end; read no faster than the command takes them. */
export function pipeInput(stream: NodeJS.ReadStream, input: RunInput): void {
  stream.on("data", (bytes: Uint8Array) => {
    stream.pause();
    void input.write(bytes).then(() => stream.resume());
  });
  stream.once("end", () => input.end());
  stream.once("error", () => input.end());
}
