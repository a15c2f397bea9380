/** `control` as a process: bundled once, since each start of it would read forty files. */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildSync } from "esbuild";
import t from "tap";

/** For files of one test; removed at its end. */
export const folder = mkdtempSync(join(tmpdir(), "gimbal-client-"));
t.teardown(() => rmSync(folder, { recursive: true }));

/** The client as one file. */
export const entry = join(folder, "control.mjs");
buildSync({
  entryPoints: [join(import.meta.dirname, "control-entry.ts")],
  outfile: entry,
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node24",
});

export type Ran = { readonly status: number | null; readonly stdout: string; readonly stderr: string };

export function start(socketPath: string, words: readonly string[]) {
  return spawn(process.execPath, [entry, ...words], {
    env: { PATH: process.env["PATH"], GIMBAL_SOCKET: socketPath },
  });
}

/** Runs `control words...` to its end. */
export function control(
  socketPath: string,
  words: readonly string[],
  stdin: Uint8Array | string = "",
): Promise<Ran> {
  const child = start(socketPath, words);
  const [stdout, stderr]: [Buffer[], Buffer[]] = [[], []];
  child.stdout.on("data", (chunk: Buffer) => stdout.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => stderr.push(chunk));
  child.stdin.on("error", () => {}); // it may end without reading
  child.stdin.end(stdin);
  return new Promise((resolve) => {
    child.once("close", (status) =>
      resolve({
        status,
        stdout: Buffer.concat(stdout).toString(),
        stderr: Buffer.concat(stderr).toString(),
      }),
    );
  });
}
