/** `control`: the command line. Asks the device, shows the result, ends with a status that scripts can rely on. */
import { randomBytes } from "node:crypto";
import { connect, type Socket } from "node:net";
import { isatty, type ReadStream, type WriteStream } from "node:tty";
import type { CborValue } from "../bytes/cbor.ts";
import { reasonOf } from "../errors.ts";
import type { Command } from "./command.ts";
import { Connection, ConnectionLost, DeviceError } from "./connection.ts";
import { commandHelp, overallHelp } from "./help.ts";
import { OutputClosed, writeTo } from "./output.ts";
import { inOrder, render, toJson } from "./render.ts";
import { escaped, SafeText } from "./safe-text.ts";
import { attachTerminal, pipeInput } from "./terminal.ts";
import { type CommandLine, parseCommandLine, UsageError } from "./words.ts";

export const defaultSocket = "/run/gimbal/control.sock";

const failedStatus = 1;
const usageStatus = 2;
const lostStatus = 125;
const pipeStatus = 128 + 13;

type Fields = ReadonlyMap<string, CborValue>;

/** Runs the command line without the program's name; resolves with the exit status once all output is with its reader. */
export async function main(words: readonly string[]): Promise<number> {
  let line: CommandLine | undefined;
  try {
    line = parseCommandLine(words);
    if (line.is === "help") {
      await writeTo(process.stdout, line.command ? commandHelp(line.command) : overallHelp());
      return 0;
    }
    const { command, fields, json, socketPath } = line;
    const connection = new Connection(
      await open(socketPath ?? process.env["GIMBAL_SOCKET"] ?? defaultSocket),
    );
    try {
      return await carryOut(connection, command, fields, json);
    } finally {
      connection.close();
    }
  } catch (error) {
    return tell(error, line).catch(() => pipeStatus); // nobody reads standard error either
  }
}

async function tell(error: unknown, line: CommandLine | undefined): Promise<number> {
  if (error instanceof OutputClosed) return pipeStatus;
  const command = line?.is === "command" ? line : undefined;
  if (command?.json && error instanceof DeviceError)
    await writeTo(
      process.stdout,
      `${JSON.stringify({ error: { code: error.code, sentence: error.message } }, null, 2)}\n`,
    );
  await writeTo(process.stderr, `control: ${escaped(reasonOf(error))}\n`);
  if (error instanceof UsageError) return usageStatus;
  // The status of `run` is the command's: what control itself meets must look like nothing a command says.
  return error instanceof ConnectionLost || command?.command.name === "run" ? lostStatus : failedStatus;
}

function open(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    const refused = (error: Error) =>
      reject(
        new ConnectionLost(
          `cannot connect to ${path}: ${error.message}; this command works in the core container`,
        ),
      );
    socket.once("error", refused);
    socket.once("connect", () => {
      socket.off("error", refused);
      resolve(socket);
    });
  });
}

async function carryOut(
  connection: Connection,
  command: Command,
  fields: Fields,
  json: boolean,
): Promise<number> {
  if (command.name === "run") {
    try {
      return await run(connection, fields, json);
    } finally {
      process.stdin.destroy(); // or an open pipe would keep this process
    }
  }
  if (command.name === "logs") return logs(connection, fields, json);
  if (command.name === "attest") return attest(connection, command, fields, json);
  const result = inOrder(command.result, await connection.request(command.name, fields));
  const text = json ? `${toJson(result)}\n` : render(command.result, result, widthOf(process.stdout));
  await writeTo(process.stdout, text);
  return 0;
}

const widthOf = (stream: NodeJS.WriteStream): number | undefined =>
  stream.isTTY && stream.columns > 0 ? stream.columns : undefined;

async function run(connection: Connection, fields: Fields, json: boolean): Promise<number> {
  const words = fields.get("argv") as readonly string[];
  const nopty = words[0] === "nopty";
  const argv = words.slice(nopty || words[0] === "--" ? 1 : 0);
  if (argv.length === 0) throw new UsageError("there is no command to run; see control run --help");
  const terminal = !nopty && !json && isatty(0) && isatty(1);
  const collected = { stdout: [] as Uint8Array[], stderr: [] as Uint8Array[] };
  using attached = terminal
    ? attachTerminal(process.stdin as ReadStream, process.stdout as WriteStream)
    : undefined;
  const { status, sentence } = await connection.run({
    ...(Object.fromEntries([...fields].filter(([key]) => key !== "argv")) as { container: string }),
    argv,
    ...(attached ? { pty: { ...attached.size(), term: process.env["TERM"] ?? "linux" } } : {}),
    onStdout: (octets) => (json ? void collected.stdout.push(octets) : writeTo(process.stdout, octets)),
    onStderr: (octets) => (json ? void collected.stderr.push(octets) : writeTo(process.stderr, octets)),
    onStarted: (input) => (attached ? attached.start(input) : pipeInput(process.stdin, input)),
  });
  if (json) {
    const [stdout, stderr] = [collected.stdout, collected.stderr].map((all) => Buffer.concat(all).toString());
    await writeTo(process.stdout, `${JSON.stringify({ status, stdout, stderr }, null, 2)}\n`);
  }
  if (sentence !== undefined)
    await writeTo(process.stderr, `control: ${escaped(sentence)}${attached ? "\r" : ""}\n`);
  return status;
}

async function logs(connection: Connection, fields: Fields, json: boolean): Promise<number> {
  const follow = fields.get("follow") === true;
  const safe = process.stdout.isTTY ? new SafeText() : undefined;
  const decoder = new TextDecoder();
  const collected: Uint8Array[] = [];
  const piece = (value: { stdout: string } | { lost_bytes: number }) =>
    writeTo(process.stdout, `${JSON.stringify(value)}\n`);
  const result = await connection.stream("logs", fields, {
    onStdout: (octets) => {
      if (json && follow) return piece({ stdout: decoder.decode(octets, { stream: true }) });
      if (json) return void collected.push(octets);
      return writeTo(process.stdout, safe ? safe.take(octets) : octets);
    },
    onLost: (bytes) => {
      if (json) void piece({ lost_bytes: bytes });
      else void writeTo(process.stderr, `control: ${bytes} octets came too fast and are not shown\n`);
    },
  });
  if (safe) await writeTo(process.stdout, safe.end());
  const dropped = result instanceof Map ? Number(result.get("dropped_lines")) : 0;
  if (json && !follow) {
    const all = { stdout: Buffer.concat(collected).toString(), dropped_lines: dropped };
    await writeTo(process.stdout, `${JSON.stringify(all, null, 2)}\n`);
  } else if (dropped > 0)
    await writeTo(process.stderr, `control: ${dropped} older lines are no longer kept\n`);
  return 0;
}

async function attest(
  connection: Connection,
  command: Command,
  given: Fields,
  json: boolean,
): Promise<number> {
  const fields = new Map(given);
  if (!fields.has("nonce")) {
    fields.set("nonce", new Uint8Array(randomBytes(32)));
    await writeTo(
      process.stderr,
      "control: the nonce is a random one: it proves nothing to a verifier elsewhere\n",
    );
  }
  const toTerminal = process.stdout.isTTY === true;
  const collected: Uint8Array[] = [];
  const answer = await connection.stream("attest", fields, {
    onStdout: (octets) => {
      if (json) return void collected.push(octets);
      return toTerminal ? undefined : writeTo(process.stdout, octets);
    },
  });
  const result = inOrder(command.result, answer);
  if (json && result instanceof Map) {
    const all = new Map(result).set("evidence", Buffer.concat(collected).toString("base64"));
    await writeTo(process.stdout, `${toJson(all)}\n`);
  } else if (toTerminal) {
    await writeTo(process.stdout, render(command.result, result, widthOf(process.stdout)));
    await writeTo(
      process.stderr,
      "control: the evidence itself goes into a file or pipe: control attest > evidence.cbor\n",
    );
  }
  return 0;
}
