/**
 * Follows the kernel's own ring, /dev/kmsg (Documentation/ABI/testing/dev-kmsg): what only the kernel sees, such as a block that does
 * not verify. Records of user space are passed over, our own log among them.
 */
import { closeSync, constants, openSync, readSync } from "node:fs";
import type { Kernel } from "../kernel.ts";
import { isErrno } from "./kernel-refusal.ts";

const readable = 1;
/** A record is at most this long; a read gives one record. */
const recordBytes = 8192;
/** Per call back, so that a flood of records does not hold everybody else up. */
const batch = 256;

/** Calls back with the text of each record from the ring's oldest on, until it is disposed. Throws the system's error without a ring. */
export function followKernelLog(
  kernel: Pick<Kernel, "watchFd">,
  onText: (text: string) => void,
  path = "/dev/kmsg",
): Disposable {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const buffer = Buffer.alloc(recordBytes);
  const watch = kernel.watchFd(fd, readable, () => {
    for (let count = 0; count < batch; count++) {
      const record = nextRecord(fd, buffer);
      if (record === undefined) return;
      const text = kernelText(record);
      if (text !== undefined) onText(text);
    }
  });
  return {
    [Symbol.dispose]() {
      watch.close();
      closeSync(fd);
    },
  };
}

/** Undefined where there is none now. */
function nextRecord(fd: number, buffer: Buffer): string | undefined {
  try {
    const length = readSync(fd, buffer, 0, buffer.length, null);
    return length === 0 ? undefined : buffer.toString("utf8", 0, length);
  } catch (error) {
    if (isErrno(error, "EPIPE", "EINVAL")) return ""; // overwritten meanwhile, or longer than any: the next one is there
    if (isErrno(error, "EAGAIN")) return undefined;
    throw error;
  }
}

/** "priority,sequence,time,flags;text\n KEY=value": the text where the facility is the kernel's. */
export function kernelText(record: string): string | undefined {
  const match = /^(\d+),\d+,\d+,[^;]*;([^\n]*)/.exec(record);
  return match && Number(match[1]) < 8 ? match[2] : undefined;
}
