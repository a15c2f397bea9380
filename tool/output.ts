/** How commands of `gimbal` show results and failures: for people, or with --json for programs. */
import { GimbalError, reasonOf } from "../init/errors.ts";

export const failedStatus = 1;
export const usageStatus = 2;

export type Shown = { readonly json?: boolean | undefined };

/** `text` for people; with --json `value`, and nothing else, on standard output. */
export function show({ json }: Shown, value: unknown, text: string): void {
  process.stdout.write(json === true ? `${JSON.stringify(value, undefined, 2)}\n` : `${text}\n`);
}

export function warn(sentences: readonly string[]): void {
  for (const sentence of sentences) process.stderr.write(`gimbal: warning: ${sentence}\n`);
}

/** Runs a command's work; a refusal becomes a sentence and an exit status. A fault of gimbal itself is thrown on. */
export async function carryOut(shown: Shown, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof GimbalError)) throw error;
    const { code } = error;
    if (shown.json === true) {
      const sentence = reasonOf(error);
      process.stdout.write(`${JSON.stringify({ error: { code, sentence } }, undefined, 2)}\n`);
    }
    process.stderr.write(`gimbal: ${reasonOf(error)}\n`);
    process.exitCode = failedStatus;
  }
}

/** Lines of two columns, the first as wide as its longest entry. */
export function table(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(0, ...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`.trimEnd()).join("\n");
}
