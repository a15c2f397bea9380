/** Reading and writing a non-blocking pipe or terminal master, one octet string at a time: nothing is read ahead. */
import { readSync, writeSync } from "node:fs";
import type { Kernel, Watch } from "../kernel.ts";
import { UV_DISCONNECT, UV_READABLE, UV_WRITABLE } from "../linux.ts";

export type Taken =
  | { readonly is: "bytes"; readonly bytes: Uint8Array }
  /** Nothing there now. */
  | { readonly is: "empty" }
  /** Nobody can write any more: end of file of a pipe, EIO of a terminal. */
  | { readonly is: "end" };

const chunkBytes = 16 * 1024;

/** What is there now. The descriptor must be non-blocking. */
export function takeBytes(fd: number, maxBytes: number = chunkBytes): Taken {
  const buffer = new Uint8Array(maxBytes);
  try {
    const count = readSync(fd, buffer);
    return count === 0 ? { is: "end" } : { is: "bytes", bytes: buffer.subarray(0, count) };
  } catch (error) {
    if (hasErrno(error, "EAGAIN", "EINTR")) return { is: "empty" };
    if (hasErrno(error, "EIO")) return { is: "end" };
    throw error;
  }
}

/** How many octets it took: fewer than given when full, undefined when nobody reads any more. */
export function giveBytes(fd: number, bytes: Uint8Array): number | undefined {
  try {
    return writeSync(fd, bytes);
  } catch (error) {
    if (hasErrno(error, "EAGAIN", "EINTR")) return 0;
    if (hasErrno(error, "EPIPE", "EIO")) return undefined;
    throw error;
  }
}

/**
 * Resolves true when one of the descriptors can be read (data or end), false after `timeoutMs` or when `until` fires.
 * No watch stays behind.
 */
export function readable(
  kernel: Kernel,
  fds: readonly number[],
  until: { readonly timeoutMs?: number; readonly signal?: AbortSignal },
): Promise<boolean> {
  return ready(kernel, fds, UV_READABLE | UV_DISCONNECT, until);
}

/** The same for writing to one descriptor. */
export function writable(kernel: Kernel, fd: number, signal: AbortSignal): Promise<boolean> {
  return ready(kernel, [fd], UV_WRITABLE | UV_DISCONNECT, { signal });
}

function ready(
  kernel: Kernel,
  fds: readonly number[],
  events: number,
  { timeoutMs, signal }: { readonly timeoutMs?: number; readonly signal?: AbortSignal },
): Promise<boolean> {
  if (signal?.aborted) return Promise.resolve(false);
  return new Promise((resolve, reject) => {
    const watches: Watch[] = [];
    let timer: NodeJS.Timeout | undefined;
    const clean = () => {
      for (const watch of watches) watch.close();
      clearTimeout(timer);
      signal?.removeEventListener("abort", aborted);
    };
    const end = (is: boolean) => {
      clean();
      resolve(is);
    };
    const aborted = () => end(false);
    signal?.addEventListener("abort", aborted, { once: true });
    if (timeoutMs !== undefined) timer = setTimeout(() => end(false), timeoutMs);
    try {
      for (const fd of fds) watches.push(kernel.watchFd(fd, events, () => end(true)));
    } catch (error) {
      clean();
      reject(error);
    }
  });
}

export function hasErrno(error: unknown, ...codes: string[]): boolean {
  return error instanceof Error && "code" in error && codes.includes(String(error.code));
}
