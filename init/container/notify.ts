/**
 * sd_notify(3): what a guest's init says of itself, by datagrams to NOTIFY_SOCKET=/run/host/notify. All of it is a
 * claim: READY=1 moves BOOTING to RUNNING and nothing more, the exit status alone says how the guest ended.
 */
import { closeSync } from "node:fs";
import type { Kernel } from "../kernel.ts";
import { AT_FDCWD, UV_READABLE } from "../linux.ts";

export type Notice = {
  readonly ready: boolean;
  /** STATUS=, cut to 256 characters. */
  readonly status: string | undefined;
  /** X_SYSTEMD_SIGNALS_LEVEL=2: SIGRTMIN+3 is handled from now on. */
  readonly takesHaltSignal: boolean;
};

const datagramBytes = 4096;
/** A guest that floods the socket is read this much, then it waits: its own queue fills, not PID 1's time. */
const datagramsPerTurn = 32;
const pauseMs = 50;

/** Reads one datagram: lines of NAME=value, unknown ones ignored. */
export function parseNotice(data: Uint8Array): Notice {
  const lines = new TextDecoder().decode(data).split("\n");
  const value = (name: string) => lines.find((line) => line.startsWith(`${name}=`))?.slice(name.length + 1);
  return {
    ready: value("READY") === "1",
    status: value("STATUS")?.slice(0, 256),
    takesHaltSignal: Number(value("X_SYSTEMD_SIGNALS_LEVEL") ?? 0) >= 2,
  };
}

export type NotifySocket = Disposable & {
  /** Nothing is believed before the init's pid is known, and then only what it or its uid says. */
  listen(from: { readonly pid: number; readonly uid: number }, onNotice: (notice: Notice) => void): void;
};

/** Binds the socket at `path`; only the guest's root may write to it. */
export function bindNotifySocket(kernel: Kernel, path: string, idBase: number): NotifySocket {
  const fd = kernel.bindDatagram(path);
  let open = true;
  try {
    kernel.fchmodat(AT_FDCWD, path, 0o600);
    kernel.fchownat(AT_FDCWD, path, idBase, idBase, 0);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  let stop = () => {};
  return {
    listen(from, onNotice) {
      const take = () => {
        for (let turn = 0; turn < datagramsPerTurn; turn++) {
          const datagram = kernel.receiveDatagram(fd, datagramBytes);
          if (datagram === undefined) return;
          if (datagram.pid === from.pid && datagram.uid === from.uid) onNotice(parseNotice(datagram.data));
        }
        stop();
        const timer = setTimeout(watch, pauseMs);
        stop = () => clearTimeout(timer);
      };
      const watch = () => {
        const watching = kernel.watchFd(fd, UV_READABLE, take);
        stop = () => watching.close();
      };
      watch();
    },
    [Symbol.dispose]() {
      stop();
      stop = () => {};
      if (open) closeSync(fd);
      open = false;
    },
  };
}
