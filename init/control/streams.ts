/** The two commands that stream: `run` and `logs`. Nothing is read ahead of a client that does not take it. */
import type { CborValue } from "../bytes/cbor.ts";
import { bool, listOf, optional, parse, record, text, uint } from "../bytes/shape.ts";
import { BadRequest } from "./commands.ts";
import type { Message } from "./frame.ts";
import type { DeviceHandlers, RunSession } from "./handlers.ts";
import type { Client } from "./server.ts";

export interface OpenStream {
  /** A message of the client to this stream. Returns what is wrong with it. */
  take(message: Message): string | undefined;
  /** The final answer's result. */
  readonly ended: Promise<CborValue>;
}

/** A client may send this much before the session has taken it. */
export const inputWindowBytes = 256 * 1024;

const dimension = uint({ max: 10_000 });
const runShape = record({
  id: uint(),
  command: text(),
  container: text({ min: 1, max: 64 }),
  argv: listOf(text({ max: 128 * 1024 }), 1024),
  env: optional(listOf(text({ max: 32 * 1024 }), 256)),
  user: optional(uint({ max: 65_535 })),
  rows: optional(dimension),
  columns: optional(dimension),
});

export async function runStream(
  device: DeviceHandlers,
  client: Client,
  id: number,
  message: Message,
): Promise<OpenStream> {
  const parsed = parse(runShape, message);
  if (parsed.is === "refused") throw new BadRequest(`${parsed.path || "it"} ${parsed.why}`);
  const { container, argv, env = [], user = 0, rows, columns } = parsed.value;
  if (argv.length === 0) throw new BadRequest("there is no command to run");
  const terminal = rows !== undefined && columns !== undefined ? { rows, columns } : undefined;
  const session = await device.run({ container, argv, env, user, terminal });
  if (client.gone.aborted) {
    await session[Symbol.asyncDispose]();
    throw new BadRequest("the client went away");
  }
  const input = new Input(session, (bytes) => client.send(event(id, "taken", bytes)));
  return { take: (next) => input.take(next), ended: pump(session, client, id) };
}

/** Hands output on until the last octet, then the end. The client's going ends the command. */
async function pump(session: RunSession, client: Client, id: number): Promise<CborValue> {
  const end = () => void session[Symbol.asyncDispose]();
  client.gone.addEventListener("abort", end, { once: true });
  try {
    for await (const { from, bytes } of session.output) {
      if (!(await client.send(event(id, from, bytes)))) break;
    }
    const { status, sentence } = await session.ended;
    return new Map<string, CborValue>([
      ["status", status],
      ...(sentence === undefined ? [] : [["sentence", sentence] as const]),
    ]);
  } finally {
    client.gone.removeEventListener("abort", end);
    await session[Symbol.asyncDispose]();
  }
}

/** Input in order, one write at a time; what is not yet taken is bounded by the window. */
class Input {
  readonly #session: RunSession;
  readonly #onTaken: (bytes: number) => void;
  #last: Promise<void> = Promise.resolve();
  #pendingBytes = 0;

  constructor(session: RunSession, onTaken: (bytes: number) => void) {
    this.#session = session;
    this.#onTaken = onTaken;
  }

  take(message: Message): string | undefined {
    const input = message.get("input");
    if (input instanceof Uint8Array) {
      this.#pendingBytes += input.length;
      if (this.#pendingBytes > inputWindowBytes) return "sent more than the window allows";
      const bytes = Uint8Array.from(input);
      this.#last = this.#last.then(async () => {
        await this.#session.write(bytes);
        this.#pendingBytes -= bytes.length;
        this.#onTaken(bytes.length);
      });
      return undefined;
    }
    if (message.get("eof") === true) {
      this.#last = this.#last.then(() => this.#session.endInput());
      return undefined;
    }
    const signal = message.get("signal");
    if (typeof signal === "number" && signal >= 1 && signal <= 64) {
      this.#session.signal(signal);
      return undefined;
    }
    const [rows, columns] = [message.get("rows"), message.get("columns")];
    if (
      typeof rows === "number" &&
      typeof columns === "number" &&
      rows >= 0 &&
      columns >= 0 &&
      rows < 10_000 &&
      columns < 10_000
    ) {
      this.#session.resize({ rows, columns });
      return undefined;
    }
    return "is none of input, eof, signal, rows and columns";
  }
}

const logsShape = record({
  id: uint(),
  command: text(),
  container: text({ min: 1, max: 64 }),
  follow: optional(bool()),
});

const logChunkBytes = 64 * 1024;
/** A follower that lags by more than this loses what is in between, and is told. */
const followBytes = 1024 * 1024;

export async function logsStream(
  device: DeviceHandlers,
  client: Client,
  id: number,
  message: Message,
): Promise<OpenStream> {
  const parsed = parse(logsShape, message);
  if (parsed.is === "refused") throw new BadRequest(`${parsed.path || "it"} ${parsed.why}`);
  const log = await device.logs(parsed.value.container);
  return { take: () => undefined, ended: sendLog(log, client, id, parsed.value.follow === true) };
}

async function sendLog(
  log: Awaited<ReturnType<DeviceHandlers["logs"]>>,
  client: Client,
  id: number,
  follow: boolean,
): Promise<CborValue> {
  const queue: Uint8Array[] = [];
  let queuedBytes = 0;
  let wake = () => {};
  using _following = follow
    ? log.follow((bytes) => {
        if (queuedBytes + bytes.length > followBytes) return;
        queue.push(Uint8Array.from(bytes));
        queuedBytes += bytes.length;
        wake();
      })
    : undefined;
  for (let at = 0; at < log.bytes.length; at += logChunkBytes) {
    if (!(await client.send(event(id, "stdout", log.bytes.subarray(at, at + logChunkBytes))))) return null;
  }
  while (follow && !client.gone.aborted) {
    for (let next = queue.shift(); next; next = queue.shift()) {
      queuedBytes -= next.length;
      if (!(await client.send(event(id, "stdout", next)))) return null;
    }
    await new Promise<void>((resolve) => {
      wake = resolve;
      client.gone.addEventListener("abort", () => resolve(), { once: true });
      if (queue.length > 0) resolve();
    });
  }
  return new Map<string, CborValue>([["dropped_lines", log.droppedLines]]);
}

function event(id: number, name: string, data: CborValue): Message {
  return new Map<string, CborValue>([
    ["id", id],
    ["event", name],
    ["data", data],
  ]);
}
