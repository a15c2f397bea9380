/** A software TPM of its own for a test, started empty and ended with it. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { getCapability } from "../../../init/tpm/commands.ts";
import { execute } from "../../../init/tpm/execute.ts";
import { connectSwtpm, type OpenTransport, type Transport } from "../../../init/tpm/transport.ts";

export type SoftwareTpm = AsyncDisposable & {
  /** A scratch folder that goes with the TPM. */
  readonly folder: string;
  readonly socketPath: string;
  connect(): Promise<OpenTransport>;
  /** Runs a tool of tpm2-tools against it; no connection of ours may be open meanwhile. */
  tool(name: string, ...args: readonly string[]): Promise<string>;
  /** What a power cycle does: PCRs zero, sessions and transient objects gone, NV memory kept. */
  restart(): Promise<void>;
};

export const haveSwtpm = ["/usr/bin/swtpm"].some((path) => existsSync(path));
export const haveTools = existsSync("/usr/bin/tpm2_readpublic");

/** Starts swtpm, by default with the SHA-256 bank alone as the boards have it. */
export async function startSwtpm({ banks = "sha256" } = {}): Promise<SoftwareTpm> {
  const folder = await mkdtemp(join(tmpdir(), "gimbal-swtpm-"));
  const socketPath = join(folder, "data.sock");
  const run = promisify(execFile);
  const state = join(folder, "state");
  await run("mkdir", [state]);
  await run("swtpm_setup", [
    "--tpm2",
    "--tpmstate",
    state,
    "--pcr-banks",
    banks,
    "--overwrite",
    "--config",
    "/dev/null",
  ]).catch(async () => {
    // swtpm_setup may miss its own configuration; a bare swtpm then has all its banks
  });
  let child = launch();
  await ready(socketPath);

  function launch(): ChildProcess {
    return spawn(
      "swtpm",
      [
        "socket",
        "--tpm2",
        "--tpmstate",
        `dir=${state}`,
        "--server",
        `type=unixio,path=${socketPath}`,
        "--ctrl",
        `type=unixio,path=${join(folder, "ctrl.sock")}`,
        "--flags",
        "not-need-init,startup-clear",
      ],
      { stdio: "ignore" },
    );
  }
  async function stop(): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGTERM");
    await ended;
  }
  return {
    folder,
    socketPath,
    connect: () => connectSwtpm(socketPath),
    async tool(name, ...args) {
      const relay = `cmd:${process.execPath} ${join(import.meta.dirname, "relay.ts")} ${socketPath}`;
      const { PATH } = process.env;
      const { stdout } = await run(`tpm2_${name}`, args, {
        cwd: folder,
        env: { PATH, TPM2TOOLS_TCTI: relay, TSS2_LOG: "all+none" },
        timeout: 60_000,
      });
      return stdout;
    },
    async restart() {
      await stop();
      await rm(socketPath, { force: true });
      child = launch();
      await ready(socketPath);
    },
    async [Symbol.asyncDispose]() {
      await stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function ready(socketPath: string): Promise<void> {
  for (let attempt = 0; attempt < 200; attempt++) {
    const tpm = existsSync(socketPath) ? await connectSwtpm(socketPath).catch(() => undefined) : undefined;
    if (tpm) return tpm[Symbol.asyncDispose]();
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error("swtpm did not start");
}

/** Transient objects, loaded and saved sessions: what must be gone after anything. */
export async function leftHandles(tpm: Transport): Promise<readonly number[]> {
  const left: number[] = [];
  for (const range of [0x80000000, 0x02000000, 0x03000000]) {
    const { response } = await execute(
      tpm,
      getCapability,
      {},
      { capability: 1, property: range, count: 254 },
    );
    if (response.data.is === "handles") left.push(...response.data.list);
  }
  return left;
}

/** A transport that counts commands and lets `meddle` change one's response, or throw in its place. */
export function meddled(
  tpm: Transport,
  meddle: (index: number, command: Uint8Array, pass: () => Promise<Uint8Array>) => Promise<Uint8Array>,
): Transport & { readonly count: number } {
  let count = 0;
  return {
    get count() {
      return count;
    },
    execute(command) {
      return meddle(count++, command, () => tpm.execute(command));
    },
  };
}
