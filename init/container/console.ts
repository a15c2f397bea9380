/** The console of a container: a pseudoterminal whose other end is the guest's /dev/console. */
import type { WindowSize } from "../kernel.ts";

/** One who looks at a container's console; it outlives stops and starts of the container. */
export type ConsoleAttachment = Disposable & {
  /** What a person typed. Dropped while nothing runs or when the guest does not read. */
  write(bytes: Uint8Array): void;
  resize(size: WindowSize): void;
};
