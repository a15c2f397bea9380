/** What the firmware and the kernel say about Secure Boot, lockdown and module signatures. Shown, and demanded by boot.ts. */
import { readFileSync } from "node:fs";
import { join } from "node:path";

export type SecureBoot = {
  readonly firmware: "uefi" | "none";
  /** The variable SecureBoot is 1. */
  readonly secureBoot: boolean;
  /** The firmware takes any keys now. */
  readonly setupMode: boolean;
  readonly lockdown: "none" | "integrity" | "confidentiality" | "absent";
  /** The kernel takes only signed modules. */
  readonly moduleSignatures: boolean;
};

const globalVariable = "8be4df61-93ca-11d2-aa0d-00e098032b8c"; // EFI_GLOBAL_VARIABLE, UEFI 2.10, section 3.3

/** Reads sysfs below `sys`; efivarfs must be mounted. What cannot be read counts as the unsafe value. */
export function readSecureBoot(sys = "/sys"): SecureBoot {
  const variable = (name: string) =>
    parseEfiBoolean(octetsOf(join(sys, "firmware/efi/efivars", `${name}-${globalVariable}`)));
  const secureBoot = variable("SecureBoot");
  return {
    firmware: secureBoot === undefined ? "none" : "uefi",
    secureBoot: secureBoot ?? false,
    setupMode: variable("SetupMode") ?? false,
    lockdown: parseLockdown(textOf(join(sys, "kernel/security/lockdown"))),
    moduleSignatures: textOf(join(sys, "module/module/parameters/sig_enforce"))?.trim() === "Y",
  };
}

/** A variable's file: four octets of attributes, then the value, here one octet. */
export function parseEfiBoolean(octets: Uint8Array | undefined): boolean | undefined {
  return octets?.length === 5 ? octets[4] === 1 : undefined;
}

/** "none [integrity] confidentiality": the one in brackets is in force. */
export function parseLockdown(text: string | undefined): SecureBoot["lockdown"] {
  const word = /\[([a-z]+)\]/.exec(text ?? "")?.[1];
  return word === "none" || word === "integrity" || word === "confidentiality" ? word : "absent";
}

function octetsOf(path: string): Uint8Array | undefined {
  try {
    return readFileSync(path);
  } catch {
    return undefined; // absent: no UEFI, or no such variable
  }
}

const textOf = (path: string): string | undefined => {
  const octets = octetsOf(path);
  return octets === undefined ? undefined : Buffer.from(octets).toString("latin1");
};
