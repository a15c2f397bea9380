/** Help texts of the client and docs/control.md, both from the table of commands. */
import type { Command, Field } from "./command.ts";
import { commands } from "./commands.ts";

export const exitStatuses: readonly (readonly [status: string, meaning: string])[] = [
  ["0", "done"],
  ["1", "the device refused or failed; the sentence on standard error says why"],
  ["2", "the command line is wrong"],
  ["125", "no connection to the device; run: control itself failed or was refused"],
  ["141", "who read the output has gone"],
  ["n", "run: the status of the command; 126 not executable, 127 not found, 128+n ended by signal n"],
];

const jsonFlag = ["--json", "print the result as JSON and nothing else"] as const;

export function usageOf(command: Command): string {
  const flags = command.flags.map(
    (flag) => `[${flag.name}${flag.value ? ` ${flag.value}` : ""}]${flag.many ? "..." : ""}`,
  );
  return [
    "control",
    command.name,
    ...flags,
    ...command.args.map(({ shown, optional }) => (optional ? `[${shown}]` : shown)),
  ].join(" ");
}

export function overallHelp(): string {
  return [
    "usage: control [--socket PATH] [--json] <command> [arguments]",
    "",
    "Manages this device: its containers, its GuestOSes and itself.",
    "",
    ...aligned(commands.map((command) => [command.name, command.summary])),
    "",
    ...aligned([
      jsonFlag,
      ["--help", "this text, or that of a command: control start --help"],
      ["--socket PATH", "the device's socket; default: GIMBAL_SOCKET, or /run/gimbal/control.sock"],
    ]),
    "",
    "exit status:",
    ...aligned(exitStatuses),
    "",
  ].join("\n");
}

export function commandHelp(command: Command): string {
  return [
    `usage: ${usageOf(command)}`,
    "",
    sentence(command.summary),
    ...(command.help ? wrapped(command.help) : []),
    "",
    ...aligned([...wordsOf(command), jsonFlag]),
    "",
    "examples:",
    ...command.examples.map((example) => `  ${example}`),
    "",
  ].join("\n");
}

function wordsOf(command: Command): readonly (readonly [string, string])[] {
  return [
    ...command.args.map((argument) => [argument.shown, argument.help] as const),
    ...command.flags.map((flag) => [`${flag.name}${flag.value ? ` ${flag.value}` : ""}`, flag.help] as const),
  ];
}

function aligned(rows: readonly (readonly [string, string])[]): readonly string[] {
  const longest = Math.max(...rows.map(([left]) => left.length));
  const behind = " ".repeat(longest + 4);
  return rows.flatMap(([left, right]) => {
    const [first = "", ...others] = wrapped(right, columns - longest - 4);
    return [`  ${left.padEnd(longest)}  ${first}`, ...others.map((line) => behind + line)];
  });
}

const sentence = (text: string): string => `${text[0]?.toUpperCase()}${text.slice(1)}.`;

const columns = 80;

function wrapped(text: string, width = columns): readonly string[] {
  const lines: string[] = [];
  for (const word of text.split(" ")) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width)
      lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
}

const levelNames = {
  P: "c0",
  V: "c0 of a provisioned device",
  U: "a container that may install GuestOSes",
} as const;

/** docs/control.md. */
export function referenceText(): string {
  return [
    "# control",
    "",
    "The command that manages a device, from the core container c0. This page is written by `make reference` from the table of",
    "commands, as is `control --help`. Each command takes `--json` (the result as JSON and nothing else on standard output) and",
    "`--help`. Errors are a sentence on standard error; their codes are listed in [errors.md](errors.md). With `--json` an error",
    'of the device is on standard output as well: `{"error": {"code", "sentence"}}`.',
    "",
    "| exit status | meaning |",
    "|---|---|",
    ...exitStatuses.map(([status, meaning]) => `| ${status} | ${meaning} |`),
    "",
    ...commands.map(sectionOf),
    protocolText,
  ].join("\n");
}

function sectionOf(command: Command): string {
  const words = wordsOf(command);
  return [
    `## control ${command.name}`,
    "",
    `${sentence(command.summary)}${command.help ? ` ${command.help}` : ""}`,
    "",
    `    ${usageOf(command)}`,
    "",
    ...(words.length > 0 ? ["| word | meaning |", "|---|---|", ...words.map(rowOf), ""] : []),
    `Allowed to: ${command.levels.map((level) => levelNames[level]).join(", ")}.`,
    "",
    ...command.examples.map((example) => `    ${example}`),
    "",
    ...resultRows(command),
  ].join("\n");
}

function resultRows(command: Command): readonly string[] {
  const { result } = command;
  if (result.is === "nothing") return [];
  const fields: readonly Field[] = result.fields;
  if (fields.length === 0) return [];
  const rows = fields.map(({ key, help }) => rowOf([key, help]));
  return [
    result.is === "rows" ? "| key of each entry in JSON | meaning |" : "| key in JSON | meaning |",
    "|---|---|",
    ...rows,
    "",
  ];
}

const rowOf = ([left, right]: readonly [string, string]): string =>
  `| \`${left.replaceAll("|", "\\|")}\` | ${right.replaceAll("|", "\\|")} |`;

const protocolText = `## The protocol

Frames over a unix stream socket: a length of four octets, big-endian, 1 to 1,048,576; then so many octets of CBOR in its
deterministic form (RFC 8949, 4.2.1: shortest numbers, sorted keys, nothing indefinite, no floats, no tags), one map.

| message | meaning |
|---|---|
| \`{id, command, ...}\` | a request; \`id\` is a number from 1 that no open request of this connection has |
| \`{id, ok: true, result}\` | its final answer; there is exactly one |
| \`{id, ok: false, error: {code, sentence}}\` | or its refusal; with id 0 it means the connection, which is then closed |
| \`{id, event: "started", data: null}\` | run, logs, attest: the stream is open, input may come |
| \`{id, event: "stdout", data: octets}\` | output, in order; \`stderr\` likewise |
| \`{id, event: "lost", data: n}\` | logs: n octets were not sent, as they came faster than they were taken |
| \`{id, event: "taken", data: n}\` | run: the command has taken n octets of input |
| \`{id, taken: n}\` | from the client: it has used n octets of output |
| \`{id, input: octets}\`, \`{id, eof: true}\` | run: standard input, and its end |
| \`{id, resize: {rows, columns}}\`, \`{id, signal: n}\` | run: the window's size; a signal for the command |
| \`{id, cancel: true}\` | ends the stream; its final answer follows |

In each direction of a stream at most 262,144 octets may be on their way that were not yet taken. A connection has at most 16 open
requests, the device at most 64 connections. When the client goes, the commands that it runs are ended.
`;
