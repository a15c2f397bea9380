/** The user's own terminal or pipe as the input of a command in a container. */
import { spawnSync } from "node:child_process";
import { constants } from "node:os";
import type { ReadStream, WriteStream } from "node:tty";
import type { RunInput } from "./connection.ts";

export interface Attached extends Disposable {
  size(): { readonly rows: number; readonly columns: number };
  /** From now on keys and sizes go to the command. */
  start(input: RunInput): void;
}

const endings = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"] as const;

/** Raw mode until disposed: Ctrl-C and all other keys are the command's. However this process ends, the terminal is as it was. */
export function attachTerminal(keys: ReadStream, screen: WriteStream): Attached {
  let onResize = () => {};
  const restore = () => keys.setRawMode(false);
  const end = (signal: NodeJS.Signals) => process.exit(128 + constants.signals[signal]);
  process.once("exit", restore);
  for (const signal of endings) process.on(signal, end);
  keys.setRawMode(true);
  // Raw as Node has it still makes CR LF of each LF, under which an editor's cursor movements break. Where there is no
  // stty(1) that stays so. What restores the terminal restores this as well.
  spawnSync("stty", ["-opost"], { stdio: ["inherit", "ignore", "ignore"] });
  return {
    size: () => sizeOf(screen),
    start(input) {
      feed(keys, input);
      onResize = () => input.resize(sizeOf(screen));
      screen.on("resize", onResize);
      onResize(); // it may have changed while the command started
    },
    [Symbol.dispose]() {
      screen.off("resize", onResize);
      restore();
      process.off("exit", restore);
      for (const signal of endings) process.off(signal, end);
    },
  };
}

/** A serial line knows no size; then that of the terminals it was made for. */
function sizeOf(screen: WriteStream): { readonly rows: number; readonly columns: number } {
  return { rows: screen.rows || 24, columns: screen.columns || 80 };
}

/** Standard input as octets with their end. */
export function pipeInput(stream: NodeJS.ReadStream, input: RunInput): void {
  feed(stream, input);
  stream.once("end", () => input.end());
  stream.once("error", () => input.end()); // a directory, a closed descriptor: no input
}

/** Reads no faster than the command takes. */
function feed(stream: NodeJS.ReadStream, input: RunInput): void {
  stream.on("data", (octets: Uint8Array) => {
    stream.pause();
    void input.write(octets).then(() => stream.resume());
  });
}
