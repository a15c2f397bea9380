/** Runs the command as a user does, in this process. */
import { runGimbal } from "../../../tool/command-line.ts";

export type Run = { readonly status: number; readonly stdout: string; readonly stderr: string };

process.env["SOURCE_DATE_EPOCH"] = "1767225600";

export async function gimbal(...args: readonly string[]): Promise<Run> {
  let [stdout, stderr] = ["", ""];
  const status = await runGimbal(args, {
    out: (text) => {
      stdout += text;
    },
    err: (text) => {
      stderr += text;
    },
  });
  return { status, stdout, stderr };
}
