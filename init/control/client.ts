/** `control`: the command line. Parses by the table of commands, talks to the device, shows the result. */
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { ReadStream, WriteStream } from "node:tty";
import type { CborValue } from "../bytes/cbor.ts";
import { type Command, commands, findCommand } from "./commands.ts";
import { Connection, ConnectionLost, DeviceError } from "./connection.ts";
import { commandHelp, overallHelp, usageOf } from "./help.ts";
import { renderView, toJson } from "./render.ts";
import { attachTerminal, pipeInput } from "./terminal.ts";

export const defaultSocket = "/run/gimbal/control.sock";

const usageStatus = 2;
const failedStatus = 1;
const connectionStatus = 125;

class UsageError extends Error {
  override readonly name = "UsageError";
}

type Parsed = {
  readonly command: Command;
  readonly values: ReadonlyMap<string, CborValue>;
  readonly json: boolean;
};

type Options = { socket: string; json: boolean; rest: readonly string[] };

/** Runs the command line without the program's name; resolves with the exit status. */
export async function main(argv: readonly string[]): Promise<number> {
  try {
    const options = globalOptions(argv);
    const [name, ...rest] = options.rest;
    if (name === undefined || name === "--help" || name === "-h" || name === "help") {
      process.stdout.write(overallHelp());
      return name === undefined ? usageStatus : 0;
    }
    const command = findCommand(name);
    if (!command)
      throw new UsageError(`there is no command ${JSON.stringify(name)}${nearest(name)}; see control --help`);
    const beforeCommand =
      command.name === "run"
        ? rest.slice(
            0,
            rest.findIndex((word) => !word.startsWith("-")),
          )
        : rest;
    if (
      beforeCommand.includes("--help") ||
      beforeCommand.includes("-h") ||
      (command.name === "run" && rest[0] === "--help")
    ) {
      process.stdout.write(commandHelp(command));
      return 0;
    }
    return await carryOut(parseWords(command, rest, options.json), options.socket);
  } catch (error) {
    return tell(error);
  }
}

function tell(error: unknown): number {
  const sentence = error instanceof Error ? error.message : String(error);
  process.stderr.write(`control: ${sentence}\n`);
  if (error instanceof UsageError) return usageStatus;
  return error instanceof ConnectionLost ? connectionStatus : failedStatus;
}

function globalOptions(argv: readonly string[]): Options {
  let socket = process.env["GIMBAL_SOCKET"] ?? defaultSocket;
  let json = false;
  let at = 0;
  for (; at < argv.length; at++) {
    if (argv[at] === "--json") json = true;
    else if (argv[at] === "--socket") {
      const path = argv[++at];
      if (path === undefined) throw new UsageError("--socket needs a path");
      socket = path;
    } else break;
  }
  return { socket, json, rest: argv.slice(at) };
}

/** Positional arguments and flags of one command, by its entry in the table. */
function parseWords(command: Command, words: readonly string[], jsonBefore: boolean): Parsed {
  const values = new Map<string, CborValue>();
  const positional: string[] = [];
  let json = jsonBefore;
  for (let at = 0; at < words.length; at++) {
    const word = words[at] ?? "";
    const awaited = command.args[positional.length];
    if (awaited?.rest) {
      values.set(awaited.key, words.slice(at));
      positional.push(word);
      break;
    }
    const [flagName, inline] =
      word.startsWith("--") && word.includes("=") ? splitOnce(word) : [word, undefined];
    const flag = command.flags.find((candidate) => candidate.name === flagName);
    if (word === "--json") json = true;
    else if (flag && flag.value === undefined) values.set(flag.key, true);
    else if (flag) {
      const value = inline ?? words[++at];
      if (value === undefined) throw new UsageError(`${flag.name} needs a value; usage: ${usageOf(command)}`);
      values.set(flag.key, value);
    } else if (word.startsWith("-") && word !== "-") {
      throw new UsageError(`${command.name} has no option ${word}; usage: ${usageOf(command)}`);
    } else {
      const argument = command.args[positional.length];
      if (!argument)
        throw new UsageError(`${JSON.stringify(word)} is one too many; usage: ${usageOf(command)}`);
      values.set(argument.key, word);
      positional.push(word);
    }
  }
  const missing = command.args.slice(positional.length).find((argument) => !argument.optional);
  if (missing) throw new UsageError(`${missing.shown} is missing; usage: ${usageOf(command)}`);
  return { command, values: requestOf(command, values), json };
}

function splitOnce(word: string): [string, string] {
  const at = word.indexOf("=");
  return [word.slice(0, at), word.slice(at + 1)];
}

/** Turns words into what the device wants: numbers, octets, configs from files. */
function requestOf(command: Command, words: ReadonlyMap<string, CborValue>): ReadonlyMap<string, CborValue> {
  const values = new Map(words);
  switch (command.name) {
    case "create": {
      const first = String(values.get("name_or_file"));
      return new Map([
        ["config", first.endsWith(".json") || first === "-" ? configFile(first) : configOf(first, values)],
      ]);
    }
    case "update_config":
      return new Map<string, CborValue>([
        ["container", values.get("container") ?? ""],
        ["config", configFile(String(values.get("file")))],
      ]);
    case "attest": {
      const nonce = String(values.get("nonce") ?? "");
      if (!/^([0-9a-fA-F]{2})+$/.test(nonce)) throw new UsageError("--nonce needs 32 to 64 octets in hex");
      return new Map([["nonce", Uint8Array.from(Buffer.from(nonce, "hex"))]]);
    }
    case "ca_register":
      return new Map([["pem", readText(String(values.get("file")))]]);
    case "run":
      if (values.has("user")) values.set("user", wholeNumber("--user", values.get("user")));
      return values;
    default:
      return values;
  }
}

function configOf(name: string, flags: ReadonlyMap<string, CborValue>): CborValue {
  const config = new Map<string, CborValue>([
    ["name", name],
    ["guest_os", flags.get("guest_os") ?? name],
  ]);
  for (const key of ["ram_limit", "pids_limit"]) {
    if (flags.has(key)) config.set(key, wholeNumber(key, flags.get(key)));
  }
  if (flags.get("allow_autostart") === true) config.set("allow_autostart", true);
  return config;
}

function wholeNumber(name: string, value: CborValue | undefined): number {
  if (typeof value !== "string" || !/^\d{1,15}$/.test(value))
    throw new UsageError(`${name} needs a whole number`);
  return Number(value);
}

function readText(path: string): string {
  try {
    return readFileSync(path === "-" ? 0 : path, "utf8");
  } catch (error) {
    throw new UsageError(`cannot read ${path}: ${error instanceof Error ? error.message : error}`);
  }
}

function configFile(path: string): CborValue {
  const text = readText(path);
  try {
    return fromJson(JSON.parse(text));
  } catch (error) {
    throw new UsageError(`cannot read ${path}: ${error instanceof Error ? error.message : error}`);
  }
}

function fromJson(value: unknown): CborValue {
  if (Array.isArray(value)) return value.map(fromJson);
  if (typeof value === "object" && value !== null)
    return new Map(Object.entries(value).map(([key, entry]) => [key, fromJson(entry)]));
  return value as CborValue;
}

/** ", did you mean start?" where a command differs by two letters at most. */
function nearest(name: string): string {
  const best = commands
    .map((command) => ({ name: command.name, far: distance(name, command.name) }))
    .sort((a, b) => a.far - b.far)[0];
  return best && best.far <= 2 ? `, did you mean ${best.name}?` : "";
}

function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= Math.min(a.length, 40); i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + same));
    }
    row = next;
  }
  return row[b.length] ?? 99;
}

async function carryOut({ command, values, json }: Parsed, socketPath: string): Promise<number> {
  const connection = new Connection(await open(socketPath));
  try {
    if (command.name === "run") return await run(connection, values);
    if (command.name === "logs") return await logs(connection, values);
    const result = await connection.request(command.name, values);
    if (json) process.stdout.write(`${toJson(result)}\n`);
    else process.stdout.write(renderView(command.view, result, process.stdout.columns ?? 1000));
    return 0;
  } catch (error) {
    if (json && error instanceof DeviceError) {
      process.stdout.write(
        `${JSON.stringify({ error: { code: error.code, sentence: error.message } }, null, 2)}\n`,
      );
    }
    throw error;
  } finally {
    connection.close();
  }
}

function open(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once("connect", () => {
      socket.removeAllListeners("error");
      resolve(socket);
    });
    socket.once("error", (error) => {
      reject(
        new ConnectionLost(
          `cannot connect to ${path}: ${error.message}; this command works in the core container`,
        ),
      );
    });
  });
}

async function logs(connection: Connection, values: ReadonlyMap<string, CborValue>): Promise<number> {
  const follow = values.get("follow") === true;
  const result = await connection.logs(String(values.get("container")), follow, (bytes) =>
    write(process.stdout, bytes),
  );
  const dropped = result instanceof Map ? result.get("dropped_lines") : 0;
  if (typeof dropped === "number" && dropped > 0)
    process.stderr.write(`control: ${dropped} older lines were dropped\n`);
  return 0;
}

async function run(connection: Connection, values: ReadonlyMap<string, CborValue>): Promise<number> {
  const words = (values.get("argv") as readonly string[]).filter(
    (word, index) => !(index === 0 && word === "nopty"),
  );
  const nopty = (values.get("argv") as readonly string[])[0] === "nopty";
  if (words.length === 0) throw new UsageError("there is no command to run");
  const user = values.get("user");
  const terminal = !nopty && process.stdin instanceof ReadStream && process.stdout instanceof WriteStream;
  using attached = terminal
    ? attachTerminal(process.stdin as ReadStream, process.stdout as WriteStream)
    : undefined;
  const { status, sentence } = await connection.run({
    container: String(values.get("container")),
    argv: words,
    ...(typeof user === "number" ? { user } : {}),
    ...(attached ? { terminal: attached.size(), env: [`TERM=${process.env["TERM"] ?? "linux"}`] } : {}),
    onStdout: (bytes) => write(process.stdout, bytes),
    onStderr: (bytes) => write(process.stderr, bytes),
    onStarted: (input) => (attached ? attached.start(input) : pipeInput(process.stdin, input)),
  });
  if (sentence !== undefined) process.stderr.write(`control: ${sentence}\n`);
  return status;
}

/** Resolves when the reader has room for more: what it does not take is not read from the device. */
function write(stream: NodeJS.WriteStream, bytes: Uint8Array): Promise<void> | void {
  if (stream.write(bytes)) return;
  return new Promise((resolve) => stream.once("drain", () => resolve()));
}
