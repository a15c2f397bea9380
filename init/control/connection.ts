/** The client's half of the protocol over any stream: requests, and commands in containers. Several may run at once. */
import type { Duplex } from "node:stream";
import type { CborValue } from "../bytes/cbor.ts";
import { windowBytes } from "./channel.ts";
import { decodeMessage, encodeFrame, FrameReader, frameMaxBytes, type Message } from "./frame.ts";

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

/** Takes octets; what it does not resolve, the device does not go beyond. */
export type OnOctets = (bytes: Uint8Array) => void | Promise<void>;

export type RunOptions = {
  readonly container: string;
  readonly argv: readonly string[];
  /** "NAME=value" */
  readonly env?: readonly string[];
  readonly user?: number;
  readonly group?: number;
  readonly directory?: string;
  /** A terminal of this size; without one standard output and error stay apart. */
  readonly pty?: { readonly rows: number; readonly columns: number; readonly term: string };
  readonly onStdout: OnOctets;
  readonly onStderr: OnOctets;
  /** Handed over once the command runs. */
  readonly onStarted?: (input: RunInput) => void;
};

/** What a running command takes. */
export interface RunInput {
  /** Resolves when more may be written; at once when the command has ended. */
  write(bytes: Uint8Array): Promise<void>;
  end(): void;
  resize(size: { readonly rows: number; readonly columns: number }): void;
  signal(signal: number): void;
}

export type RunResult = { readonly status: number; readonly sentence: string | undefined };

export type StreamOptions = {
  readonly onStdout: OnOctets;
  /** Octets that a follower lost, as it was too slow. */
  readonly onLost?: (bytes: number) => void;
  /** Ends the stream; its result comes all the same. */
  readonly until?: AbortSignal;
};

type Pending = {
  readonly onEvent: (event: string, data: CborValue) => void | Promise<void>;
  readonly resolve: (result: CborValue) => void;
  readonly reject: (error: Error) => void;
  /** Events are handled in order, one at a time. */
  last: Promise<void>;
};

export class Connection {
  readonly #stream: Duplex;
  readonly #reader = new FrameReader();
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  #lost: ConnectionLost | undefined;

  /** From here on the stream is the connection's. */
  constructor(stream: Duplex) {
    this.#stream = stream;
    stream.on("data", (chunk: Uint8Array) => this.#take(chunk));
    stream.on("error", (error: NodeJS.ErrnoException) =>
      this.#lose(closedCodes.includes(error.code ?? "") ? "the device closed it" : error.message),
    );
    stream.once("end", () => this.#lose("the device closed it"));
    stream.once("close", () => this.#lose("the device closed it"));
  }

  get isOpen(): boolean {
    return this.#lost === undefined;
  }

  close(): void {
    this.#lose("it was closed here");
  }

  /** One request, its result. Rejects with DeviceError or ConnectionLost, as all of these. */
  request(command: string, fields: ReadonlyMap<string, CborValue> = new Map()): Promise<CborValue> {
    return this.#open(command, fields, () => {}).result;
  }

  /** A command in a container; resolves after its last output was taken. */
  async run(options: RunOptions): Promise<RunResult> {
    const { onStdout, onStderr, onStarted, ...request } = options;
    const window = new Window();
    const { id, result } = this.#open("run", fieldsOf(request), (event, data) => {
      if (event === "started") onStarted?.(this.#input(id, window));
      if (event === "taken" && typeof data === "number") window.give(data);
      if (data instanceof Uint8Array) return this.#use(id, data, event === "stderr" ? onStderr : onStdout);
      return undefined;
    });
    const answer = await result.finally(() => window.close());
    const [status, sentence] =
      answer instanceof Map ? [answer.get("status"), answer.get("sentence")] : [undefined, undefined];
    if (typeof status !== "number")
      throw new ConnectionLost("cannot tell how the command ended: the device did not say");
    return { status, sentence: typeof sentence === "string" ? sentence : undefined };
  }

  /** A command that only sends: logs, attest. */
  stream(
    command: string,
    fields: ReadonlyMap<string, CborValue>,
    options: StreamOptions,
  ): Promise<CborValue> {
    const { id, result } = this.#open(command, fields, (event, data) => {
      if (event === "lost" && typeof data === "number") options.onLost?.(data);
      if (event === "stdout" && data instanceof Uint8Array) return this.#use(id, data, options.onStdout);
      return undefined;
    });
    const cancel = () =>
      this.#send([
        ["id", id],
        ["cancel", true],
      ]);
    options.until?.addEventListener("abort", cancel, { once: true });
    return result.finally(() => options.until?.removeEventListener("abort", cancel));
  }

  async #use(id: number, bytes: Uint8Array, onOctets: OnOctets): Promise<void> {
    await onOctets(bytes);
    if (this.#pending.has(id))
      this.#send([
        ["id", id],
        ["taken", bytes.length],
      ]);
  }

  #input(id: number, window: Window): RunInput {
    const send = (key: string, value: CborValue) => {
      if (this.#pending.has(id))
        this.#send([
          ["id", id],
          [key, value],
        ]);
    };
    return {
      async write(bytes) {
        for (let at = 0; at < bytes.length && !window.isClosed; ) {
          const count = await window.take(Math.min(bytes.length - at, partBytes));
          if (count > 0) send("input", bytes.subarray(at, at + count));
          at += count;
        }
      },
      end: () => send("eof", true),
      resize: ({ rows, columns }) =>
        send(
          "resize",
          new Map([
            ["rows", rows],
            ["columns", columns],
          ]),
        ),
      signal: (signal) => send("signal", signal),
    };
  }

  #open(
    command: string,
    fields: ReadonlyMap<string, CborValue>,
    onEvent: Pending["onEvent"],
  ): { readonly id: number; readonly result: Promise<CborValue> } {
    const id = this.#nextId++;
    const result = new Promise<CborValue>((resolve, reject) => {
      if (this.#lost) return reject(this.#lost);
      const frame = encodeFrame(new Map<string, CborValue>([...fields, ["id", id], ["command", command]]));
      this.#pending.set(id, { resolve, reject, onEvent, last: Promise.resolve() });
      this.#stream.write(frame);
    });
    return { id, result };
  }

  #send(entries: readonly (readonly [string, CborValue])[]): void {
    if (this.#stream.writable) this.#stream.write(encodeFrame(new Map(entries)));
  }

  #take(chunk: Uint8Array): void {
    const { bodies, refused } = this.#reader.push(chunk);
    for (const body of bodies) {
      const decoded = decodeMessage(body, frameMaxBytes);
      if (decoded.is === "refused") return this.#lose(`what came is no message: ${decoded.why}`);
      this.#message(decoded.message);
    }
    if (refused) this.#lose(`what came is no message: ${refused}`);
  }

  #message(message: Message): void {
    const id = Number(message.get("id"));
    const pending = this.#pending.get(id);
    const event = message.get("event");
    if (!pending) {
      // To no request of ours: why the device takes no connection.
      if (id === 0) this.#lose(refusalOf(message).message);
      return;
    }
    if (typeof event === "string") {
      pending.last = pending.last.then(() => pending.onEvent(event, message.get("data") ?? null));
      pending.last.catch((error: unknown) => this.#settle(id, () => pending.reject(asError(error))));
      return;
    }
    const settle = () =>
      message.get("ok") === true
        ? pending.resolve(message.get("result") ?? null)
        : pending.reject(refusalOf(message));
    void pending.last.then(
      () => this.#settle(id, settle),
      () => {}, // rejected above
    );
  }

  #settle(id: number, settle: () => void): void {
    if (this.#pending.delete(id)) settle();
  }

  #lose(why: string): void {
    if (this.#lost) return;
    const lost = new ConnectionLost(`cannot go on with the control connection: ${why}`);
    this.#lost = lost;
    this.#stream.destroy();
    for (const [id, pending] of this.#pending) {
      // What came before is handled first; an answer among it counts.
      const settle = () => this.#settle(id, () => pending.reject(lost));
      pending.last.then(settle, settle).catch(() => {}); // neither throws
    }
  }
}

const closedCodes = ["ECONNRESET", "EPIPE"];
const partBytes = 32 * 1024;

/** How much input may be on its way. */
class Window {
  #freeBytes = windowBytes;
  #isClosed = false;
  #onChange = () => {};

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** Takes up to `bytes`, at least one; 0 once closed. */
  async take(bytes: number): Promise<number> {
    while (this.#freeBytes === 0 && !this.#isClosed) {
      await new Promise<void>((resolve) => {
        this.#onChange = resolve;
      });
    }
    if (this.#isClosed) return 0;
    const count = Math.min(bytes, this.#freeBytes);
    this.#freeBytes -= count;
    return count;
  }

  give(bytes: number): void {
    this.#freeBytes = Math.min(windowBytes, this.#freeBytes + bytes);
    this.#onChange();
  }

  close(): void {
    this.#isClosed = true;
    this.#onChange();
  }
}

function refusalOf(message: Message): DeviceError {
  const error = message.get("error");
  const [code, sentence] = error instanceof Map ? [error.get("code"), error.get("sentence")] : [];
  return new DeviceError(
    typeof code === "string" ? code : "internal",
    typeof sentence === "string" ? sentence : "the device gave no reason",
  );
}

function fieldsOf(options: { readonly [key: string]: unknown }): Map<string, CborValue> {
  const fields = new Map<string, CborValue>();
  for (const [key, value] of Object.entries(options)) {
    if (value !== undefined)
      fields.set(key, key === "pty" ? fieldsOf(value as object as never) : (value as CborValue));
  }
  return fields;
}

const asError = (error: unknown): Error => (error instanceof Error ? error : new Error(String(error)));
