/** One stream of a connection, as the server sees it: octets and events for the client, no faster than the client takes them. */
import type { CborValue } from "../bytes/cbor.ts";
import type { Message } from "./frame.ts";

/** So many octets may be on their way, in each direction of each stream; who receives says {id, taken: n} as it uses them. */
export const windowBytes = 256 * 1024;
const partBytes = 64 * 1024;

/** What a command opens instead of answering at once. */
export interface OpenStream {
  /** A message of the client. Returns what is wrong with it; undefined: nothing. */
  take(message: Message): string | undefined;
  /** What is held for the client's input. */
  readonly heldBytes: number;
  /** The result of the final answer. */
  readonly ended: Promise<CborValue>;
}

export type ChannelPorts = {
  /** Resolves when the connection has room for more; false when it is gone. */
  readonly send: (message: Message) => Promise<boolean>;
  readonly onFault: (error: unknown) => void;
};

export class Channel {
  readonly #id: number;
  readonly #ports: ChannelPorts;
  readonly #abort = new AbortController();
  #creditBytes = windowBytes;
  #onCredit = () => {};

  constructor(id: number, ports: ChannelPorts) {
    this.#id = id;
    this.#ports = ports;
    this.#abort.signal.addEventListener("abort", () => this.#onCredit(), { once: true });
  }

  /** Fires when the client went away or wants no more of this stream. */
  get gone(): AbortSignal {
    return this.#abort.signal;
  }

  close(): void {
    this.#abort.abort();
  }

  /** A bug of ours: the stream ends, the device goes on. */
  fault(error: unknown): void {
    this.#ports.onFault(error);
    this.close();
  }

  /** The client has used so many octets. Returns what is wrong with that. */
  taken(count: CborValue): string | undefined {
    if (typeof count !== "number" || count < 0 || this.#creditBytes + count > windowBytes)
      return "takes more than it was sent";
    this.#creditBytes += count;
    this.#onCredit();
    return undefined;
  }

  event(name: string, data: CborValue): Promise<boolean> {
    if (this.gone.aborted) return Promise.resolve(false);
    return this.#ports.send(
      new Map<string, CborValue>([
        ["id", this.#id],
        ["event", name],
        ["data", data],
      ]),
    );
  }

  /** Octets in order; one call at a time. False when nobody wants them any more. */
  async octets(name: string, bytes: Uint8Array): Promise<boolean> {
    for (let at = 0; at < bytes.length; ) {
      while (this.#creditBytes === 0 && !this.gone.aborted) {
        await new Promise<void>((resolve) => {
          this.#onCredit = resolve;
        });
      }
      const part = bytes.subarray(at, at + Math.min(partBytes, this.#creditBytes));
      this.#creditBytes -= part.length;
      if (!(await this.event(name, part))) return false;
      at += part.length;
    }
    return !this.gone.aborted;
  }
}
