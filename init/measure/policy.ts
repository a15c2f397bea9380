/** The build host's half of sealing: what a release key signs so that devices open their disks under a new UKI. */
import type { KeyObject } from "node:crypto";

/**
 * Signs PolicyPCR(11 as given, 12 and 13 zero), ref "gimbal-boot".
 * @param privateKey P-256, PEM (PKCS#8) or KeyObject
 * @param pcr11 from `predictPcr11(uki, ["enter-initrd"])`; the section .pcrsig itself is not measured
 * @returns the JSON for section .pcrsig
 */
export function signPcrPolicy(_privateKey: string | KeyObject, _pcr11: Uint8Array): string {
  throw new Error("not built yet");
}
