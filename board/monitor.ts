/** QEMU's monitor protocol (QMP) over its unix socket: commands, and the events that say how a machine ended. */
import { connect, type Socket } from "node:net";

/** Why a machine stopped, in QEMU's words: "guest-shutdown" is a power-off in order, "guest-reset" a reboot. */
export type Shutdown = { readonly guest: boolean; readonly reason: string };

export class Monitor {
  readonly #socket: Socket;
  readonly #waiting: ((answer: unknown) => void)[] = [];
  #received = "";
  /** The last SHUTDOWN event; undefined while the machine runs. */
  shutdown: Shutdown | undefined;
  /** RESET events that the guest caused: reboots, panics, a bite of the watchdog. */
  guestResets = 0;
  watchdogBites = 0;
  /** QEMU closed its side: no event will come any more. */
  readonly closed: Promise<void>;
  readonly #resetWaiters: (() => void)[] = [];

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding("utf8");
    socket.on("data", (text: string) => this.#take(text));
    socket.on("error", () => {}); // QEMU ended: its exit status says more
    this.closed = new Promise((resolve) => socket.once("close", () => resolve()));
  }

  /** Resolves when the guest next resets the machine. */
  nextReset(): Promise<void> {
    return new Promise((resolve) => this.#resetWaiters.push(resolve));
  }

  static async open(path: string): Promise<Monitor> {
    const socket = connect(path);
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", () => resolve());
      socket.once("error", reject);
    });
    const monitor = new Monitor(socket);
    await monitor.command("qmp_capabilities");
    return monitor;
  }

  /** Sends one command and returns what QEMU answers: {return: ...} or {error: ...}. Undefined when QEMU is gone. */
  command(execute: string, args?: Readonly<Record<string, unknown>>): Promise<unknown> {
    return new Promise((resolve) => {
      if (this.#socket.destroyed) return resolve(undefined);
      this.#waiting.push(resolve);
      this.#socket.once("close", () => resolve(undefined));
      this.#socket.write(`${JSON.stringify({ execute, ...(args ? { arguments: args } : {}) })}\n`);
    });
  }

  close(): void {
    this.#socket.destroy();
  }

  #take(text: string): void {
    this.#received += text;
    const lines = this.#received.split("\n");
    this.#received = lines.pop() ?? "";
    for (const line of lines.filter((each) => each.trim() !== "")) this.#handle(JSON.parse(line));
  }

  #handle(message: { QMP?: unknown; event?: string; data?: { guest?: boolean; reason?: string } }): void {
    if (message.QMP !== undefined) return; // the greeting
    if (message.event === undefined) {
      this.#waiting.shift()?.(message);
      return;
    }
    const { guest = false, reason = "unknown" } = message.data ?? {};
    if (message.event === "SHUTDOWN") this.shutdown = { guest, reason };
    if (message.event === "RESET" && guest) {
      this.guestResets++;
      for (const wake of this.#resetWaiters.splice(0)) wake();
    }
    if (message.event === "WATCHDOG") this.watchdogBites++;
  }
}
