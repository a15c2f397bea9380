/**
 * The server of the control protocol. One connection is a sequence of frames (frame.ts). A request {id, command, ...} gets exactly
 * one final answer {id, ok: true, result} or {id, ok: false, error: {code, sentence}}. A stream sends {id, event, data} before it,
 * and takes {id, input | eof | resize | signal | taken | cancel}. Answers come in the order in which they are ready.
 * What clients can make us hold is bounded: connections, open requests, half frames, unread answers.
 */
import type { Duplex } from "node:stream";
import type { DeviceHandlers, Level } from "./handlers.ts";
import { limited } from "./report-limit.ts";
import { part, refusal, ServerConnection } from "./server-connection.ts";

export type ServerPorts = {
  readonly device: DeviceHandlers;
  /** Asked at each request: provisioning changes it. */
  readonly level: () => Level;
  /** A refusal or malformed input, for the audit log; of a flood only a part. */
  readonly onRefused: (what: { readonly code: string; readonly sentence: string }) => void;
  /** A bug of ours that a request met: the request is refused, the device goes on. */
  readonly onFault?: (error: unknown) => void;
};

export type ServerLimits = {
  readonly connections: number;
  /** Per connection. */
  readonly openRequests: number;
  /** A frame must be complete this long after its first octet. */
  readonly frameMs: number;
  /** All connections together; above, the one that holds most is closed. */
  readonly heldBytes: number;
  /** Where all places are taken, a connection that asked for nothing for so long gives way to a new one. */
  readonly idleMs: number;
};

export const limits: ServerLimits = {
  connections: 64,
  openRequests: 16,
  frameMs: 10_000,
  heldBytes: 16 * 1024 * 1024,
  idleMs: 10_000,
};

export class ControlServer {
  readonly #ports: ServerPorts;
  readonly #limits: ServerLimits;
  readonly #open = new Set<ServerConnection>();

  constructor(ports: ServerPorts, own: Partial<ServerLimits> = {}) {
    this.#ports = { ...ports, onRefused: limited(ports.onRefused) };
    this.#limits = { ...limits, ...own };
  }

  get connections(): number {
    return this.#open.size;
  }

  /** What is held for all clients together. */
  get heldBytes(): number {
    return [...this.#open].reduce((sum, connection) => sum + connection.heldBytes, 0);
  }

  /** Serves one client until it goes. One too many gets an answer with id 0 and is closed. */
  serve(stream: Duplex): void {
    if (this.#open.size >= this.#limits.connections && !this.#makeRoom()) {
      stream.on("error", () => {}); // it is gone before it was told
      const sentence = `cannot serve this connection: there are ${this.#limits.connections} already; try again`;
      return part(stream, refusal(0, "busy", sentence));
    }
    const connection = new ServerConnection(stream, this.#ports, this.#limits, {
      onHeld: () => this.#keepBound(),
      onClosed: () => this.#open.delete(connection),
    });
    this.#open.add(connection);
  }

  closeAll(): void {
    for (const connection of this.#open) connection.close();
  }

  /** True when one gave way that had nothing to do. */
  #makeRoom(): boolean {
    const now = performance.now();
    const idle = [...this.#open]
      .filter((connection) => connection.idleSince !== undefined)
      .sort((a, b) => (a.idleSince ?? 0) - (b.idleSince ?? 0))[0];
    if (idle === undefined || now - (idle.idleSince ?? now) < this.#limits.idleMs) return false;
    this.#open.delete(idle);
    idle.close();
    return true;
  }

  #keepBound(): void {
    while (this.heldBytes > this.#limits.heldBytes) {
      const [largest] = [...this.#open].sort((a, b) => b.heldBytes - a.heldBytes);
      if (!largest) return;
      this.#open.delete(largest);
      largest.drop("it reads too slowly, or sends half frames, while memory is short");
    }
  }
}
