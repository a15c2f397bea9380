/**
 * The server of the control protocol. One connection is a sequence of frames: a request {id, command, ...} gets exactly one final
 * answer {id, ok, result | error}; streams send {id, event, ...} before it, and take {id, input | eof | resize | signal | ack}.
 * What a client can make us hold is bounded: frames, open requests, unread answers; one client's sloth is nobody else's.
 */
import type { Duplex } from "node:stream";
import type { CborValue } from "../bytes/cbor.ts";
import { GimbalError, quoted } from "../errors.ts";
import { BadRequest, findCommand } from "./commands.ts";
import { decodeMessage, encodeFrame, FrameReader, frameMaxBytes, type Message } from "./frame.ts";
import type { DeviceHandlers, Level } from "./handlers.ts";
import { logsStream, type OpenStream, runStream } from "./streams.ts";

export type ServerPorts = {
  readonly device: DeviceHandlers;
  /** Asked at each request: provisioning changes it. */
  readonly level: () => Level;
  /** A refusal or malformed input, for the audit log. */
  readonly onRefused: (what: { readonly code: string; readonly sentence: string }) => void;
};

export const limits = {
  connections: 64,
  openRequests: 16,
  /** A frame must be complete this long after its first octet. */
  frameMs: 10_000,
} as const;

export class ControlServer {
  readonly #ports: ServerPorts;
  readonly #open = new Set<Connection>();

  constructor(ports: ServerPorts) {
    this.#ports = ports;
  }

  get connections(): number {
    return this.#open.size;
  }

  /** Serves one client until it goes. More clients than the limit get an answer and are closed. */
  serve(stream: Duplex): void {
    if (this.#open.size >= limits.connections) {
      stream.on("error", () => {});
      stream.end(encodeFrame(refusal(0, "busy", `there are ${limits.connections} connections already`)));
      return;
    }
    const connection = new Connection(stream, this.#ports, () => this.#open.delete(connection));
    this.#open.add(connection);
  }

  closeAll(): void {
    for (const connection of this.#open) connection.close();
  }
}

/** What streams.ts sees of a connection. */
export interface Client {
  /** Resolves when the client has taken enough to go on; false when it is gone. */
  send(message: Message): Promise<boolean>;
  /** Fires when the client is gone. */
  readonly gone: AbortSignal;
}

class Connection implements Client {
  readonly #stream: Duplex;
  readonly #ports: ServerPorts;
  readonly #reader = new FrameReader();
  readonly #streams = new Map<number, OpenStream>();
  readonly #abort = new AbortController();
  #requests = 0;
  #frameTimer: NodeJS.Timeout | undefined;

  constructor(stream: Duplex, ports: ServerPorts, onClosed: () => void) {
    this.#stream = stream;
    this.#ports = ports;
    stream.on("data", (chunk: Uint8Array) => this.#take(chunk));
    stream.on("error", () => this.close()); // ECONNRESET and the like: the client is gone
    stream.once("end", () => this.close());
    stream.once("close", () => {
      clearTimeout(this.#frameTimer);
      this.#abort.abort();
      onClosed();
    });
  }

  get gone(): AbortSignal {
    return this.#abort.signal;
  }

  close(): void {
    this.#stream.destroy();
  }

  send(message: Message): Promise<boolean> {
    if (this.#stream.destroyed) return Promise.resolve(false);
    let frame: Uint8Array;
    try {
      frame = encodeFrame(message);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      frame = encodeFrame(
        refusal(Number(message.get("id")), "state-too-large", "the answer does not fit a frame"),
      );
    }
    if (this.#stream.write(frame)) return Promise.resolve(true);
    return new Promise((resolve) => {
      const settle = () => {
        this.#stream.off("drain", settle).off("close", settle);
        resolve(!this.#stream.destroyed);
      };
      this.#stream.once("drain", settle).once("close", settle);
    });
  }

  #take(chunk: Uint8Array): void {
    const { bodies, refused } = this.#reader.push(chunk);
    for (const body of bodies) this.#message(body);
    clearTimeout(this.#frameTimer);
    if (refused) return this.#drop(`${refused}, 1 to ${frameMaxBytes} are taken`);
    if (this.#reader.isInside) {
      this.#frameTimer = setTimeout(() => this.#drop("a frame that did not end"), limits.frameMs);
    }
    // A client that does not read its answers sends no further requests.
    if (this.#stream.writableNeedDrain) {
      this.#stream.pause();
      this.#stream.once("drain", () => this.#stream.resume());
    }
  }

  /** Framing is lost: there is no way to answer, so the connection ends. */
  #drop(why: string): void {
    this.#ports.onRefused({ code: "request-malformed", sentence: `a control connection was closed: ${why}` });
    this.close();
  }

  #message(body: Uint8Array): void {
    if (this.#stream.destroyed) return;
    const decoded = decodeMessage(body);
    if (decoded.is === "refused")
      return this.#drop(`a message that is no deterministic CBOR map: ${decoded.why}`);
    const { message } = decoded;
    const id = message.get("id");
    if (typeof id !== "number" || id < 1 || id > 0xffffffff) return this.#drop("a message without an id");
    const stream = this.#streams.get(id);
    if (stream) {
      const wrong = stream.take(message);
      if (wrong) this.#drop(`a message to a stream that ${wrong}`);
      return;
    }
    // Input that crossed with the end of its stream.
    if (!message.has("command")) return;
    if (this.#requests >= limits.openRequests) {
      void this.send(
        refusal(id, "busy", `there are ${limits.openRequests} open requests on this connection`),
      );
      return;
    }
    this.#requests++;
    void this.#answer(id, message).finally(() => {
      this.#requests--;
      this.#streams.delete(id);
    });
  }

  async #answer(id: number, request: Message): Promise<void> {
    try {
      const result = await this.#carryOut(id, request);
      await this.send(
        new Map<string, CborValue>([
          ["id", id],
          ["ok", true],
          ["result", result],
        ]),
      );
    } catch (error) {
      const { code, sentence } = told(error);
      this.#ports.onRefused({ code, sentence });
      await this.send(refusal(id, code, sentence));
    }
  }

  async #carryOut(id: number, request: Message): Promise<CborValue> {
    const name = request.get("command");
    const command = typeof name === "string" ? findCommand(name) : undefined;
    if (!command) {
      const shown = typeof name === "string" ? quoted(name) : "a command that is no text";
      throw new GimbalError("command-unknown", {
        tried: "carry out",
        on: shown,
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
    if (command.handle) return command.handle(this.#ports.device, request);
    const open = command.name === "run" ? runStream : logsStream;
    const stream = await open(this.#ports.device, this, id, request);
    this.#streams.set(id, stream);
    // Only now may the client send input: what came before would find no stream.
    void this.send(
      new Map<string, CborValue>([
        ["id", id],
        ["event", "started"],
        ["data", null],
      ]),
    );
    return stream.ended;
  }
}

/** Every error has a code and a sentence for the client; a bug's own words stay here. */
function told(error: unknown): { readonly code: string; readonly sentence: string } {
  if (error instanceof GimbalError) return { code: error.code, sentence: error.message };
  if (error instanceof BadRequest)
    return { code: "bad-argument", sentence: `cannot read the request: ${error.message}` };
  const name = error instanceof Error ? error.message : String(error);
  return {
    code: "internal",
    sentence: `cannot carry out the command: ${quoted(name)}; this is a fault of gimbal`,
  };
}

function refusal(id: number, code: string, sentence: string): Message {
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
