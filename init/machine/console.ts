/**
 * The boot screen: one line per stage with its time. A warning stands out and says what to do. Colours only on a terminal;
 * text from outside is escaped. The kernel's own words go to its ring (setConsoleLogLevel), so this screen stays whole.
 */
import { closeSync, constants, openSync, writeSync } from "node:fs";
import { isatty } from "node:tty";
import { GimbalError, reasonOf } from "../errors.ts";
import { escapeLine } from "./kmsg.ts";

export type ScreenParts = {
  readonly write: (text: string) => void;
  /** Colours and overwriting of the line in progress. */
  readonly tty: boolean;
  /** Milliseconds since the machine started, as far as it is known. */
  readonly now: () => number;
};

/** Exactly one of these ends a stage; a second call is ignored. */
export type Stage = {
  done(text?: string): void;
  warn(text: string, todo?: string): void;
  fail(error: unknown): void;
};

export type BootScreen = {
  /** Begins a stage, e.g. "disk". */
  stage(name: string): Stage;
  say(text: string): void;
  warn(text: string, todo?: string): void;
  fail(error: unknown): void;
  /** Lines in a frame, for what must not be overlooked. */
  banner(lines: readonly string[]): void;
};

const nameColumns = 14;
const paint = { dim: "2", green: "32", yellow: "1;33", red: "1;31" } as const;

export function openBootScreen({ write, tty, now }: ScreenParts): BootScreen {
  const painted = (colour: keyof typeof paint, text: string) =>
    tty ? `\x1b[${paint[colour]}m${text}\x1b[0m` : text;
  const clock = () => painted("dim", `${seconds(now()).padStart(7)} `);
  const line = (mark: string, name: string, text: string, tookMs?: number) => {
    const took = tookMs === undefined ? "" : painted("dim", ` (${seconds(tookMs)} s)`);
    const label = name === "" ? "" : `${escapeLine(name).padEnd(nameColumns)} `;
    write(`${tty ? "\r\x1b[K" : ""}${clock()} ${mark} ${label}${escapeLine(text)}${took}\n`);
  };
  const marks = {
    ok: painted("green", " ok "),
    say: "    ",
    warn: painted("yellow", "WARN"),
    fail: painted("red", "FAIL"),
  };
  const todoLine = (todo: string | undefined) => {
    if (todo !== undefined) write(`${" ".repeat(14)}${painted("yellow", `-> ${escapeLine(todo)}`)}\n`);
  };
  const warn = (name: string, text: string, todo?: string, tookMs?: number) => {
    line(marks.warn, name, text, tookMs);
    todoLine(todo);
  };
  const fail = (name: string, error: unknown, tookMs?: number) => {
    const { text, todo } = sentenceOf(error);
    line(marks.fail, name, text, tookMs);
    todoLine(todo);
  };
  return {
    stage(name) {
      const started = now();
      if (tty) write(`\r\x1b[K${clock()}      ${escapeLine(name).padEnd(nameColumns)} ...`);
      let ended = false;
      const end = (show: (tookMs: number) => void) => {
        if (ended) return;
        ended = true;
        show(now() - started);
      };
      return {
        done: (text = "") => end((tookMs) => line(marks.ok, name, text, tookMs)),
        warn: (text, todo) => end((tookMs) => warn(name, text, todo, tookMs)),
        fail: (error) => end((tookMs) => fail(name, error, tookMs)),
      };
    },
    say: (text) => line(marks.say, "", text),
    warn: (text, todo) => warn("", text, todo),
    fail: (error) => fail("", error),
    banner(lines) {
      const shown = lines.map(escapeLine);
      const width = Math.max(...shown.map((text) => text.length));
      const edge = `+${"-".repeat(width + 4)}+`;
      const rows = shown.map((text) => `|  ${text.padEnd(width)}  |`);
      write(`${tty ? "\r\x1b[K" : ""}\n${[edge, ...rows, edge].map((row) => `  ${row}`).join("\n")}\n\n`);
    },
  };
}

/** The device's console as parts of a screen; a console that is not there is written to no more. */
export function consoleParts(path = "/dev/console"): ScreenParts & Disposable {
  let fd = openQuietly(path);
  return {
    tty: fd >= 0 && isatty(fd),
    now: () => Number(process.hrtime.bigint() / 1_000_000n), // CLOCK_MONOTONIC: the kernel's own zero
    write(text) {
      if (fd < 0) return;
      try {
        for (let rest: Uint8Array = Buffer.from(text); rest.length > 0; )
          rest = rest.subarray(writeSync(fd, rest));
      } catch {
        // EIO: the line hung up. A boot does not end for want of a screen
      }
    },
    [Symbol.dispose]() {
      if (fd >= 0) closeSync(fd);
      fd = -1;
    },
  };
}

function openQuietly(path: string): number {
  try {
    return openSync(path, constants.O_WRONLY | constants.O_NOCTTY);
  } catch {
    return -1; // a machine without a console boots all the same
  }
}

/** A refusal's sentence without and with what to do, on two lines. */
function sentenceOf(error: unknown): { text: string; todo: string | undefined } {
  const text = reasonOf(error);
  const cut = error instanceof GimbalError ? text.lastIndexOf("; ") : -1;
  return cut < 0 ? { text, todo: undefined } : { text: text.slice(0, cut), todo: text.slice(cut + 2) };
}

const seconds = (ms: number) => (Math.max(0, ms) / 1000).toFixed(2);
