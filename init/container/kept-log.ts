/**
 * The console log over boots: /data/containers/<uuid>/console.log, written when a guest has ended and read when it is
 * looked at or the guest starts again. It lies on the encrypted disk and is no larger than the log in memory.
 */
import { existsSync, readFileSync, statSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { writeFileAtomic } from "../state/file.ts";
import type { ConsoleLog } from "./logs.ts";

export const keptLogPath = (dataPath: string, uuid: string): string => join(dataPath, uuid, "console.log");

/** What was kept, or nothing; at most `maxBytes`, the newest. */
export function readKeptLog(path: string, maxBytes: number): Uint8Array {
  // Larger than that is none of ours: a config with a larger log_size wrote it, or it was put there.
  if (!existsSync(path) || statSync(path).size > 64 * 2 ** 20) return new Uint8Array();
  return readFileSync(path).subarray(-maxBytes);
}

export async function writeKeptLog(path: string, log: ConsoleLog): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  await writeFileAtomic(path, log.bytes());
}
