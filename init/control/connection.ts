/** The client's half of the protocol over any stream: requests, and commands in containers. */
import type { Duplex } from "node:stream";
import type { CborValue } from "../bytes/cbor.ts";
import { decodeMessage, encodeFrame, FrameReader, type Message } from "./frame.ts";
import { inputWindowBytes } from "./streams.ts";

/** A refusal by the device: its code and sentence. */
export class DeviceError extends Error {
  override readonly name = "DeviceError";
  readonly code: string;

  constructor(code: string, sentence: string) {
    super(sentence);
    this.code = code;
  }
}

/** The connection broke, or what came over it was no control protocol. */
export class ConnectionLost extends Error {
  override readonly name = "ConnectionLost";
}

export type RunOptions = {
  readonly container: string;
  readonly argv: readonly string[];
  readonly env?: readonly string[];
  readonly user?: number;
  readonly terminal?: { readonly rows: number; readonly columns: number };
  readonly onStdout: (bytes: Uint8Array) => void | Promise<void>;
  readonly onStderr: (bytes: Uint8Array) => void | Promise<void>;
  /** Handed over once the command runs. */
  readonly onStarted?: (input: RunInput) => void;
};

/** What a running command takes. */
export interface RunInput {
  /** Resolves when more may be written. */
  write(bytes: Uint8Array): Promise<void>;
  end(): void;
  resize(rows: number, columns: number): void;
  signal(signal: number): void;
}

export type RunResult = { readonly status: number; readonly sentence: string | undefined };

type Pending = {
  readonly resolve: (result: CborValue) => void;
  readonly reject: (error: Error) => void;
  readonly onEvent: (event: string, data: CborValue) => void | Promise<void>;
};

export class Connection {
  readonly #stream: Duplex;
  readonly #reader = new FrameReader();
  readonly #pending = new Map<number, Pending>();
  #next = 1;
  #lost: ConnectionLost | undefined;
  #handling: Promise<void> = Promise.resolve();

  constructor(stream: Duplex) {
    this.#stream = stream;
    stream.on("data", (chunk: Uint8Array) => this.#take(chunk));
    stream.once("error", (error: Error) => this.#lose(error.message));
    stream.once("close", () => this.#lose("the device closed the connection"));
  }

  get isOpen(): boolean {
    return this.#lost === undefined;
  }

  close(): void {
    this.#stream.destroy();
  }

  /** One request, its result. @throws {DeviceError | ConnectionLost} */
  request(command: string, fields: ReadonlyMap<string, CborValue> = new Map()): Promise<CborValue> {
    return this.#open(command, fields, () => {}).result;
  }

  /** A command in a container; resolves after its last output was handed over. */
  async run(options: RunOptions): Promise<RunResult> {
    const { container, argv, env, user, terminal, onStdout, onStderr, onStarted } = options;
    const fields = new Map<string, CborValue>([
      ["container", container],
      ["argv", argv],
    ]);
    if (env) fields.set("env", env);
    if (user !== undefined) fields.set("user", user);
    if (terminal) fields.set("rows", terminal.rows).set("columns", terminal.columns);
    const window = new Window();
    const { id, result } = this.#open("run", fields, (event, data) => {
      if (event === "started") onStarted?.(this.#input(id, window));
      if (event === "taken" && typeof data === "number") window.give(data);
      if (event === "stdout" && data instanceof Uint8Array) return onStdout(data);
      if (event === "stderr" && data instanceof Uint8Array) return onStderr(data);
      return undefined;
    });
    const answer = await result;
    const status = answer instanceof Map ? answer.get("status") : undefined;
    const sentence = answer instanceof Map ? answer.get("sentence") : undefined;
    return {
      status: typeof status === "number" ? status : 125,
      sentence: typeof sentence === "string" ? sentence : undefined,
    };
  }

  /** The console log of a container. */
  logs(
    container: string,
    follow: boolean,
    onBytes: (bytes: Uint8Array) => void | Promise<void>,
  ): Promise<CborValue> {
    const fields = new Map<string, CborValue>([
      ["container", container],
      ["follow", follow],
    ]);
    return this.#open("logs", fields, (_, data) => (data instanceof Uint8Array ? onBytes(data) : undefined))
      .result;
  }

  #input(id: number, window: Window): RunInput {
    const send = (fields: readonly (readonly [string, CborValue])[]) =>
      this.#send(new Map([["id", id], ...fields]));
    return {
      async write(bytes) {
        for (let at = 0; at < bytes.length; ) {
          const part = bytes.subarray(at, at + chunkBytes);
          await window.take(part.length);
          send([["input", part]]);
          at += part.length;
        }
      },
      end: () => send([["eof", true]]),
      resize: (rows, columns) =>
        send([
          ["rows", rows],
          ["columns", columns],
        ]),
      signal: (signal) => send([["signal", signal]]),
    };
  }

  #open(
    command: string,
    fields: ReadonlyMap<string, CborValue>,
    onEvent: Pending["onEvent"],
  ): { readonly id: number; readonly result: Promise<CborValue> } {
    const id = this.#next++;
    const result = new Promise<CborValue>((resolve, reject) => {
      if (this.#lost) return reject(this.#lost);
      this.#pending.set(id, { resolve, reject, onEvent });
      this.#send(new Map<string, CborValue>([["id", id], ["command", command], ...fields]));
    });
    return { id, result };
  }

  #send(message: Message): void {
    if (!this.#stream.destroyed) this.#stream.write(encodeFrame(message));
  }

  #take(chunk: Uint8Array): void {
    const { bodies, refused } = this.#reader.push(chunk);
    for (const body of bodies) {
      const decoded = decodeMessage(body);
      if (decoded.is === "refused") return this.#lose(`the device sent ${decoded.why}`);
      const { message } = decoded;
      // In order, and no faster than whoever takes the output.
      this.#handling = this.#handling.then(() => this.#handle(message));
    }
    if (refused) return this.#lose(`the device sent ${refused}`);
    this.#stream.pause();
    void this.#handling.then(() => this.#stream.resume());
  }

  async #handle(message: Message): Promise<void> {
    const id = Number(message.get("id"));
    const pending = this.#pending.get(id);
    const event = message.get("event");
    if (typeof event === "string") {
      try {
        await pending?.onEvent(event, message.get("data") ?? null);
      } catch (error) {
        this.#pending.delete(id);
        pending?.reject(error instanceof Error ? error : new Error(String(error)));
      }
      return;
    }
    this.#pending.delete(id);
    if (message.get("ok") === true) return pending?.resolve(message.get("result") ?? null);
    const error = message.get("error");
    const [code, sentence] = error instanceof Map ? [error.get("code"), error.get("sentence")] : [];
    const refusal = new DeviceError(
      String(code ?? "internal"),
      String(sentence ?? "the device gave no reason"),
    );
    if (pending) pending.reject(refusal);
    else if (id === 0) this.#lose(refusal.message);
  }

  #lose(why: string): void {
    this.#lost ??= new ConnectionLost(`cannot go on with the control connection: ${why}`);
    const lost = this.#lost;
    this.#stream.destroy();
    void this.#handling.then(() => {
      for (const { reject } of this.#pending.values()) reject(lost);
      this.#pending.clear();
    });
  }
}

const chunkBytes = 32 * 1024;

/** How much input may be on its way. */
class Window {
  #free = inputWindowBytes;
  #waiting: (() => void) | undefined;

  async take(bytes: number): Promise<void> {
    while (this.#free < bytes) {
      await new Promise<void>((resolve) => {
        this.#waiting = resolve;
      });
    }
    this.#free -= bytes;
  }

  give(bytes: number): void {
    this.#free += bytes;
    this.#waiting?.();
    this.#waiting = undefined;
  }
}
