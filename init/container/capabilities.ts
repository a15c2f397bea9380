/**
 * Which capabilities a guest's root keeps in its user namespace. The reason for each is in docs/capabilities.md.
 * All others leave the bounding set before the guest's first instruction; ambient and inheritable are empty.
 */
import { GimbalError, quoted } from "../errors.ts";

/** linux/capability.h, in order of their numbers. */
export const capabilityNames = [
  "CHOWN",
  "DAC_OVERRIDE",
  "DAC_READ_SEARCH",
  "FOWNER",
  "FSETID",
  "KILL",
  "SETGID",
  "SETUID",
  "SETPCAP",
  "LINUX_IMMUTABLE",
  "NET_BIND_SERVICE",
  "NET_BROADCAST",
  "NET_ADMIN",
  "NET_RAW",
  "IPC_LOCK",
  "IPC_OWNER",
  "SYS_MODULE",
  "SYS_RAWIO",
  "SYS_CHROOT",
  "SYS_PTRACE",
  "SYS_PACCT",
  "SYS_ADMIN",
  "SYS_BOOT",
  "SYS_NICE",
  "SYS_RESOURCE",
  "SYS_TIME",
  "SYS_TTY_CONFIG",
  "MKNOD",
  "LEASE",
  "AUDIT_WRITE",
  "AUDIT_CONTROL",
  "SETFCAP",
  "MAC_OVERRIDE",
  "MAC_ADMIN",
  "SYSLOG",
  "WAKE_ALARM",
  "BLOCK_SUSPEND",
  "AUDIT_READ",
  "PERFMON",
  "BPF",
  "CHECKPOINT_RESTORE",
] as const;

export type Capability = (typeof capabilityNames)[number];

const service: readonly Capability[] = [
  "CHOWN",
  "DAC_OVERRIDE",
  "FOWNER",
  "FSETID",
  "KILL",
  "SETGID",
  "SETUID",
  "SETPCAP",
  "NET_BIND_SERVICE",
  "SYS_CHROOT",
];

const fullOs: readonly Capability[] = [
  ...service,
  "DAC_READ_SEARCH",
  "NET_ADMIN",
  "NET_RAW",
  "SYS_ADMIN",
  "SYS_BOOT",
  "SETFCAP",
  "AUDIT_WRITE",
];

/** c0 runs the device's network besides: it needs nothing more than a guest with an own init. */
const core: readonly Capability[] = fullOs;

export const defaultCapabilities: Record<"service" | "full-os" | "core", readonly Capability[]> = {
  service,
  "full-os": fullOs,
  core,
};

/**
 * Never given, whoever asks: in a user namespace the kernel checks them against the first one, so they do nothing
 * today, and would reach the whole machine if a later kernel thought otherwise.
 */
export const neverGiven: readonly Capability[] = [
  "SYS_MODULE",
  "SYS_RAWIO",
  "SYS_TIME",
  "SYSLOG",
  "MAC_ADMIN",
  "MAC_OVERRIDE",
  "AUDIT_CONTROL",
  "AUDIT_READ",
  "BLOCK_SUSPEND",
  "WAKE_ALARM",
  "SYS_PACCT",
  "BPF",
  "PERFMON",
];

/** Names from a manifest or a config, with or without CAP_; refuses unknown and never-given ones. */
export function parseCapabilities(names: readonly string[]): Capability[] {
  return names.map((text) => {
    const name = capabilityNames.find((known) => known === text.toUpperCase().replace(/^CAP_/, ""));
    if (name === undefined || neverGiven.includes(name)) {
      throw new GimbalError("capability-refused", {
        tried: "give the capability",
        on: quoted(text),
        why:
          name === undefined ? "there is none of that name" : "it is for the whole machine, no guest gets it",
        todo: "see docs/capabilities.md",
      });
    }
    return name;
  });
}

/** One bit per capability, as capset(2) and /proc/PID/status have them. */
export function capabilityMask(capabilities: Iterable<Capability>): bigint {
  let mask = 0n;
  for (const name of capabilities) mask |= 1n << BigInt(capabilityNames.indexOf(name));
  return mask;
}
