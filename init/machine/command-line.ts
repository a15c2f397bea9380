/**
 * The kernel's command line. The firmware's stub appends an SMBIOS string to a signed one, and the kernel hands every
 * unknown `k=v` to PID 1 as environment: so what is not in the signed copy is named, and has no effect here.
 */
import { readFileSync } from "node:fs";

export type CommandLineDifference = {
  /** Words that the signed command line does not have. Text from outside: through quoted() before it is shown. */
  readonly extra: readonly string[];
  readonly missing: readonly string[];
  /** Anything at all differs, if only the order. */
  readonly changed: boolean;
};

/** As the kernel got it. */
export const readCommandLine = (path = "/proc/cmdline"): string => readFileSync(path, "utf8").trimEnd();

/** Splits as the kernel does: at white space, but for what stands in double quotes. */
export function splitCommandLine(text: string): readonly string[] {
  return text.match(/(?:"[^"]*"?|[^\s"])+/g) ?? [];
}

/** Compares the kernel's command line with the signed copy, word by word. */
export function compareCommandLine(actual: string, signed: string): CommandLineDifference {
  const actualWords = splitCommandLine(actual);
  const signedWords = splitCommandLine(signed);
  return {
    extra: without(actualWords, signedWords),
    missing: without(signedWords, actualWords),
    changed: actualWords.join(" ") !== signedWords.join(" "),
  };
}

/** Words of `some` that are left when each word of `others` has taken away one like it. */
function without(some: readonly string[], others: readonly string[]): readonly string[] {
  const left = new Map<string, number>();
  for (const word of others) left.set(word, (left.get(word) ?? 0) + 1);
  return some.filter((word) => {
    const count = left.get(word) ?? 0;
    if (count > 0) left.set(word, count - 1);
    return count === 0;
  });
}

/** What PID 1 itself needs of an environment; nothing of it comes from outside. */
const ownEnvironment: Readonly<Record<string, string>> = {
  PATH: "/usr/sbin:/usr/bin",
  HOME: "/",
  LC_ALL: "C",
};

/**
 * Replaces the environment that the kernel handed over: helpers and containers must not inherit a word of the command
 * line. Returns the names that went, for the log. (Node itself does not read it: the executable is built so.)
 */
export function replaceEnvironment(environment: NodeJS.ProcessEnv = process.env): readonly string[] {
  const gone = Object.keys(environment).filter((name) => ownEnvironment[name] === undefined);
  for (const name of Object.keys(environment)) delete environment[name];
  Object.assign(environment, ownEnvironment);
  return gone.filter((name) => name !== "TERM");
}
