/** How commands of `gimbal` show results and failures: for people, or with --json for programs. */
import { GimbalError, reasonOf } from "../init/errors.ts";

export const failedStatus = 1;
export const usageStatus = 2;

/** Where a command's words go; a test brings its own. */
export type Output = {
  out(text: string): void;
  err(text: string): void;
};

export type Shown = { readonly json?: boolean | undefined };

/** `text` for people; with --json `value`, and nothing else, on standard output. */
export function show(output: Output, { json }: Shown, value: unknown, text: string): void {
  output.out(json === true ? `${JSON.stringify(value, undefined, 2)}\n` : `${text}\n`);
}

export function warn(output: Output, sentences: readonly string[]): void {
  for (const sentence of sentences) output.err(`gimbal: warning: ${sentence}\n`);
}

/** A refusal as a sentence, and with --json as code and sentence. A fault of gimbal itself is thrown on. */
export function showRefusal(output: Output, json: boolean, error: unknown): number {
  if (!(error instanceof GimbalError)) throw error;
  const sentence = reasonOf(error);
  if (json) output.out(`${JSON.stringify({ error: { code: error.code, sentence } }, undefined, 2)}\n`);
  output.err(`gimbal: ${sentence}\n`);
  return failedStatus;
}

/** Lines of two columns, the first as wide as its longest entry. */
export function table(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(0, ...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`.trimEnd()).join("\n");
}
