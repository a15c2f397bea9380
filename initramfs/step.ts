/** One progress line per build step on standard error: `  NAME  what  1.2 s  38.1 MB`. MB = 10^6 octets. */
import { statSync } from "node:fs";

/** Runs `work` and prints its line when it succeeded; `fileOf` names the file whose size the line shows. */
export async function step<T>(
  name: string,
  what: string,
  work: () => Promise<T>,
  fileOf?: (result: T) => string,
): Promise<T> {
  const started = performance.now();
  const result = await work();
  say(name, what, performance.now() - started, fileOf ? statSync(fileOf(result)).size : undefined);
  return result;
}

/** One progress line. A step that only found its result in the cache has no duration and prints "cached". */
export function say(name: string, what: string, durationMs?: number, sizeBytes?: number): void {
  const time = durationMs === undefined ? "cached" : `${(durationMs / 1000).toFixed(1)} s`;
  const size = sizeBytes === undefined ? "" : `${megabytes(sizeBytes)} MB`.padStart(10);
  process.stderr.write(`  ${name.padEnd(5)} ${what.padEnd(48)} ${time.padStart(8)}${size}\n`);
}

export function megabytes(sizeBytes: number): string {
  return (sizeBytes / 1e6).toFixed(1);
}
