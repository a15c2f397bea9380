/** The words of a command line, by the table of commands: which command, which request, or what is wrong with them. */
import { readFileSync } from "node:fs";
import { type CborValue, encodeCbor } from "../bytes/cbor.ts";
import { quoted, reasonOf } from "../errors.ts";
import type { Command, Flag, Kind } from "./command.ts";
import { commands, findCommand } from "./commands.ts";
import { usageOf } from "./help.ts";

export class UsageError extends Error {
  override readonly name = "UsageError";
}

export type CommandLine =
  | { readonly is: "help"; readonly command: Command | undefined }
  | {
      readonly is: "command";
      readonly command: Command;
      /** As the request takes them. */
      readonly fields: ReadonlyMap<string, CborValue>;
      readonly json: boolean;
      readonly socketPath: string | undefined;
    };

type ReadFile = (path: string) => string;

/** Parses the words behind the program's name. Throws UsageError. */
export function parseCommandLine(words: readonly string[], readFile: ReadFile = readText): CommandLine {
  let json = false;
  let socketPath: string | undefined;
  for (let at = 0; at < words.length; at++) {
    const word = words[at] ?? "";
    const [option, inline] = splitOption(word);
    if (word === "--json") json = true;
    else if (word === "--help" || word === "-h") return { is: "help", command: undefined };
    else if (option === "--socket" || option === "-s") {
      socketPath = inline ?? words[++at];
      if (socketPath === undefined) throw new UsageError(`${option} needs a path`);
    } else if (word.startsWith("-"))
      throw new UsageError(`there is no option ${quoted(word)} before the command; see control --help`);
    else return parseCommand(word, words.slice(at + 1), { json, socketPath, readFile });
  }
  throw new UsageError("a command is missing; see control --help");
}

type Before = {
  readonly json: boolean;
  readonly socketPath: string | undefined;
  readonly readFile: ReadFile;
};

function parseCommand(name: string, words: readonly string[], before: Before): CommandLine {
  if (name === "help") {
    const topic = words[0];
    return { is: "help", command: topic === undefined ? undefined : commandNamed(topic) };
  }
  const command = commandNamed(name);
  const given = new Map<string, CborValue>();
  const usage = `usage: ${usageOf(command)}`;
  let { json } = before;
  let position = 0;
  let flagsMayCome = true;
  for (let at = 0; at < words.length; at++) {
    const word = words[at] ?? "";
    const argument = command.args[position];
    if (flagsMayCome && word === "--") {
      flagsMayCome = false;
      continue;
    }
    if (argument?.rest) {
      given.set(argument.key, words.slice(at));
      position++;
      break;
    }
    if (flagsMayCome && word.startsWith("-") && word !== "-") {
      if (word === "--help" || word === "-h") return { is: "help", command };
      if (word === "--json") {
        json = true;
        continue;
      }
      const [flagName, inline] = splitOption(word);
      const flag = command.flags.find((candidate) => candidate.name === flagName);
      if (!flag || (inline !== undefined && flag.value === undefined))
        throw new UsageError(`${command.name} has no option ${quoted(word)}; ${usage}`);
      if (flag.value === undefined) given.set(flag.key, true);
      else {
        const value = inline ?? words[++at];
        if (value === undefined) throw new UsageError(`${flag.name} needs a value; ${usage}`);
        setFlag(given, flag, meant(flag.kind, flag.name, value, before.readFile));
      }
      continue;
    }
    if (!argument) throw new UsageError(`${quoted(word)} is one word too many; ${usage}`);
    given.set(argument.key, meant(argument.kind, argument.shown, word, before.readFile));
    position++;
  }
  const missing = command.args[position];
  if (missing && !missing.optional) throw new UsageError(`${missing.shown} is missing; ${usage}`);
  const fields = command.fields ? command.fields(given) : given;
  return { is: "command", command, fields, json, socketPath: before.socketPath };
}

function setFlag(given: Map<string, CborValue>, flag: Flag, value: CborValue): void {
  const before = given.get(flag.key);
  given.set(flag.key, flag.many ? [...(Array.isArray(before) ? before : []), value] : value);
}

function splitOption(word: string): readonly [string, string | undefined] {
  const at = word.startsWith("--") ? word.indexOf("=") : -1;
  return at < 0 ? [word, undefined] : [word.slice(0, at), word.slice(at + 1)];
}

function meant(kind: Kind = "text", name: string, word: string, readFile: ReadFile): CborValue {
  switch (kind) {
    case "text":
      return word;
    case "number":
      if (!/^\d{1,15}$/.test(word)) throw new UsageError(`${name} needs a whole number, not ${quoted(word)}`);
      return Number(word);
    case "octets":
      if (!/^([0-9a-fA-F]{2})+$/.test(word))
        throw new UsageError(`${name} needs octets in hex, not ${quoted(word)}`);
      return new Uint8Array(Buffer.from(word, "hex"));
    case "text-file":
      return readFile(word);
    case "json-file":
      return jsonOf(word, readFile(word));
    case "name-or-json-file":
      return word === "-" || word.endsWith(".json") ? jsonOf(word, readFile(word)) : word;
    default:
      return kind satisfies never;
  }
}

const fileMaxBytes = 512 * 1024;

function readText(path: string): string {
  try {
    const octets = readFileSync(path === "-" ? 0 : path);
    if (octets.length > fileMaxBytes) throw new Error(`it has more than ${fileMaxBytes} octets`);
    return octets.toString();
  } catch (error) {
    throw new UsageError(`cannot read ${quoted(path)}: ${reasonOf(error)}`);
  }
}

function jsonOf(path: string, text: string): CborValue {
  try {
    const value = fromJson(JSON.parse(text));
    if (!(value instanceof Map)) throw new Error("it is no object");
    encodeCbor(value); // throws where something has no place in a request: a fraction
    return value;
  } catch (error) {
    throw new UsageError(`cannot take ${quoted(path)} as JSON: ${reasonOf(error)}`);
  }
}

function fromJson(value: unknown): CborValue {
  if (Array.isArray(value)) return value.map(fromJson);
  if (typeof value === "object" && value !== null)
    return new Map(Object.entries(value).map(([key, entry]) => [key, fromJson(entry)]));
  return value as CborValue;
}

function commandNamed(name: string): Command {
  const command = findCommand(name);
  if (command) return command;
  const near = nearest(name);
  throw new UsageError(
    `there is no command ${quoted(name)}${near === undefined ? "" : `, did you mean ${near}?`}; see control --help`,
  );
}

/** The command that differs by two letters at most. */
function nearest(name: string): string | undefined {
  if (name.length > 40) return undefined;
  const [best] = commands
    .map((command) => ({ name: command.name, far: distance(name.toLowerCase(), command.name) }))
    .sort((a, b) => a.far - b.far);
  return best && best.far <= Math.min(2, name.length - 1) ? best.name : undefined;
}

/** Letters to insert, delete or replace (Levenshtein). */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, replaced));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
