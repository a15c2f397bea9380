/**
 * A container's config: what its owner wrote, checked field by field, with a finite default for each limit.
 * The form is a CBOR map with GyroidOS' field names where it has them; docs/containers.md explains each field.
 */
import { bool, listOf, oneOf, optional, parse, record, text, uint } from "../bytes/shape.ts";
import { GimbalError, quoted } from "../errors.ts";
import { type Capability, parseCapabilities } from "./capabilities.ts";
import { type DeviceRule, parseDeviceRule } from "./devices.ts";
import { type ProfileChange, type ProfileName, profileOf } from "./seccomp/profile.ts";
import { knownNames } from "./seccomp/table.ts";

/** Sizes in MB are units of 2^20 octets, as in GyroidOS. */
const configShape = record({
  name: text({ max: 32 }),
  guest_os: text({ max: 64 }),
  guestos_version: optional(uint({ max: Number.MAX_SAFE_INTEGER })),
  allow_autostart: optional(bool()),
  ram_limit: optional(uint({ max: 1_048_576 })),
  pids_limit: optional(uint({ max: 1_000_000 })),
  cpu_weight: optional(uint({ max: 10_000 })),
  cpu_percent: optional(uint({ max: 100_000 })),
  assign_cpus: optional(text({ max: 128 })),
  tmpfs_size: optional(uint({ max: 1_048_576 })),
  log_size: optional(uint({ max: 64 })),
  init_env: optional(listOf(text({ max: 4096 }), 256)),
  dns_server: optional(text({ max: 64 })),
  allow_dev: optional(listOf(text({ max: 32 }), 64)),
  add_capabilities: optional(listOf(text({ max: 32 }), 41)),
  drop_capabilities: optional(listOf(text({ max: 32 }), 41)),
  seccomp_profile: optional(oneOf("service", "full-os")),
  seccomp_allow: optional(listOf(text({ max: 32 }), 128)),
  seccomp_forbid: optional(listOf(text({ max: 32 }), 128)),
  mask_proc: optional(bool()),
  start_timeout: optional(uint({ max: 3600 })),
  stop_timeout: optional(uint({ max: 3600 })),
});

export type ContainerConfig = {
  readonly name: string;
  readonly guestOs: string;
  /** The start refuses an older GuestOS. */
  readonly minimumVersion: number;
  readonly autostart: boolean;
  /** undefined: what the GuestOS' manifest suggests. */
  readonly memoryMb: number | undefined;
  readonly pids: number | undefined;
  /** cgroup v2 cpu.weight, 100 is everybody's share. */
  readonly cpuWeight: number;
  /** Of one CPU: 150 is one and a half; undefined: no quota. */
  readonly cpuPercent: number | undefined;
  /** "0-1,3", or undefined for all. */
  readonly cpus: string | undefined;
  /** Of the overlay's upper layer; undefined: half the memory limit. */
  readonly tmpfsMb: number | undefined;
  readonly logMb: number;
  /** "NAME=value". */
  readonly env: readonly string[];
  readonly dnsServer: string | undefined;
  readonly devices: readonly DeviceRule[];
  readonly addCapabilities: readonly Capability[];
  readonly dropCapabilities: readonly Capability[];
  /** undefined: what the manifest says. */
  readonly profile: ProfileName | undefined;
  readonly seccomp: ProfileChange;
  /** undefined: on for services, off for guests with an own init. */
  readonly maskProc: boolean | undefined;
  readonly startTimeoutMs: number;
  readonly stopTimeoutMs: number;
};

/** Finite whatever the config says; a manifest's suggestion goes before memoryMb. */
export const defaults = {
  memoryMb: 512,
  pids: { service: 512, "full-os": 4096 },
  cpuWeight: 100,
  logMb: 4,
  startTimeoutMs: 30_000,
  stopTimeoutMs: 45_000,
} as const;

/**
 * Checks a decoded CBOR map.
 * @throws {GimbalError} "config-refused", naming the field; "capability-refused"
 */
export function parseConfig(value: unknown): ContainerConfig {
  const parsed = parse(configShape, value);
  if (parsed.is === "refused") throw refusal(parsed.path === "" ? "the config" : parsed.path, parsed.why);
  const raw = parsed.value;
  checkName(raw.name);
  if (!/^[a-z0-9][a-z0-9._-]*$/i.test(raw.guest_os))
    throw refusal("guest_os", "letters, digits, . _ and - only");
  return {
    name: raw.name,
    guestOs: raw.guest_os,
    minimumVersion: raw.guestos_version ?? 0,
    autostart: raw.allow_autostart ?? false,
    memoryMb: atLeast(16, "ram_limit", raw.ram_limit),
    pids: atLeast(4, "pids_limit", raw.pids_limit),
    cpuWeight: atLeast(1, "cpu_weight", raw.cpu_weight) ?? defaults.cpuWeight,
    cpuPercent: atLeast(1, "cpu_percent", raw.cpu_percent),
    cpus: raw.assign_cpus === undefined ? undefined : cpuList(raw.assign_cpus),
    tmpfsMb: atLeast(1, "tmpfs_size", raw.tmpfs_size),
    logMb: atLeast(1, "log_size", raw.log_size) ?? defaults.logMb,
    env: (raw.init_env ?? []).map(environmentEntry),
    dnsServer: raw.dns_server === undefined ? undefined : address(raw.dns_server),
    devices: (raw.allow_dev ?? []).map(parseDeviceRule),
    addCapabilities: parseCapabilities(raw.add_capabilities ?? []),
    dropCapabilities: parseCapabilities(raw.drop_capabilities ?? []),
    profile: raw.seccomp_profile,
    seccomp: {
      allow: systemCalls("seccomp_allow", raw.seccomp_allow ?? []),
      forbid: systemCalls("seccomp_forbid", raw.seccomp_forbid ?? []),
    },
    maskProc: raw.mask_proc,
    startTimeoutMs: seconds("start_timeout", raw.start_timeout) ?? defaults.startTimeoutMs,
    stopTimeoutMs: seconds("stop_timeout", raw.stop_timeout) ?? defaults.stopTimeoutMs,
  };
}

export const nameRule = "1 to 32 of a-z, 0-9 and -, a letter or digit first and last, not the form of a uuid";

/** A name is also the guest's hostname and what people type, so only plain ones (B65). */
export function checkName(name: string): void {
  if (/^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/.test(name) && !isUuid(name)) return;
  throw new GimbalError("config-refused", {
    tried: "name a container",
    on: quoted(name),
    why: "the name breaks the rule",
    todo: nameRule,
  });
}

export const isUuid = (text: string): boolean =>
  /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/.test(text);

function refusal(field: string, why: string): GimbalError {
  return new GimbalError("config-refused", {
    tried: "take the container config, field",
    on: quoted(field),
    why,
    todo: "see docs/containers.md",
  });
}

function atLeast(least: number, field: string, value: number | undefined): number | undefined {
  if (value !== undefined && value < least) throw refusal(field, `${value} is below ${least}`);
  return value;
}

const seconds = (field: string, value: number | undefined) => {
  const checked = atLeast(1, field, value);
  return checked === undefined ? undefined : checked * 1000;
};

/** The kernel's list format, and no more of it than it needs: "0", "0-3", "0,2-3". */
function cpuList(text: string): string {
  if (!/^\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*$/.test(text))
    throw refusal("assign_cpus", 'not like "0-1,3"');
  return text;
}

/** What the engine sets itself cannot be set by a config: a guest would misread where it runs. */
const ownVariables = ["container", "container_uuid", "NOTIFY_SOCKET"];

function environmentEntry(entry: string): string {
  const [, name] = /^([A-Za-z_][A-Za-z0-9_]*)=/.exec(entry) ?? [];
  if (name === undefined || entry.includes("\0"))
    throw refusal("init_env", `${quoted(entry)} is not NAME=value`);
  if (ownVariables.includes(name)) throw refusal("init_env", `${name} is set by the engine`);
  return entry;
}

function address(text: string): string {
  if (!/^[0-9a-fA-F.:]{2,45}$/.test(text)) throw refusal("dns_server", "not an IP address");
  return text;
}

function systemCalls(field: string, names: readonly string[]): readonly string[] {
  const known = knownNames();
  const odd = names.find((name) => !known.has(name));
  if (odd !== undefined) throw refusal(field, `${quoted(odd)} is no system call`);
  const shaped = profileOf("service");
  const ruled =
    field === "seccomp_allow" ? names.find((name) => typeof shaped.get(name) === "object") : undefined;
  // clone may be widened: that is what full-os does. The others guard terminals and the hypervisor.
  if (ruled !== undefined && ruled !== "clone")
    throw refusal(field, `${ruled} is only allowed by its arguments`);
  return names;
}
