/** The log of PID 1: lines in the kernel's own ring, /dev/kmsg, with levels. It is there before any disk is. */
import { closeSync, openSync, writeSync } from "node:fs";

export type Log = {
  error(text: string): void;
  warn(text: string): void;
  info(text: string): void;
  debug(text: string): void;
};

/** syslog(3): facility daemon, and the level. */
const daemon = 3 << 3;
const levels = { error: 3, warn: 4, info: 6, debug: 7 } as const;
type Level = keyof typeof levels;

/** A record of /dev/kmsg holds no more; the kernel refuses longer ones. */
const lineMaxBytes = 900;
/** Lines of level info and debug per `windowMs`: a guest that makes init talk must not push the kernel's words out of the ring. */
const burst = 100;
const windowMs = 1000;

export type KmsgParts = {
  readonly write: (line: string) => void;
  readonly now: () => number;
};

/** A log over `parts`. Errors and warnings always pass; beyond the rate the others are counted, and the count is told. */
export function kmsgLog({ write, now }: KmsgParts): Log {
  let windowStart = now();
  let written = 0;
  let dropped = 0;
  const put = (level: Level, text: string) => {
    for (const line of linesOf(text)) write(`<${daemon | levels[level]}>gimbal: ${line}\n`);
  };
  const limited = (level: Level, text: string) => {
    if (now() - windowStart >= windowMs) {
      if (dropped > 0) put("warn", `${dropped} lines were not logged`);
      windowStart = now();
      written = 0;
      dropped = 0;
    }
    if (written >= burst) dropped++;
    else {
      written++;
      put(level, text);
    }
  };
  return {
    error: (text) => put("error", text),
    warn: (text) => put("warn", text),
    info: (text) => limited("info", text),
    debug: (text) => limited("debug", text),
  };
}

/** The log on the device; on another machine, or when the ring refuses a line, nothing is thrown: a log never ends a boot. */
export function openKmsgLog(path = "/dev/kmsg"): Log & Disposable {
  let fd = -1;
  try {
    fd = openSync(path, "a");
  } catch {
    // no kernel ring here: the log then goes nowhere
  }
  const write = (line: string) => {
    if (fd < 0) return;
    try {
      writeSync(fd, line);
    } catch {
      // EINVAL or EAGAIN of the ring: this line is lost, and there is no other place to say so
    }
  };
  const log = kmsgLog({ write, now: () => performance.now() });
  return {
    ...log,
    [Symbol.dispose]() {
      if (fd >= 0) closeSync(fd);
      fd = -1;
    },
  };
}

/** One record per line, each within the kernel's limit; control characters are escaped. */
function linesOf(text: string): readonly string[] {
  return text
    .split("\n")
    .filter((line) => line.trim() !== "")
    .flatMap((line) => escapeLine(line).match(new RegExp(`.{1,${lineMaxBytes / 3}}`, "gu")) ?? []);
}

/** Control characters as \xNN: text from outside must not steer a terminal that shows the log. */
export const escapeLine = (line: string): string =>
  line.replace(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
    /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
    (sign) =>
      sign.charCodeAt(0) < 256
        ? `\\x${sign.charCodeAt(0).toString(16).padStart(2, "0")}`
        : `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
