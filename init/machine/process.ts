/**
 * Runs a helper program (cryptsetup, mke2fs, e2fsck) to its end: no shell, a clean environment, a time limit, bounded
 * output. The one place in PID 1 that uses child_process, so that the reaper knows whose exit is not its own.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { GimbalError, quoted, reasonOf } from "../errors.ts";

export type ToolResult = {
  /** The exit status. What it means is the caller's business. */
  readonly status: number;
  readonly stdout: Uint8Array;
  /** At most 4,096 characters from its end. */
  readonly stderr: string;
};

export type ToolOptions = {
  /** Written to its standard input, which then ends. Keys go this way: never in arguments, never in the environment. */
  readonly stdin?: Uint8Array;
  /** After that it is killed. */
  readonly timeoutMs: number;
  /** Become descriptors 3, 4, ... of the helper. */
  readonly extraFds?: readonly number[];
  readonly env?: Readonly<Record<string, string>>;
};

export type RunTool = (path: string, args: readonly string[], options: ToolOptions) => Promise<ToolResult>;

const outputMaxBytes = 1 << 20;
const stderrMaxChars = 4096;
const environment = { PATH: "/usr/sbin:/usr/bin", LC_ALL: "C", DM_DISABLE_UDEV: "1" };
const running = new Set<number>();

/** Runs `path` and resolves with its exit status. Throws "tool-failed" where it cannot start, is killed, or takes too long. */
export const runTool: RunTool = (path, args, options) =>
  new Promise((resolve, reject) => {
    const fail = (why: string, cause?: unknown) =>
      reject(new GimbalError("tool-failed", { tried: "run", on: path, why }, cause));
    const child = spawn(path, args, {
      cwd: "/",
      env: { ...environment, ...options.env },
      stdio: ["pipe", "pipe", "pipe", ...(options.extraFds ?? [])],
    });
    ownChild(child);
    const stdout = gather(child.stdout, outputMaxBytes, () => child.kill("SIGKILL"));
    const stderr = gather(child.stderr, outputMaxBytes, () => child.kill("SIGKILL"));
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      child.kill("SIGKILL");
    }, options.timeoutMs);
    child.stdin?.on("error", () => undefined); // it may end without reading: its status tells
    child.stdin?.end(options.stdin ?? new Uint8Array());
    child.once("error", (error) => {
      clearTimeout(timer);
      fail(quoted(reasonOf(error)), error);
    });
    child.once("close", (status, signal) => {
      clearTimeout(timer);
      const last = stderr().toString("utf8").slice(-stderrMaxChars);
      if (late) fail(`it took more than ${options.timeoutMs} ms${lastWords(last)}`);
      else if (status === null) fail(`it was ended by ${signal ?? "a signal"}${lastWords(last)}`);
      else resolve({ status, stdout: new Uint8Array(stdout()), stderr: last });
    });
  });

/** Says that `child` belongs to child_process: the reaper leaves its exit to libuv. */
export function ownChild(child: ChildProcess): void {
  const { pid } = child;
  if (pid === undefined) return;
  running.add(pid);
  // libuv has waited for it when this event comes; the number may then belong to another process.
  child.once("exit", () => running.delete(pid));
}

/** Says that somebody waits for `pid` by a pidfd. The result is to be called once that has happened. */
export function claimPid(pid: number): () => void {
  running.add(pid);
  return () => running.delete(pid);
}

let expected = 0;

/** Says that a child is on its way whose pid is not known yet: until the result is called, none is an orphan for sure. */
export function expectChild(): () => void {
  expected++;
  let open = true;
  return () => {
    if (open) expected--;
    open = false;
  };
}

/** True while somebody has yet to take the exit of `pid`, or may have. */
export const isOwnChild = (pid: number): boolean => expected > 0 || running.has(pid);

/** ": <the last line a helper wrote>", for the end of a sentence; empty where it wrote none. */
export function lastWords(stderr: string): string {
  const line = stderr.trimEnd().split("\n").at(-1)?.trim();
  return line ? `: ${quoted(line)}` : "";
}

function gather(stream: NodeJS.ReadableStream | null, maxBytes: number, tooMuch: () => void): () => Buffer {
  const chunks: Buffer[] = [];
  let length = 0;
  stream?.on("data", (chunk: Buffer) => {
    length += chunk.length;
    if (length > maxBytes) tooMuch();
    else chunks.push(chunk);
  });
  return () => Buffer.concat(chunks);
}
