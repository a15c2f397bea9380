/** Keeps a client that is refused a thousand times a second from filling the log and the audit: a burst, then a few per second. */
import type { ServerPorts } from "./server.ts";

type Refusal = Parameters<ServerPorts["onRefused"]>[0];

const burst = 60;
const perSecond = 2;

/** Passes refusals on; how many were left out stands in the next one. */
export function limited(
  onRefused: ServerPorts["onRefused"],
  now = () => performance.now(),
): ServerPorts["onRefused"] {
  let allowance = burst;
  let last = now();
  let leftOut = 0;
  return ({ code, sentence }: Refusal) => {
    const at = now();
    allowance = Math.min(burst, allowance + ((at - last) / 1000) * perSecond);
    last = at;
    if (allowance < 1) {
      leftOut++;
      return;
    }
    allowance--;
    const more = leftOut > 0 ? ` (and ${leftOut} refusals before that are not listed)` : "";
    leftOut = 0;
    onRefused({ code, sentence: sentence + more });
  };
}
