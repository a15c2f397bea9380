/** No clock may be earlier than the image that runs: a board without a battery starts in 1970, and no certificate is valid then. */
import type { Kernel } from "../kernel.ts";

export type RaisedClock = {
  readonly raised: boolean;
  /** What the clock said before. */
  readonly fromSeconds: number;
};

/** Sets the clock to `floorSeconds` (the build's time) where it is earlier. Throws where the kernel refuses. */
export function raiseClock(
  kernel: Kernel,
  floorSeconds: number,
  nowMs: () => number = Date.now,
): RaisedClock {
  const fromSeconds = Math.floor(nowMs() / 1000);
  if (fromSeconds >= floorSeconds) return { raised: false, fromSeconds };
  kernel.setClock(BigInt(floorSeconds));
  return { raised: true, fromSeconds };
}
