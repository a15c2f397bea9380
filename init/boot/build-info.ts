/**
 * What the signed image says about itself: /etc/gimbal/build.json, written by board/ at build time and covered by the
 * signature of the kernel image. It is the only configuration that PID 1 takes before the disk is open.
 */
import { readFileSync } from "node:fs";
import { GimbalError } from "../errors.ts";

export type BuildInfo = {
  /** "qemu-x86-64" */
  readonly board: string;
  /** "x86-64": what a GuestOS must be built for. */
  readonly hardware: string;
  /** Where the key of the data partition lives. */
  readonly storageKey: "tpm" | "recovery-only" | "none";
  /** Counts releases; never goes down. */
  readonly release: number;
  /** A development image logs in without a password and serves `control` on a virtio port. */
  readonly development: boolean;
  /** "0.1.0" */
  readonly version: string;
  /** The signed kernel command line, to compare with what the kernel got. */
  readonly cmdline: string;
  /** Seconds since 1970: no clock may be earlier. */
  readonly buildTime: number;
};

/** Reads and checks `path`. Throws GimbalError "image-incomplete": without it the image is not one of ours. */
export function readBuildInfo(path = "/etc/gimbal/build.json"): BuildInfo {
  const refuse = (why: string, cause?: unknown) =>
    new GimbalError(
      "image-incomplete",
      { tried: "read", on: path, why, todo: "build the image again with board/build.ts" },
      cause,
    );
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw refuse("it is missing or no JSON", error);
  }
  if (typeof value !== "object" || value === null) throw refuse("it is no object");
  const { board, hardware, storageKey, release, development, version, cmdline, buildTime } = value as Record<
    keyof BuildInfo,
    unknown
  >;
  if (typeof board !== "string" || typeof hardware !== "string") throw refuse("board or hardware is no text");
  if (typeof version !== "string" || typeof cmdline !== "string")
    throw refuse("version or cmdline is no text");
  if (storageKey !== "tpm" && storageKey !== "recovery-only" && storageKey !== "none")
    throw refuse("storageKey is none of tpm, recovery-only, none");
  if (typeof development !== "boolean") throw refuse("development is neither true nor false");
  if (!isCount(release) || !isCount(buildTime)) throw refuse("release or buildTime is no whole number");
  return { board, hardware, storageKey, release, development, version, cmdline, buildTime };
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
