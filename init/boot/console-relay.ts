/**
 * The machine's console becomes the console of c0: octets both ways. In a production image only what c0 prints is shown; what is typed
 * goes nowhere, since there is nobody to log in.
 */
import { closeSync, constants, openSync } from "node:fs";
import { ReadStream } from "node:tty";
import { coreUuid } from "../container/engine.ts";
import { giveBytes } from "../container/fd-stream.ts";
import { reasonOf } from "../errors.ts";
import type { Running } from "./containers.ts";

/** c0's record may not be there yet: the relay waits for it. */
export function relayConsole({ engine, build, log, kernel }: Running, path = "/dev/console"): Disposable {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK);
  } catch (error) {
    log.warn(`no console to hand to c0: ${reasonOf(error)}`);
    return { [Symbol.dispose]() {} };
  }
  kernel.setNonBlocking(fd, true);
  const keys = new ReadStream(fd);
  keys.on("error", (error) => log.warn(`console: ${error.message}`));
  const pending: Uint8Array[] = [];
  let timer: NodeJS.Timeout | undefined;
  /** A slow line takes what it can; more than this is dropped, the log of c0 has it. */
  const pendingMax = 4096;
  const flush = () => {
    timer = undefined;
    while (pending.length > 0) {
      const first = pending[0] as Uint8Array;
      const count = giveBytes(fd, first);
      if (count === undefined) pending.length = 0;
      else if (count === first.length) pending.shift();
      else {
        pending[0] = first.subarray(count);
        timer = setTimeout(flush, 20);
        return;
      }
    }
  };
  const attach = () => {
    const attachment = engine.attachConsole(coreUuid, (bytes) => {
      if (pending.length < pendingMax) pending.push(Uint8Array.from(bytes));
      if (timer === undefined) flush();
    });
    if (build.development) {
      keys.setRawMode(true);
      keys.on("data", (bytes: Uint8Array) => attachment.write(bytes));
    }
    return attachment;
  };
  const known = engine.list().some((container) => container.uuid === coreUuid);
  let attachment = known ? attach() : undefined;
  if (!known) {
    engine.once("created", ({ uuid }) => {
      if (uuid === coreUuid) attachment = attach();
    });
  }
  return {
    [Symbol.dispose]() {
      attachment?.[Symbol.dispose]();
      keys.setRawMode(false);
      keys.destroy();
      closeSync(fd);
    },
  };
}
