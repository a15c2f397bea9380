/** Runs programs of the build host: no shell, and a failure that names the program and the end of what it wrote. */
import { spawn } from "node:child_process";
import { GimbalError } from "../init/errors.ts";

export type CommandOptions = {
  readonly cwd?: string;
  readonly input?: Uint8Array | string;
  readonly env?: Readonly<Record<string, string>>;
  /** Progress that the program writes on standard error is shown. */
  readonly showErrors?: boolean;
  /** What to do about a failure, for the sentence. */
  readonly todo?: string;
};

/** Standard output of `program`. @throws GimbalError "build-failed" when it is missing or ends with another status than 0 */
export async function command(
  program: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<Buffer> {
  const child = spawn(program, args, {
    stdio: ["pipe", "pipe", "pipe"],
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    // Some tools (sfdisk) lie where a user's PATH on Debian does not look.
    env: {
      ...process.env,
      PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin`,
      LC_ALL: "C",
      ...options.env,
    },
  });
  const output: Buffer[] = [];
  const errors: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => output.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => {
    errors.push(chunk);
    if (options.showErrors === true) process.stderr.write(chunk);
  });
  child.stdin.on("error", () => {}); // EPIPE: the program ended early, its status says why
  child.stdin.end(options.input);
  const failure = await new Promise<string | undefined>((resolve) => {
    child.once("error", (error) => resolve(error.message));
    child.once("close", (status, signal) =>
      resolve(status === 0 ? undefined : `it ended with ${status ?? signal}: ${tail(errors, output)}`),
    );
  });
  if (failure !== undefined) {
    throw new GimbalError("build-failed", {
      tried: "run",
      on: [program, ...args].join(" ").slice(0, 300),
      why: failure,
      ...(options.todo === undefined ? {} : { todo: options.todo }),
    });
  }
  return Buffer.concat(output);
}

function tail(errors: readonly Buffer[], output: readonly Buffer[]): string {
  const text = Buffer.concat(errors).toString().trim() || Buffer.concat(output).toString().trim();
  return text.split("\n").slice(-12).join("\n");
}
