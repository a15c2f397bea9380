/** Reads lines that an operator types at the console, before anything else owns it. */
import { closeSync, constants, openSync, readSync, writeSync } from "node:fs";
import type { Kernel } from "../kernel.ts";
import { UV_READABLE } from "../linux.ts";
import { isErrno } from "./kernel-refusal.ts";

export type ConsoleInput = Disposable & {
  /** Shows `prompt` and resolves with the next line, without its end; undefined after `timeoutMs` or at end of file. */
  ask(prompt: string, timeoutMs: number): Promise<string | undefined>;
};

const lineMaxChars = 1024;

/** Opens `path` for questions. The terminal stays in its line mode: it echoes, and erases a mistyped sign itself. */
export function openConsoleInput(kernel: Kernel, path = "/dev/console"): ConsoleInput {
  const fd = openSync(path, constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK);
  let gathered = "";
  return {
    ask(prompt, timeoutMs) {
      gathered = "";
      writeSync(fd, prompt);
      return new Promise((resolve) => {
        const finish = (line: string | undefined) => {
          clearTimeout(timer);
          watch.close();
          resolve(line);
        };
        const timer = setTimeout(() => finish(undefined), timeoutMs);
        const watch = kernel.watchFd(fd, UV_READABLE, (error) => {
          const text = error === 0 ? readText(fd) : undefined;
          if (text === undefined) return finish(undefined);
          gathered = (gathered + text).slice(0, lineMaxChars);
          const end = gathered.search(/[\r\n]/);
          if (end >= 0) finish(gathered.slice(0, end));
        });
      });
    },
    [Symbol.dispose]: () => closeSync(fd),
  };
}

/** Undefined at end of file. */
function readText(fd: number): string | undefined {
  const octets = new Uint8Array(512);
  try {
    const length = readSync(fd, octets);
    return length === 0 ? undefined : Buffer.from(octets.subarray(0, length)).toString("latin1");
  } catch (error) {
    if (isErrno(error, "EAGAIN")) return "";
    return undefined; // EIO: the line hung up
  }
}
