/** One client of the server: its frames, its open requests, its unread answers. */
import type { Duplex } from "node:stream";
import type { CborValue } from "../bytes/cbor.ts";
import { type ErrorCode, GimbalError, quoted, reasonOf } from "../errors.ts";
import { Channel, type OpenStream } from "./channel.ts";
import { findCommand } from "./commands.ts";
import { decodeMessage, encodeFrame, FrameReader, frameMaxBytes, type Message } from "./frame.ts";
import type { ServerLimits, ServerPorts } from "./server.ts";

type Owner = { readonly onHeld: () => void; readonly onClosed: () => void };
type Open = { readonly channel: Channel; stream: OpenStream | undefined };

export class ServerConnection {
  readonly #stream: Duplex;
  readonly #ports: ServerPorts;
  readonly #limits: ServerLimits;
  readonly #owner: Owner;
  readonly #reader = new FrameReader();
  /** Requests without a final answer. */
  readonly #open = new Map<number, Open>();
  #waitingBytes = 0;
  #drained: Promise<void> | undefined;
  #frameTimer: NodeJS.Timeout | undefined;
  #idleSince: number | undefined = performance.now();
  #ended = false;
  #dropped = false;
  readonly #onData = (chunk: Uint8Array): void => this.#guarded(() => this.#take(chunk));

  constructor(stream: Duplex, ports: ServerPorts, limits: ServerLimits, owner: Owner) {
    this.#stream = stream;
    this.#ports = ports;
    this.#limits = limits;
    this.#owner = owner;
    stream.on("data", this.#onData);
    stream.on("error", () => this.close()); // ECONNRESET, EPIPE: the client is gone
    stream.once("end", () => this.#inputEnded());
    stream.once("close", () => this.#closed());
  }

  /** Since when there is nothing to do; undefined while there is. */
  get idleSince(): number | undefined {
    return this.#idleSince;
  }

  /** Half frames, input that a command has not taken, answers that were not read. */
  get heldBytes(): number {
    let held = this.#reader.heldBytes + this.#waitingBytes + this.#stream.writableLength;
    for (const { stream } of this.#open.values()) held += stream?.heldBytes ?? 0;
    return held;
  }

  close(): void {
    this.#stream.destroy();
  }

  /** The client broke the protocol: it is told so, with id 0 since no request can be meant, and closed. */
  drop(why: string): void {
    if (this.#dropped || this.#stream.destroyed) return;
    this.#dropped = true;
    const sentence = `cannot go on with this control connection: ${why}`;
    this.#ports.onRefused({ code: "request-malformed", sentence });
    this.#stream.off("data", this.#onData).resume(); // what else it sends goes nowhere
    for (const { channel } of this.#open.values()) channel.close();
    part(this.#stream, refusal(0, "request-malformed", sentence));
  }

  #closed(): void {
    clearTimeout(this.#frameTimer);
    for (const { channel } of this.#open.values()) channel.close();
    this.#owner.onClosed();
  }

  /** The client sends no more. Who waits for a plain answer gets it; a stream's client is taken to be gone. */
  #inputEnded(): void {
    this.#ended = true;
    clearTimeout(this.#frameTimer);
    if ([...this.#open.values()].some(({ stream }) => stream)) this.close();
    else if (this.#open.size === 0) this.#stream.end();
  }

  /** A bug here must not end PID 1: the connection goes, the device stays. */
  #guarded(act: () => void): void {
    try {
      act();
    } catch (error) {
      this.#ports.onFault?.(error);
      this.close();
    }
  }

  #take(chunk: Uint8Array): void {
    const { bodies, refused } = this.#reader.push(chunk);
    for (const body of bodies) this.#message(body);
    if (refused) return this.drop(`${refused}, where 1 to ${frameMaxBytes} are taken`);
    if (this.#dropped) return;
    if (bodies.length > 0) this.#stopFrameTimer();
    this.#owner.onHeld();
    // A client that does not read its answers is not read either.
    if (this.#drained !== undefined) {
      this.#stopFrameTimer();
      this.#stream.pause();
      void this.#drained.then(() => {
        this.#startFrameTimer();
        this.#stream.resume();
      });
    } else this.#startFrameTimer();
  }

  #startFrameTimer(): void {
    if (this.#reader.heldBytes === 0 || this.#dropped) return;
    this.#frameTimer ??= setTimeout(
      () => this.drop(`a frame was not complete after ${this.#limits.frameMs / 1000} s`),
      this.#limits.frameMs,
    );
  }

  #stopFrameTimer(): void {
    clearTimeout(this.#frameTimer);
    this.#frameTimer = undefined;
  }

  #message(body: Uint8Array): void {
    if (this.#dropped || this.#stream.destroyed) return;
    const decoded = decodeMessage(body);
    if (decoded.is === "refused") return this.drop(`a message is no deterministic CBOR map: ${decoded.why}`);
    const { message } = decoded;
    const id = message.get("id");
    if (typeof id !== "number" || id < 1 || id > 0xffffffff) return this.drop("a message has no id");
    const open = this.#open.get(id);
    if (message.has("command")) {
      if (open) return this.drop(`the id ${id} is in use`);
      return this.#request(id, message);
    }
    // What is not for an open stream crossed with the stream's end.
    const wrong = open && this.#toStream(open, message);
    if (wrong) this.drop(`a message to a stream ${wrong}`);
  }

  #toStream({ channel, stream }: Open, message: Message): string | undefined {
    const taken = message.get("taken");
    if (taken !== undefined) return channel.taken(taken);
    if (message.get("cancel") === true) {
      channel.close();
      return undefined;
    }
    return stream ? stream.take(message) : "came before it was open";
  }

  #request(id: number, message: Message): void {
    if (this.#open.size >= this.#limits.openRequests) {
      const sentence = `cannot take the request: there are ${this.#limits.openRequests} open ones on this connection`;
      void this.#send(refusal(id, "busy", sentence));
      return;
    }
    const channel = new Channel(id, {
      send: (event) => this.#send(event),
      onFault: (error) => this.#ports.onFault?.(error),
    });
    const open: Open = { channel, stream: undefined };
    this.#open.set(id, open);
    this.#idleSince = undefined;
    void this.#answer(id, message, open)
      .catch((error: unknown) => this.#ports.onFault?.(error))
      .finally(() => this.#answered(id));
  }

  #answered(id: number): void {
    this.#open.delete(id);
    if (this.#open.size > 0) return;
    this.#idleSince = performance.now();
    if (this.#ended) this.#stream.end();
  }

  async #answer(id: number, message: Message, open: Open): Promise<void> {
    let answer: Message;
    try {
      answer = answerOf(id, await this.#carryOut(message, open));
    } catch (error) {
      const { code, sentence } = told(error);
      if (code === "internal") this.#ports.onFault?.(error);
      this.#ports.onRefused({ code, sentence });
      answer = refusal(id, code, sentence);
    }
    await this.#send(answer);
  }

  async #carryOut(message: Message, open: Open): Promise<CborValue> {
    const name = message.get("command");
    const command = typeof name === "string" ? findCommand(name) : undefined;
    if (!command) {
      throw new GimbalError("command-unknown", {
        tried: "carry out",
        on: typeof name === "string" ? quoted(name) : "a command that is no text",
        why: "there is no such command",
        todo: "see control --help",
      });
    }
    const level = this.#ports.level();
    if (!command.levels.includes(level)) {
      throw new GimbalError("command-forbidden", {
        tried: "carry out",
        on: command.name,
        why: level === "U" ? "this container may not" : "the device is provisioned",
      });
    }
    const plan = command.plan(this.#ports.device, message);
    if (plan.is === "refused") {
      throw new GimbalError("bad-argument", {
        tried: "carry out",
        on: command.name,
        why: plan.path === "" ? `the request ${plan.why}` : `${plan.path.slice(1)} ${plan.why}`,
      });
    }
    if (plan.value.is === "answer") return plan.value.result();
    open.stream = await plan.value.open(open.channel);
    if (this.#ended) this.close();
    // Only now may the client send input: what came before would find no stream.
    void open.channel.event("started", null);
    return open.stream.ended;
  }

  /** One frame at a time goes to the stream; the others wait here and count. Resolves false when the client is gone. */
  async #send(message: Message): Promise<boolean> {
    if (this.#stream.destroyed) return false;
    const frame = this.#frameOf(message);
    this.#waitingBytes += frame.length;
    this.#owner.onHeld();
    while (this.#drained !== undefined) await this.#drained;
    this.#waitingBytes -= frame.length;
    if (this.#dropped || !this.#stream.writable) return false;
    if (!this.#stream.write(frame)) this.#drained = this.#drain();
    await this.#drained;
    return this.#stream.writable;
  }

  #drain(): Promise<void> {
    return new Promise((resolve) => {
      const settle = () => {
        this.#stream.off("drain", settle).off("close", settle);
        this.#drained = undefined;
        resolve();
      };
      this.#stream.on("drain", settle).on("close", settle);
    });
  }

  #frameOf(message: Message): Uint8Array {
    try {
      return encodeFrame(message);
    } catch (error) {
      if (!(error instanceof RangeError)) this.#ports.onFault?.(error);
      const id = Number(message.get("id"));
      const sentence = "cannot answer: the answer does not fit a frame";
      return encodeFrame(
        refusal(id, error instanceof RangeError ? "answer-too-large" : "internal", sentence),
      );
    }
  }
}

/** Says a last word and closes, also where the client does not read it. */
export function part(stream: Duplex, word: Message): void {
  const timer = setTimeout(() => stream.destroy(), partingMs);
  stream.once("close", () => clearTimeout(timer));
  stream.end(encodeFrame(word), () => stream.destroy());
}

const partingMs = 2000;

/** Every error has a code and a sentence for the client. */
function told(error: unknown): { readonly code: ErrorCode; readonly sentence: string } {
  if (error instanceof GimbalError) return { code: error.code, sentence: error.message };
  return {
    code: "internal",
    sentence: `cannot carry out the command: ${quoted(reasonOf(error))}; this is a fault of gimbal, please report it`,
  };
}

function answerOf(id: number, result: CborValue): Message {
  return new Map<string, CborValue>([
    ["id", id],
    ["ok", true],
    ["result", result],
  ]);
}

export function refusal(id: number, code: ErrorCode, sentence: string): Message {
  const error = new Map<string, CborValue>([
    ["code", code],
    ["sentence", sentence],
  ]);
  return new Map<string, CborValue>([
    ["id", id],
    ["ok", false],
    ["error", error],
  ]);
}
