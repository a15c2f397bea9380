/** The phases of a boot as words in PCR 11. The stub adds none, so init extends each itself. */
import type { EventLog } from "./log.ts";

/** "enter-initrd" before unsealing; "leave-initrd" right after: from then on nothing unseals until the next boot. */
export type Phase = "enter-initrd" | "leave-initrd";

/** Extends PCR 11 with the digest of the phase's word, log first. */
export async function enterPhase(log: EventLog, phase: Phase): Promise<void> {
  await log.append({ pcr: 11, type: "phase", data: new TextEncoder().encode(phase) });
}
