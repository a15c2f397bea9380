/** What systemd's stub measures of a UKI into PCR 11, computed from the file alone. */
import type { Phase } from "./phases.ts";

/**
 * PCR 11 (SHA-256) after the stub measured `uki` and init extended `phases`. Throws "bad-argument" where the file is no UKI.
 * @param uki the whole file, signed or not
 */
export function predictPcr11(_uki: Uint8Array, _phases: readonly Phase[]): Uint8Array {
  throw new Error("not built yet");
}
