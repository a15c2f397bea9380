/**
 * A device for tests of the protocol: its containers are entries of a map, and a command in one is a process of this machine.
 * On a terminal a command is a few lines of its own: it says its size, echoes what is typed, and ends at "q".
 */
import { type ChildProcess, spawn } from "node:child_process";
import { constants } from "node:os";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { CborValue } from "../../../init/bytes/cbor.ts";
import type {
  DeviceHandlers,
  LogStream,
  Row,
  RunRequest,
  RunSession,
} from "../../../init/control/handlers.ts";
import { GimbalError, quoted } from "../../../init/errors.ts";

export class FakeDevice implements DeviceHandlers {
  readonly containers = new Map<string, string>([
    ["c0", "RUNNING"],
    ["debian", "STOPPED"],
  ]);
  readonly sessions = new Set<RunSession>();
  readonly requests: RunRequest[] = [];
  readonly logged: Uint8Array[] = [];
  readonly followers = new Set<(bytes: Uint8Array) => void>();
  logBytes: Uint8Array = new TextEncoder().encode("first\nsecond\n");
  evidence = new Uint8Array(3_000_000).fill(7);
  created: CborValue = null;
  provisioned = false;
  power = "on";
  /** Called before each answer: a test can wait or throw here. */
  before: () => Promise<void> = async () => {};

  async list(): Promise<readonly Row[]> {
    await this.before();
    return [...this.containers.keys()].map((name) => this.#row(name));
  }
  async listGuestos(): Promise<readonly Row[]> {
    return [
      map({ name: "debian", version: 13, trust_level: "SIGNED", signer: "a\u001b[2Jb", description: "" }),
      map({ name: "bad", code: "guestos-chain", refused: "cannot trust bad: no CA signed it" }),
    ];
  }
  async state(container: string): Promise<Row> {
    await this.before();
    return this.#row(container);
  }
  async config(container: string): Promise<CborValue> {
    this.#row(container);
    return map({ name: container, guest_os: "debian", ram_limit: 256 });
  }
  async create(config: CborValue): Promise<Row> {
    this.created = config;
    const name = config instanceof Map ? String(config.get("name")) : "";
    this.containers.set(name, "STOPPED");
    return this.#row(name);
  }
  async updateConfig(container: string, config: CborValue): Promise<Row> {
    this.created = config;
    return this.#row(container);
  }
  async remove(container: string): Promise<void> {
    this.#row(container);
    this.containers.delete(container);
  }
  async removeGuestos(): Promise<void> {}
  start(container: string): Promise<Row> {
    return this.#to(container, "RUNNING");
  }
  async stop(container: string): Promise<Row> {
    return new Map([...(await this.#to(container, "STOPPED")), ["exit", "its init ended with status 0"]]);
  }
  kill(container: string): Promise<Row> {
    return this.#to(container, "STOPPED");
  }
  freeze(container: string): Promise<Row> {
    return this.#to(container, "FROZEN");
  }
  unfreeze(container: string): Promise<Row> {
    return this.#to(container, "RUNNING");
  }
  async run(request: RunRequest): Promise<RunSession> {
    this.#row(request.container);
    this.requests.push(request);
    const session = request.terminal ? new TerminalSession(request) : new ProcessSession(request);
    this.sessions.add(session);
    const gone = () => this.sessions.delete(session);
    session.ended.then(gone, gone);
    return session;
  }
  async logs(container: string): Promise<LogStream> {
    this.#row(container);
    return {
      bytes: this.logBytes,
      droppedLines: 3,
      follow: (onBytes) => {
        this.followers.add(onBytes);
        return { [Symbol.dispose]: () => void this.followers.delete(onBytes) };
      },
    };
  }
  async attest(nonce: Uint8Array): Promise<Row> {
    return new Map<string, CborValue>([
      ["format", "gimbal-evidence-0"],
      ["nonce", nonce],
      ["evidence", this.evidence],
    ]);
  }
  async status(): Promise<Row> {
    return map({
      version: "0.1.0",
      release: 1,
      board: "qemu-x86-64",
      development: true,
      uptime: 200,
      warnings: ["a development image", "no clock"],
    });
  }
  async deviceStats(): Promise<Row> {
    return map({ disk_total_bytes: 4_000_000_000, disk_free_bytes: 1_500_000, memory_total_bytes: 999 });
  }
  async getProvisioned(): Promise<boolean> {
    return this.provisioned;
  }
  async setProvisioned(): Promise<void> {
    this.provisioned = true;
  }
  async registerCa(): Promise<Row> {
    return map({ registered: ["owner"], trusted: 2 });
  }
  async powerOff(): Promise<void> {
    this.power = "off";
  }
  async reboot(): Promise<void> {
    this.power = "reboot";
  }

  async #to(container: string, state: string): Promise<Row> {
    await this.before();
    this.#row(container);
    this.containers.set(container, state);
    return this.#row(container);
  }

  #row(name: string): Row {
    const state = this.containers.get(name);
    if (state === undefined) {
      throw new GimbalError("container-unknown", {
        tried: "find",
        on: `the container ${quoted(name)}`,
        why: "there is none of that name or uuid",
        todo: "see control list",
      });
    }
    return map({ name, state, guest_os: "debian", uuid: "00000000-0000-0000-0000-000000000000", uptime: 75 });
  }
}

const map = (fields: { [key: string]: CborValue }): Row => new Map(Object.entries(fields));

class ProcessSession implements RunSession {
  readonly output: RunSession["output"];
  readonly ended: RunSession["ended"];
  readonly child: ChildProcess;
  #over = false;
  readonly #end: () => void;

  constructor({ argv, env, directory }: RunRequest) {
    const [program = "", ...args] = argv;
    const own = Object.fromEntries(env.map((entry) => entry.split(/=(.*)/s).slice(0, 2)));
    const child = spawn(program, args, { env: { PATH: process.env["PATH"], ...own }, cwd: directory });
    this.child = child;
    const ended = Promise.withResolvers<{ status: number; sentence?: string }>();
    this.ended = ended.promise;
    this.ended.catch(() => {});
    this.#end = () => ended.reject(new Error("the session was ended"));
    const resolve = (end: { status: number; sentence?: string }) => {
      this.#over = true;
      ended.resolve(end);
    };
    child.once("error", (error: NodeJS.ErrnoException) =>
      resolve({
        status: error.code === "ENOENT" ? 127 : 126,
        sentence: `cannot run ${program}: ${error.code}`,
      }),
    );
    child.once("close", (status, signal) =>
      resolve({ status: status ?? 128 + constants.signals[signal ?? "SIGKILL"] }),
    );
    child.stdin?.on("error", () => {});
    this.output = merged(child);
  }
  write(bytes: Uint8Array): Promise<boolean> {
    return new Promise((resolve) => {
      if (!this.child.stdin?.writable) return resolve(false);
      return this.child.stdin.write(bytes, (error) => resolve(!error));
    });
  }
  endInput(): void {
    this.child.stdin?.end();
  }
  resize(): void {}
  signal(signal: number): void {
    this.child.kill(signal);
  }
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#over) return;
    this.#end(); // as the engine's session: who disposes it early learns no status
    this.child.kill("SIGKILL");
    this.child.stdout?.destroy();
    this.child.stderr?.destroy();
  }
}

async function* merged(child: ChildProcess) {
  const names = ["stdout", "stderr"] as const;
  let open: number = names.length;
  let wake = () => {};
  for (const name of names) {
    child[name]?.on("readable", () => wake());
    child[name]?.once("close", () => {
      open--;
      wake();
    });
  }
  while (open > 0) {
    let found = false;
    for (const name of names) {
      const bytes: Buffer | null = child[name]?.read();
      if (!bytes) continue;
      found = true;
      yield { from: name, bytes: new Uint8Array(bytes) };
    }
    if (found) continue;
    await new Promise<void>((resolve) => {
      wake = resolve;
      if (open === 0) resolve();
    });
  }
}

class TerminalSession implements RunSession {
  readonly output: RunSession["output"];
  readonly ended: RunSession["ended"];
  readonly #queue: Uint8Array[] = [];
  #end: (status: number) => void = () => {};
  #wake = () => {};
  #over = false;

  constructor({ argv, env, terminal }: RunRequest) {
    this.ended = new Promise((resolve) => {
      this.#end = (status) => {
        this.#over = true;
        this.#wake();
        resolve({ status });
      };
    });
    this.output = this.#lines();
    const say = `${terminal?.rows}x${terminal?.columns} ${env.join(" ")}\r\n`;
    if (argv[0] === "echo") {
      this.#say(`${argv.slice(1).join(" ")}\r\n`);
      this.#end(0);
    } else this.#say(say);
  }
  async write(bytes: Uint8Array): Promise<boolean> {
    const text = Buffer.from(bytes).toString("latin1");
    this.#say(text === "\u0003" ? "<^C>" : text);
    if (text.includes("q")) this.#end(7);
    return true;
  }
  endInput(): void {
    this.#end(0);
  }
  resize(size: { rows: number; columns: number }): void {
    this.#say(`resized ${size.rows}x${size.columns}\r\n`);
  }
  signal(signal: number): void {
    this.#end(128 + signal);
  }
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#over) this.#end(129);
  }
  #say(text: string): void {
    this.#queue.push(new Uint8Array(Buffer.from(text, "latin1")));
    this.#wake();
  }
  async *#lines() {
    for (;;) {
      for (let bytes = this.#queue.shift(); bytes; bytes = this.#queue.shift())
        yield { from: "stdout" as const, bytes };
      if (this.#over) return;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

setFlagsFromString("--expose-gc");
const collect: () => void = runInNewContext("gc");

/** What is reachable now, in octets. Array buffers are freed beside the collection, so that the least of several counts. */
export async function reachableBytes(): Promise<number> {
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 4; i++) {
    collect();
    const { heapUsed, arrayBuffers } = process.memoryUsage();
    least = Math.min(least, heapUsed + arrayBuffers);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return least;
}

/** Resolves when `is` holds; throws after 5 s. */
export async function until(is: () => boolean, what: string): Promise<void> {
  const end = performance.now() + 5000;
  while (!is()) {
    if (performance.now() > end) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
