/** The phases of a boot as words in PCR 11. The stub adds none, so init extends each itself. */
import { hashOf } from "../tpm/crypto.ts";
import type { EventLog } from "./log.ts";

/** "enter-initrd" before unsealing; "leave-initrd" right after: from then on nothing unseals until the next boot. */
export type Phase = "enter-initrd" | "leave-initrd";

export const phasePcr = 11;

const word = (phase: Phase) => new TextEncoder().encode(phase);

/** What a phase extends PCR 11 with: the SHA-256 of its word, without a NUL. */
export function phaseDigest(phase: Phase): Uint8Array {
  return hashOf("sha256", word(phase));
}

/** Extends PCR 11 with the digest of the phase's word, log first. */
export async function enterPhase(log: EventLog, phase: Phase): Promise<void> {
  await log.append({ pcr: phasePcr, type: "phase", data: word(phase) });
}
