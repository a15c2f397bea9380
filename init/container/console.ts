/** The console of a container: a pseudoterminal whose other end is the guest's /dev/console. */
import { closeSync, fchmodSync } from "node:fs";
import type { Kernel, WindowSize } from "../kernel.ts";
import {
  AT_EMPTY_PATH,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  OPEN_TREE_CLONE,
  UV_READABLE,
} from "../linux.ts";
import { giveBytes, takeBytes } from "./fd-stream.ts";
import type { ConsoleLog } from "./logs.ts";

/** One who looks at a container's console; it outlives stops and starts of the container. */
export type ConsoleAttachment = Disposable & {
  /** What a person typed. Dropped while nothing runs or when the guest does not read. */
  write(bytes: Uint8Array): void;
  resize(size: WindowSize): void;
};

/** Read per turn of the event loop, and the pause after a full turn: a guest that floods gets 3 MB/s, not PID 1. */
const turnBytes = 64 * 1024;
const pauseMs = 20;

/** A pty for one start. `mount` is the terminal as a detached mount for /dev/console; both belong to the caller. */
export type ConsolePty = Disposable & {
  readonly master: number;
  readonly slave: number;
  readonly mount: number;
};

export function openConsole(kernel: Kernel, idBase: number): ConsolePty {
  using undo = new DisposableStack();
  const { master, slave } = kernel.openPty();
  undo.defer(() => closeSync(master));
  undo.defer(() => closeSync(slave));
  kernel.setNonBlocking(master, true);
  const ttyGroup = 5; // what devpts' gid=5 means in every common system
  kernel.fchownat(slave, "", idBase, idBase + ttyGroup, AT_EMPTY_PATH);
  fchmodSync(slave, 0o620);
  const mount = kernel.openTree(slave, "", OPEN_TREE_CLONE | AT_EMPTY_PATH);
  undo.defer(() => closeSync(mount));
  kernel.mountSetattr(mount, "", AT_EMPTY_PATH, { set: MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC });
  const owned = undo.move();
  return { master, slave, mount, [Symbol.dispose]: () => owned.dispose() };
}

/** Of a container, for as long as it is known: its log, who looks, and the pty of the present guest. */
export class Console {
  readonly log: ConsoleLog;
  readonly #kernel: Kernel;
  #master: number | undefined;
  #size: WindowSize = { rows: 24, columns: 80 };

  constructor(kernel: Kernel, log: ConsoleLog) {
    this.#kernel = kernel;
    this.log = log;
  }

  /** Takes over reading of the pty; disposing it reads what is left. The descriptor stays the caller's. */
  connect(master: number): Disposable {
    this.#master = master;
    this.#kernel.setWindowSize(master, this.#size);
    let timer: NodeJS.Timeout | undefined;
    let watch = this.#watch(master, onFull);
    const self = this;
    function onFull() {
      watch.close();
      timer = setTimeout(() => {
        watch = self.#watch(master, onFull);
      }, pauseMs);
    }
    return {
      [Symbol.dispose]: () => {
        clearTimeout(timer);
        watch.close();
        this.#take(master);
        if (this.#master === master) this.#master = undefined;
      },
    };
  }

  attach(onOutput: (bytes: Uint8Array) => void): ConsoleAttachment {
    const following = this.log.follow(onOutput);
    return {
      write: (bytes) => {
        if (this.#master !== undefined) giveBytes(this.#master, bytes);
      },
      resize: (size) => {
        this.#size = size;
        if (this.#master !== undefined) this.#kernel.setWindowSize(this.#master, size);
      },
      [Symbol.dispose]: () => following[Symbol.dispose](),
    };
  }

  #watch(master: number, onFull: () => void) {
    return this.#kernel.watchFd(master, UV_READABLE, () => {
      if (this.#take(master) >= turnBytes) onFull();
    });
  }

  #take(master: number): number {
    let taken = 0;
    while (taken < turnBytes) {
      const next = takeBytes(master);
      if (next.is !== "bytes") break;
      taken += next.bytes.length;
      this.log.append(next.bytes);
    }
    return taken;
  }
}
