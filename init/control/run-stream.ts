/** `run`: a command in a container. Its output goes to the client, the client's input to it, each within its window. */
import type { CborValue } from "../bytes/cbor.ts";
import { parse, record, type Shape, uint } from "../bytes/shape.ts";
import { ByteQueue } from "./byte-queue.ts";
import { type Channel, type OpenStream, windowBytes } from "./channel.ts";
import type { Message } from "./frame.ts";
import type { RunSession } from "./handlers.ts";

/** The client's going ends the command; the final answer follows the last octet. */
export function runStream(session: RunSession, channel: Channel): OpenStream {
  const input = new Input(session, channel);
  return {
    take: (message) => input.take(message),
    get heldBytes() {
      return input.heldBytes;
    },
    ended: pump(session, channel),
  };
}

async function pump(session: RunSession, channel: Channel): Promise<CborValue> {
  const end = async (): Promise<void> => {
    try {
      await session[Symbol.asyncDispose]();
    } catch (error) {
      channel.fault(error);
    }
  };
  channel.gone.addEventListener("abort", end, { once: true });
  if (channel.gone.aborted) await end();
  try {
    for await (const { from, bytes } of session.output) {
      if (!(await channel.octets(from, bytes))) return null;
    }
    // A session that was ended before its command has no end to tell of.
    if (channel.gone.aborted) return null;
    const { status, sentence } = await session.ended;
    const result = new Map<string, CborValue>([["status", status]]);
    if (sentence !== undefined) result.set("sentence", sentence);
    return result;
  } finally {
    channel.gone.removeEventListener("abort", end);
    channel.close(); // from here on nothing of the client reaches the session
    await end();
  }
}

const dimension = uint({ max: 9999 });
const size = record({ rows: dimension, columns: dimension });
const signalNumber = uint({ min: 1, max: 64 });

/** Input in order, one write at a time. */
class Input {
  readonly #session: RunSession;
  readonly #channel: Channel;
  readonly #queue = new ByteQueue();
  /** Until the command has taken it. */
  #heldBytes = 0;
  #ended = false;
  #writing = false;

  constructor(session: RunSession, channel: Channel) {
    this.#session = session;
    this.#channel = channel;
  }

  get heldBytes(): number {
    return this.#heldBytes;
  }

  take(message: Message): string | undefined {
    if (this.#channel.gone.aborted) return undefined; // it crossed with the end
    const [name, value] = onlyField(message);
    switch (name) {
      case "input":
        return this.#push(value);
      case "eof":
        if (value !== true || this.#ended) return "has a second or a false eof";
        this.#ended = true;
        this.#go();
        return undefined;
      case "resize":
        return checked(size, value, (is) => this.#session.resize(is));
      case "signal":
        return checked(signalNumber, value, (is) => this.#session.signal(is));
      default:
        return "is none of input, eof, resize, signal, taken, cancel";
    }
  }

  #push(bytes: CborValue | undefined): string | undefined {
    if (!(bytes instanceof Uint8Array) || bytes.length === 0) return "has input that is no octets";
    if (this.#ended) return "has input after its eof";
    if (this.#heldBytes + bytes.length > windowBytes) return "sends more than the window allows";
    this.#heldBytes += bytes.length;
    this.#queue.push(bytes);
    this.#go();
    return undefined;
  }

  #go(): void {
    if (this.#writing) return;
    this.#writing = true;
    void this.#write()
      .catch((error: unknown) => this.#channel.fault(error))
      .finally(() => {
        this.#writing = false;
      });
  }

  async #write(): Promise<void> {
    let isRead = true;
    while (!this.#channel.gone.aborted) {
      const bytes = this.#queue.shift(writeBytes);
      if (bytes === undefined) break;
      // Nobody reads it any more: it is taken all the same, or the client would wait for ever.
      if (isRead) isRead = await this.#session.write(bytes);
      this.#heldBytes -= bytes.length;
      await this.#channel.event("taken", bytes.length);
    }
    if (this.#ended && !this.#channel.gone.aborted) this.#session.endInput();
  }
}

const writeBytes = 64 * 1024;

/** Of {id, one field}: that field. */
function onlyField(message: Message): readonly [string | number | undefined, CborValue | undefined] {
  const rest = [...message].filter(([key]) => key !== "id");
  return rest.length === 1 ? (rest[0] ?? [undefined, undefined]) : [undefined, undefined];
}

function checked<T>(
  shape: Shape<T>,
  value: CborValue | undefined,
  use: (value: T) => void,
): string | undefined {
  const parsed = parse(shape, value);
  if (parsed.is === "refused") return `${parsed.path} ${parsed.why}`.trim();
  use(parsed.value);
  return undefined;
}
