/**
 * The IMA policy: what the kernel measures into PCR 10. Written once, before the first module is loaded; afterwards the kernel
 * takes no other. Not `ima_policy=tcb`: that skips the initramfs and everything on it (facts of the x86 boot, section 5).
 */
import { closeSync, constants, openSync, writeSync } from "node:fs";
import { isErrno, kernelReason } from "./kernel-refusal.ts";

/** Modules, firmware, policies, whatever would start another kernel, and device-mapper's tables with their verity roots. */
export const imaRules: readonly string[] = [
  "measure func=MODULE_CHECK",
  "measure func=FIRMWARE_CHECK",
  "measure func=POLICY_CHECK",
  "measure func=KEXEC_KERNEL_CHECK",
  "measure func=KEXEC_INITRAMFS_CHECK",
  "measure func=KEXEC_CMDLINE",
  "measure func=CRITICAL_DATA",
];

export type ImaPolicy =
  | { readonly is: "written" }
  /** The kernel has no IMA, or securityfs is not mounted. */
  | { readonly is: "absent" }
  | { readonly is: "refused"; readonly why: string };

/** Hands the rules to the kernel in one write. */
export function writeImaPolicy(
  rules: readonly string[] = imaRules,
  path = "/sys/kernel/security/ima/policy",
): ImaPolicy {
  try {
    writeRules(openSync(path, constants.O_WRONLY), rules); // a kernel may refuse to have it read
    return { is: "written" };
  } catch (error) {
    return isErrno(error, "ENOENT") ? { is: "absent" } : { is: "refused", why: kernelReason(error) };
  }
}

/** The policy takes effect when the file is closed: an error may come only there. */
function writeRules(fd: number, rules: readonly string[]): void {
  try {
    // The kernel takes one rule per write(2) and answers with a short count.
    for (let rest: Uint8Array = Buffer.from(`${rules.join("\n")}\n`); rest.length > 0; ) {
      rest = rest.subarray(writeSync(fd, rest));
    }
  } finally {
    closeSync(fd);
  }
}
