/** Help texts of the client and docs/control.md, both from the table of commands. */
import { type Command, commands } from "./commands.ts";

export const exitStatuses: readonly (readonly [status: string, meaning: string])[] = [
  ["0", "done"],
  ["1", "the device refused or failed; the sentence says why"],
  ["2", "the command line is wrong"],
  ["125", "no connection to the device"],
  ["n", "run: the status of the command; 126 not executable, 127 not found, 128+n ended by signal n"],
];

export function usageOf(command: Command): string {
  const parts = [
    ...command.flags.map((flag) => `[${flag.name}${flag.value ? ` ${flag.value}` : ""}]`),
    ...command.args.map((argument) => (argument.optional ? `[${argument.shown}]` : argument.shown)),
  ];
  return ["control", command.name, ...parts].join(" ");
}

export function overallHelp(): string {
  const longest = Math.max(...commands.map((command) => command.name.length));
  return [
    "usage: control [--socket PATH] [--json] <command> [arguments]",
    "",
    "Manages this device: its containers, GuestOSes and itself.",
    "",
    ...commands.map((command) => `  ${command.name.padEnd(longest)}  ${command.summary}`),
    "",
    "  --json    print the result as JSON and nothing else",
    "  --help    this text, or that of a command: control start --help",
    "",
    "exit status:",
    ...exitStatuses.map(([status, meaning]) => `  ${status.padEnd(4)} ${meaning}`),
    "",
  ].join("\n");
}

export function commandHelp(command: Command): string {
  const rows = [
    ...command.args.map((argument) => [argument.shown, argument.help] as const),
    ...command.flags.map((flag) => [`${flag.name}${flag.value ? ` ${flag.value}` : ""}`, flag.help] as const),
    ["--json", "print the result as JSON and nothing else"] as const,
  ];
  const longest = Math.max(...rows.map(([shown]) => shown.length));
  return [
    `usage: ${usageOf(command)}`,
    "",
    `${command.summary[0]?.toUpperCase()}${command.summary.slice(1)}.`,
    ...(command.help ? [command.help] : []),
    "",
    ...rows.map(([shown, help]) => `  ${shown.padEnd(longest)}  ${help}`),
    "",
    "examples:",
    ...command.examples.map((example) => `  ${example}`),
    "",
  ].join("\n");
}

const levelNames = {
  P: "c0",
  V: "c0 of a provisioned device",
  U: "a container that may install GuestOSes",
} as const;

/** docs/control.md. */
export function referenceText(): string {
  const sections = commands.map((command) =>
    [
      `## control ${command.name}`,
      "",
      `${command.summary[0]?.toUpperCase()}${command.summary.slice(1)}.${command.help ? ` ${command.help}` : ""}`,
      "",
      `    ${usageOf(command)}`,
      "",
      ...(command.args.length + command.flags.length > 0
        ? [
            "| | |",
            "|---|---|",
            ...command.args.map(({ shown, help }) => `| \`${shown.replaceAll("|", "\\|")}\` | ${help} |`),
            ...command.flags.map(
              ({ name, value, help }) => `| \`${name}${value ? ` ${value}` : ""}\` | ${help} |`,
            ),
            "",
          ]
        : []),
      `Allowed to: ${command.levels.map((level) => levelNames[level]).join(", ")}.`,
      "",
      ...command.examples.map((example) => `    ${example}`),
      "",
    ].join("\n"),
  );
  return [
    "# control",
    "",
    "The command that manages a device, from the core container c0. This page is written by `make reference` from the table of",
    "commands, as is `control --help`. Each command takes `--json` (the result as JSON and nothing else on standard output) and",
    "`--help`. Errors are a sentence on standard error; their codes are listed in [errors.md](errors.md).",
    "",
    "| exit status | meaning |",
    "|---|---|",
    ...exitStatuses.map(([status, meaning]) => `| ${status} | ${meaning} |`),
    "",
    ...sections,
  ].join("\n");
}
