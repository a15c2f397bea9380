/** Where the control protocol is served: a socket that c0 sees, and in a development image a virtio port of the virtual machine. */
import { closeSync, constants, openSync, readdirSync, readFileSync, readSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { dirname, join } from "node:path";
import { Duplex } from "node:stream";
import { giveBytes, hasErrno } from "../container/fd-stream.ts";
import { idBaseOf } from "../container/ids.ts";
import type { ControlServer } from "../control/server.ts";
import { reasonOf } from "../errors.ts";
import type { Kernel, Watch } from "../kernel.ts";
import { AT_FDCWD, UV_DISCONNECT, UV_READABLE, UV_WRITABLE } from "../linux.ts";
import type { Log } from "../machine/kmsg.ts";

/** Only c0's root and its group `group` may connect. */
export async function serveSocket(
  kernel: Kernel,
  server: ControlServer,
  path: string,
  group: number,
): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o755 });
  await rm(path, { force: true });
  const listener = createServer({ allowHalfOpen: false }, (socket) => server.serve(socket));
  await new Promise<void>((resolve, reject) => {
    listener.once("error", reject);
    listener.listen(path, () => resolve());
  });
  const base = idBaseOf(0);
  kernel.fchownat(AT_FDCWD, path, base, base + group, 0);
  kernel.fchmodat(AT_FDCWD, path, 0o660);
}

const portName = "org.gimbal.control";
const reopenMs = 500;

/** Serves one client after the other on the virtio port; without such a port nothing is done. */
export function serveVirtioPort(kernel: Kernel, server: ControlServer, log: Log): void {
  const device = findPort();
  if (device === undefined) return;
  const open = () => {
    try {
      const port = new VirtioPort(kernel, device);
      server.serve(port);
      port.once("close", () => setTimeout(open, reopenMs));
    } catch (error) {
      log.info(`virtio port: ${reasonOf(error)}`);
      setTimeout(open, reopenMs);
    }
  };
  open();
}

function findPort(folder = "/sys/class/virtio-ports"): string | undefined {
  try {
    const name = readdirSync(folder).find(
      (port) => readFileSync(join(folder, port, "name"), "utf8").trim() === portName,
    );
    return name && join("/dev", name);
  } catch (error) {
    if (hasErrno(error, "ENOENT")) return undefined;
    throw error;
  }
}

/** A port of the virtual machine as a stream. It ends when the host closes its side. */
class VirtioPort extends Duplex {
  readonly #kernel: Kernel;
  readonly #fd: number;
  #readWatch: Watch | undefined;
  #retry: NodeJS.Timeout | undefined;
  #connected = false;

  constructor(kernel: Kernel, path: string) {
    super({ allowHalfOpen: false });
    this.#kernel = kernel;
    this.#fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  }

  override _read(): void {
    if (this.#readWatch || this.#retry || this.destroyed) return;
    this.#readWatch = this.#kernel.watchFd(this.#fd, UV_READABLE | UV_DISCONNECT, () => this.#take());
  }

  #take(): void {
    this.#stopReading();
    const buffer = Buffer.alloc(64 * 1024);
    try {
      const count = readSync(this.#fd, buffer);
      if (count > 0) {
        this.#connected = true;
        this.push(buffer.subarray(0, count));
        return;
      }
      // Nobody at the host's side: it never was, or it has gone.
      if (this.#connected) return void this.push(null);
      this.#later();
    } catch (error) {
      if (hasErrno(error, "EAGAIN")) this.#later();
      else this.destroy(error instanceof Error ? error : undefined);
    }
  }

  #later(): void {
    this.#retry = setTimeout(() => {
      this.#retry = undefined;
      this._read();
    }, 50);
  }

  #stopReading(): void {
    this.#readWatch?.close();
    this.#readWatch = undefined;
  }

  override _write(chunk: Uint8Array, _: BufferEncoding, done: (error?: Error | null) => void): void {
    let at = 0;
    const go = () => {
      try {
        while (at < chunk.length) {
          const count = giveBytes(this.#fd, chunk.subarray(at));
          if (count === undefined) return done(new Error("the host closed its side"));
          if (count === 0) return wait();
          at += count;
        }
        done();
      } catch (error) {
        done(error instanceof Error ? error : new Error(String(error)));
      }
    };
    const wait = () => {
      if (this.destroyed) return done(new Error("the port was closed"));
      const watch = this.#kernel.watchFd(this.#fd, UV_WRITABLE, () => {
        watch.close();
        go();
      });
    };
    go();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#stopReading();
    clearTimeout(this.#retry);
    closeSync(this.#fd);
    done(error);
  }
}
