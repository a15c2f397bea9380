/** `logs`, and `logs -f`: the console log of a container, then what comes. */
import type { CborValue } from "../bytes/cbor.ts";
import { ByteQueue } from "./byte-queue.ts";
import type { Channel, OpenStream } from "./channel.ts";
import type { LogStream } from "./handlers.ts";

/** A follower that lags by more than this loses what comes meanwhile, and is told how much. */
export const followBytes = 1024 * 1024;

export function logStream(log: LogStream, channel: Channel, follow: boolean): OpenStream {
  const queue = new ByteQueue();
  return {
    take: () => "sends input to a log",
    get heldBytes() {
      return queue.lengthBytes;
    },
    ended: send(log, channel, follow ? queue : undefined),
  };
}

async function send(log: LogStream, channel: Channel, queue: ByteQueue | undefined): Promise<CborValue> {
  let lostBytes = 0;
  let wake = () => {};
  channel.gone.addEventListener("abort", () => wake(), { once: true });
  // Before the first await: nothing comes between the log's octets and those that follow.
  using _following = queue
    ? log.follow((bytes) => {
        if (lostBytes > 0 || queue.lengthBytes + bytes.length > followBytes) lostBytes += bytes.length;
        else queue.push(bytes);
        wake();
      })
    : undefined;
  const result = new Map<string, CborValue>([["dropped_lines", log.droppedLines]]);
  if (!(await channel.octets("stdout", log.bytes)) || !queue) return result;
  for (;;) {
    for (let next = queue.shift(); next; next = queue.shift()) {
      if (!(await channel.octets("stdout", next))) return result;
    }
    if (lostBytes > 0) {
      if (!(await channel.event("lost", lostBytes))) return result;
      lostBytes = 0;
    } else {
      await new Promise<void>((resolve) => {
        wake = resolve;
        if (channel.gone.aborted) resolve();
      });
      if (channel.gone.aborted) return result;
    }
  }
}
