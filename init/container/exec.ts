/** `control run`: a command in a running container, under all of its restrictions. */
import { closeSync } from "node:fs";
import { GimbalError, quoted, reasonOf } from "../errors.ts";
import type { Kernel, WaitStatus, WindowSize } from "../kernel.ts";
import { AT_EMPTY_PATH, allNamespaces, CLD_EXITED, O_PATH, RESOLVE_BENEATH } from "../linux.ts";
import { defaultPath } from "./ambient.ts";
import { giveBytes, readable, takeBytes, writable } from "./fd-stream.ts";
import { type Guest, SIGKILL } from "./guest.ts";
import type { Plan, PlanOp } from "./plan.ts";
import { type PlanFailure, type Process, planFailureOf, spawn } from "./spawn.ts";
import { wallOps } from "./start-plan.ts";

export type ExecRequest = {
  /** argv[0] without "/" is looked up in the guest's PATH. */
  readonly argv: readonly string[];
  /** "NAME=value", added to what a login would have. */
  readonly env?: readonly string[];
  /** In the guest; default "/". */
  readonly directory?: string;
  /** Ids in the guest; default 0 and 0. */
  readonly uid?: number;
  readonly gid?: number;
  /** A terminal of the guest's own devpts of this size; without one there are three pipes. */
  readonly terminal?: WindowSize;
};

export type ExecOutput = { readonly from: "stdout" | "stderr"; readonly bytes: Uint8Array };

export type ExecEnd = {
  /** Exit status, 128 + signal, 126 where it could not be executed, 127 where it does not exist (B67). */
  readonly status: number;
  /** Why there is a 126 or 127: for standard error of the client; the guest's own output stays unmixed. */
  readonly sentence?: string;
};

/** Disposing it ends the command and all that it started. */
export interface ExecSession extends AsyncDisposable {
  readonly pid: number;
  /** With a terminal all of it is "stdout". Nothing is read ahead of a slow reader. Ends after the last octet. */
  readonly output: AsyncIterable<ExecOutput>;
  /** Resolves once the octets are taken; to be awaited before the next call. False when nobody reads any more. */
  write(bytes: Uint8Array): Promise<boolean>;
  /** End of file for the command: closes the pipe, or types Ctrl-D into the terminal. */
  endInput(): void;
  /** No effect without a terminal. */
  resize(size: WindowSize): void;
  signal(signal: number): void;
  /** Settles after `output` ended. */
  readonly ended: Promise<ExecEnd>;
}

const ttyGroup = 5;
const endOfTransmission = 4; // Ctrl-D
const startTimeoutMs = 30_000;
const terminalPauseMs = 10;
let sessions = 0;

/**
 * Runs a command in `guest`. A command that cannot be executed is a session that ends at once with 126 or 127.
 * @throws {GimbalError} "exec-failed", "bad-argument"
 */
export async function openExec(
  kernel: Kernel,
  shimFd: number,
  guest: Guest,
  request: ExecRequest,
): Promise<ExecSession> {
  checkRequest(request);
  await using undo = new AsyncDisposableStack();
  const cgroup = undo.use(guest.cgroup.makeExecChild(`gimbal-exec-${++sessions}`));
  const channel = undo.use(openChannel(kernel, guest, request));
  let process: Process;
  try {
    process = await spawn(kernel, shimFd, {
      plan: execPlan(guest, request, channel.theirs.length === 1),
      slots: [guest.pidfd, ...channel.theirs],
      namespaces: 0,
      cgroupFd: cgroup.fd,
      timeoutMs: startTimeoutMs,
    });
  } catch (error) {
    const failure = planFailureOf(error);
    if (failure?.op?.op === "exec") return notExecuted(failure, request.argv[0] ?? "");
    const on = quoted(request.argv[0] ?? "");
    throw new GimbalError("exec-failed", { tried: "run", on, why: reasonOf(error) }, error);
  }
  undo.use(process);
  channel.closeTheirs();
  const owned = undo.move();
  return session(kernel, process, channel, () => owned.disposeAsync());
}

const idMax = 65_535;

function checkRequest({ argv, env = [], directory = "/", uid = 0, gid = 0 }: ExecRequest): void {
  const refuse = (why: string) =>
    new GimbalError("bad-argument", { tried: "run", on: quoted(argv[0] ?? "a command"), why });
  if (argv.length === 0) throw refuse("there is no command");
  if ([...argv, ...env, directory].some((text) => text.includes("\0")))
    throw refuse("a word of it holds NUL");
  const odd = env.find((entry) => !/^[A-Za-z_][A-Za-z0-9_]*=/.test(entry));
  if (odd !== undefined) throw refuse(`${quoted(odd)} is not NAME=value`);
  for (const id of [uid, gid]) {
    if (!Number.isInteger(id) || id < 0 || id > idMax)
      throw refuse(`ids in a container go from 0 to ${idMax}`);
  }
}

/** As a shell: 127 where there is nothing of that name, 126 where it is there and cannot run (B67). */
function notExecuted({ code }: PlanFailure, name: string): ExecSession {
  const missing = code === "ENOENT" || code === "ENOTDIR";
  const why = missing ? "it does not exist in the container" : `it cannot be executed (${code})`;
  const end: ExecEnd = { status: missing ? 127 : 126, sentence: `cannot run ${quoted(name)}: ${why}` };
  return {
    pid: 0,
    output: (async function* () {})(),
    write: () => Promise.resolve(false),
    endInput() {},
    resize() {},
    signal() {},
    ended: Promise.resolve(end),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

function execPlan(guest: Guest, request: ExecRequest, hasTerminal: boolean): Plan {
  const { argv, env = [], directory = "/", uid = 0, gid = uid } = request;
  const stdio: PlanOp[] = [0, 1, 2].map((to) => ({
    op: "stdio",
    slot: hasTerminal ? 1 : 1 + to,
    to: to as 0 | 1 | 2,
  }));
  return [
    { op: "reset" },
    { op: "oomScore", value: 0 },
    { op: "setns", slot: 0, namespaces: allNamespaces },
    { op: "fork" },
    { op: "setsid" },
    { op: "sessionKeyring" },
    { op: "ids", uid: 0, gid: 0, groups: [] },
    ...stdio,
    ...(hasTerminal ? [{ op: "controllingTty" } as const] : []),
    { op: "umask", mask: 0o022 },
    { op: "chdir", path: directory },
    // No Landlock scope: it would be a domain of its own, from which the guest's processes cannot be signalled.
    ...wallOps({ ...guest.walls, landlockScopes: 0 }),
    // Last, since all before needs the guest's root; from here on there are no capabilities left.
    ...(uid === 0 && gid === 0 ? [] : [{ op: "ids", uid, gid, groups: [] } as const]),
    { op: "exec", path: argv[0] ?? "", argv, env: environment(env, uid) },
  ];
}

function environment(given: readonly string[], uid: number): string[] {
  const all = [`PATH=${defaultPath}`, `HOME=${uid === 0 ? "/root" : "/"}`, "TERM=linux", ...given];
  return [...new Map(all.map((entry) => [entry.split("=", 1)[0], entry])).values()];
}

/** Our ends and theirs: one terminal, or three pipes. */
type Channel = Disposable & {
  readonly theirs: readonly number[];
  closeTheirs(): void;
  readonly input: number;
  readonly outputs: readonly { readonly from: "stdout" | "stderr"; readonly fd: number }[];
  readonly terminal: boolean;
  /** Only with pipes. */
  closeInput(): void;
};

function openChannel(kernel: Kernel, guest: Guest, { terminal, uid = 0 }: ExecRequest): Channel {
  using undo = new DisposableStack();
  const open = new Set<number>();
  const own = (fd: number): number => {
    open.add(fd);
    return fd;
  };
  const close = (fd: number) => {
    if (open.delete(fd)) closeSync(fd);
  };
  undo.defer(() => {
    for (const fd of [...open]) close(fd);
  });
  let channel: Omit<Channel, typeof Symbol.dispose>;
  if (terminal) {
    const ptmx = kernel.openat2(guest.devpts, "ptmx", O_PATH, 0, RESOLVE_BENEATH);
    const { master, slave } = openPtyAt(kernel, ptmx);
    own(master);
    own(slave);
    kernel.fchownat(slave, "", guest.idBase + uid, guest.idBase + ttyGroup, AT_EMPTY_PATH);
    kernel.setWindowSize(master, terminal);
    channel = {
      theirs: [slave],
      closeTheirs: () => close(slave),
      input: master,
      outputs: [{ from: "stdout", fd: master }],
      terminal: true,
      closeInput: () => void giveBytes(master, Uint8Array.of(endOfTransmission)),
    };
    kernel.setNonBlocking(master, true);
  } else {
    const [input, output, errors] = [kernel.pipe(), kernel.pipe(), kernel.pipe()] as const;
    for (const fd of [...input, ...output, ...errors]) own(fd);
    for (const fd of [input[1], output[0], errors[0]]) kernel.setNonBlocking(fd, true);
    // A command of another user than root may reopen its own standard streams.
    for (const fd of [input[0], output[1], errors[1]]) {
      kernel.fchownat(fd, "", guest.idBase + uid, guest.idBase + uid, AT_EMPTY_PATH);
    }
    const theirs = [input[0], output[1], errors[1]];
    channel = {
      theirs,
      closeTheirs: () => theirs.forEach(close),
      input: input[1],
      outputs: [
        { from: "stdout", fd: output[0] },
        { from: "stderr", fd: errors[0] },
      ],
      terminal: false,
      closeInput: () => close(input[1]),
    };
  }
  const owned = undo.move();
  return { ...channel, [Symbol.dispose]: () => owned.dispose() };
}

function openPtyAt(kernel: Kernel, ptmx: number): { readonly master: number; readonly slave: number } {
  try {
    return kernel.openPty(ptmx);
  } finally {
    closeSync(ptmx);
  }
}

function session(
  kernel: Kernel,
  process: Process,
  channel: Channel,
  dispose: () => Promise<void>,
): ExecSession {
  const ended = Promise.withResolvers<ExecEnd>();
  ended.promise.catch(() => {}); // whoever looks at it is told; a client that left does not look
  const exit = new AbortController();
  const gone = new AbortController();
  void process.exited.then(() => exit.abort());
  let inputOpen = true;
  let disposing: Promise<void> | undefined;

  async function* output(): AsyncGenerator<ExecOutput> {
    let open = [...channel.outputs];
    while (open.length > 0 && !gone.signal.aborted) {
      let took = false;
      for (const source of open) {
        if (gone.signal.aborted) break; // while the reader had the last piece: the descriptors are gone
        const taken = takeBytes(source.fd);
        if (taken.is === "end") open = open.filter((other) => other !== source);
        if (taken.is !== "bytes") continue;
        took = true;
        yield { from: source.from, bytes: taken.bytes };
      }
      if (took || open.length === 0) continue;
      // What the command left running may hold the pipes for ever: its own end, and nothing left to read, is the end.
      if (exit.signal.aborted) break;
      await readable(
        kernel,
        open.map((source) => source.fd),
        { signal: exit.signal },
      );
    }
    if (gone.signal.aborted) return ended.reject(new Error("the session was ended"));
    ended.resolve(endOf(await process.exited));
  }

  return {
    pid: process.pid,
    output: output(),
    async write(bytes) {
      for (let at = 0; at < bytes.length && inputOpen; ) {
        const count = giveBytes(channel.input, bytes.subarray(at));
        if (count === undefined) return false;
        at += count;
        if (count > 0) continue;
        // A descriptor can be watched once, and the terminal's is being read: its turn is waited for by the clock.
        if (channel.terminal) await new Promise((resolve) => setTimeout(resolve, terminalPauseMs));
        else await writable(kernel, channel.input, exit.signal);
        if (exit.signal.aborted) return false;
      }
      return inputOpen;
    },
    endInput() {
      if (!inputOpen) return;
      if (!channel.terminal) inputOpen = false;
      channel.closeInput();
    },
    resize(size) {
      if (channel.terminal && !gone.signal.aborted) kernel.setWindowSize(channel.input, size);
    },
    signal: (signal) => process.signal(signal),
    ended: ended.promise,
    [Symbol.asyncDispose]() {
      disposing ??= (async () => {
        inputOpen = false;
        gone.abort();
        process.signal(SIGKILL);
        await process.exited;
        // A pause of one turn: a reader that waits sees the end before its descriptors go.
        await new Promise((resolve) => setImmediate(resolve));
        await dispose();
      })();
      return disposing;
    },
  };
}

function endOf({ code, status }: WaitStatus): ExecEnd {
  return { status: code === CLD_EXITED ? status : 128 + status };
}
