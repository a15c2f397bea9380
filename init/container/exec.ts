/** `control run`: a command in a running container, under all of its restrictions. */
import type { WindowSize } from "../kernel.ts";

export type ExecRequest = {
  /** argv[0] without "/" is looked up in the guest's PATH. */
  readonly argv: readonly string[];
  /** "NAME=value", added to what a login would have. */
  readonly env?: readonly string[];
  /** In the guest; default "/". */
  readonly directory?: string;
  /** Ids in the guest; default 0 and 0. */
  readonly uid?: number;
  readonly gid?: number;
  /** A terminal of the guest's own devpts of this size; without one there are three pipes. */
  readonly terminal?: WindowSize;
};

export type ExecOutput = { readonly from: "stdout" | "stderr"; readonly bytes: Uint8Array };

export type ExecEnd = {
  /** Exit status, 128 + signal, 126 where it could not be executed, 127 where it does not exist (B67). */
  readonly status: number;
  /** Why there is a 126 or 127: for standard error of the client; the guest's own output stays unmixed. */
  readonly sentence?: string;
};

/** Disposing it ends the command and all that it started. */
export interface ExecSession extends AsyncDisposable {
  readonly pid: number;
  /** With a terminal all of it is "stdout". Nothing is read ahead of a slow reader. Ends after the last octet. */
  readonly output: AsyncIterable<ExecOutput>;
  /** Resolves once the octets are taken; to be awaited before the next call. False when nobody reads any more. */
  write(bytes: Uint8Array): Promise<boolean>;
  /** End of file for the command: closes the pipe, or types Ctrl-D into the terminal. */
  endInput(): void;
  /** No effect without a terminal. */
  resize(size: WindowSize): void;
  signal(signal: number): void;
  /** Settles after `output` ended. */
  readonly ended: Promise<ExecEnd>;
}
