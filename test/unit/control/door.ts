/** A server on a real unix socket in a folder of its own, and raw clients for it. */
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { CborValue } from "../../../init/bytes/cbor.ts";
import { Connection } from "../../../init/control/connection.ts";
import { decodeMessage, encodeFrame, FrameReader, type Message } from "../../../init/control/frame.ts";
import type { Level } from "../../../init/control/handlers.ts";
import { ControlServer, type ServerLimits } from "../../../init/control/server.ts";
import { FakeDevice } from "./fake-device.ts";

export type Door = AsyncDisposable & {
  readonly device: FakeDevice;
  readonly server: ControlServer;
  readonly path: string;
  readonly refused: { code: string; sentence: string }[];
  readonly faults: unknown[];
  connect(): Promise<Socket>;
  client(): Promise<Connection>;
  raw(): Promise<Raw>;
};

export async function openDoor(
  own: { limits?: Partial<ServerLimits>; level?: () => Level } = {},
): Promise<Door> {
  const device = new FakeDevice();
  const refused: { code: string; sentence: string }[] = [];
  const faults: unknown[] = [];
  const server = new ControlServer(
    {
      device,
      level: own.level ?? (() => (device.provisioned ? "V" : "P")),
      onRefused: (what) => void refused.push(what),
      onFault: (error) => void faults.push(error),
    },
    own.limits,
  );
  const folder = mkdtempSync(join(tmpdir(), "gimbal-control-"));
  const path = join(folder, "control.sock");
  const listener = createServer({ allowHalfOpen: false }, (socket) => server.serve(socket));
  listener.listen(path);
  await once(listener, "listening");
  const sockets: Socket[] = [];
  const open = async () => {
    const socket = connect(path);
    sockets.push(socket);
    await once(socket, "connect");
    return socket;
  };
  return {
    device,
    server,
    path,
    refused,
    faults,
    connect: open,
    client: async () => new Connection(await open()),
    raw: async () => new Raw(await open()),
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.closeAll();
      listener.close();
      await once(listener, "close");
      rmSync(folder, { recursive: true });
    },
  };
}

/** A client that sends whatever octets it likes. */
export class Raw {
  readonly socket: Socket;
  readonly messages: Message[] = [];
  readonly closed: Promise<void>;
  readonly #reader = new FrameReader();

  constructor(socket: Socket) {
    this.socket = socket;
    this.closed = new Promise((resolve) => socket.once("close", () => resolve()));
    socket.on("error", () => {});
    socket.on("data", (chunk: Uint8Array) => {
      for (const body of this.#reader.push(chunk).bodies) {
        const decoded = decodeMessage(body);
        if (decoded.is === "message") this.messages.push(decoded.message);
      }
    });
  }

  send(...messages: readonly { readonly [key: string]: CborValue }[]): void {
    for (const message of messages) this.socket.write(encodeFrame(new Map(Object.entries(message))));
  }

  /** The final answers' codes, or "ok", by id. */
  get answers(): readonly (readonly [id: unknown, is: unknown])[] {
    return this.messages
      .filter((message) => message.has("ok"))
      .map((message) => {
        const error = message.get("error");
        return [message.get("id"), error instanceof Map ? error.get("code") : "ok"];
      });
  }
}
