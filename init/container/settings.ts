/** Config and manifest -> what one start uses. The manifest asks, the config decides, and the rest is finite. */
import { constants } from "node:os";
import { GimbalError, quoted } from "../errors.ts";
import { defaultPath } from "./ambient.ts";
import { type Capability, defaultCapabilities, parseCapabilities } from "./capabilities.ts";
import type { Limits } from "./cgroup.ts";
import { type ContainerConfig, defaults } from "./config.ts";
import { type DeviceRule, defaultRules, mergeRules, parseDeviceRule } from "./devices.ts";
import { SIGHALT } from "./guest.ts";
import type { ManifestView } from "./ports.ts";
import type { ProfileName } from "./seccomp/profile.ts";

export type Settings = {
  readonly profile: ProfileName;
  readonly limits: Limits;
  readonly tmpfsBytes: number;
  readonly capabilities: readonly Capability[];
  readonly noNewPrivs: boolean;
  readonly devices: readonly DeviceRule[];
  readonly maskProc: boolean;
  readonly notify: boolean;
  /** What asks its init to end; undefined: as the profile and the init itself have it. */
  readonly stopSignal: number | undefined;
  readonly init: { readonly path: string; readonly argv: readonly string[]; readonly env: readonly string[] };
};

const mb = 2 ** 20;

export type Identity = { readonly uuid: string; readonly isCore: boolean };

export function settingsOf(config: ContainerConfig, manifest: ManifestView, who: Identity): Settings {
  const profile = config.profile ?? manifest.profile;
  const memoryMb = config.memoryMb ?? manifest.defaultMemoryMb ?? defaults.memoryMb;
  if (manifest.minimumMemoryMb !== undefined && memoryMb < manifest.minimumMemoryMb) {
    throw new GimbalError("config-refused", {
      tried: "start",
      on: quoted(config.name),
      why: `its ram_limit is ${memoryMb} MB, and ${quoted(manifest.name)} needs ${manifest.minimumMemoryMb} MB`,
      todo: "raise ram_limit in its config",
    });
  }
  const base = defaultCapabilities[who.isCore ? "core" : profile];
  const wanted = new Set([...base, ...parseCapabilities(manifest.capabilities), ...config.addCapabilities]);
  for (const name of config.dropCapabilities) wanted.delete(name);
  const memoryBytes = memoryMb * mb;
  const tmpfsMb = config.tmpfsMb ?? manifest.tmpfsMb;
  return {
    profile,
    limits: {
      memoryBytes,
      pids: config.pids ?? defaults.pids[profile],
      cpuWeight: config.cpuWeight,
      cpuPercent: config.cpuPercent,
      cpus: config.cpus,
      oomGroup: profile === "service",
    },
    tmpfsBytes: tmpfsMb === undefined ? memoryBytes / 2 : tmpfsMb * mb,
    capabilities: [...wanted],
    noNewPrivs: profile === "service" && !manifest.setuid,
    devices: mergeRules([...defaultRules, ...manifest.devices.map(parseDeviceRule), ...config.devices]),
    maskProc: config.maskProc ?? (profile === "service" && !who.isCore),
    notify: manifest.notify,
    stopSignal: manifest.stopSignal === undefined ? undefined : signalNumber(manifest.stopSignal),
    init: {
      path: manifest.initPath,
      argv: [manifest.initPath, ...manifest.initParam],
      env: environmentOf(config, manifest, who),
    },
  };
}

/** "SIGTERM" and the like by their number, and SIGRTMIN+3 of systemd's container interface. */
function signalNumber(name: string): number {
  const number =
    name === "SIGRTMIN+3"
      ? SIGHALT
      : Object.entries(constants.signals).find(([known]) => known === name)?.[1];
  if (number !== undefined) return number;
  throw new GimbalError("bad-argument", {
    tried: "stop by the signal",
    on: quoted(name),
    why: "there is none of that name",
  });
}

/** Later entries win: defaults, the GuestOS' own, the config's; what tells the guest where it is comes last. */
function environmentOf(
  config: ContainerConfig,
  manifest: ManifestView,
  { uuid, isCore }: Identity,
): string[] {
  const entries = [
    `PATH=${defaultPath}`,
    "HOME=/root",
    "TERM=linux",
    ...manifest.initEnv,
    ...config.env,
    "container=gimbal",
    // c0's is the null uuid, which is no machine-id.
    ...(isCore ? [] : [`container_uuid=${uuid.replaceAll("-", "")}`]),
    ...(manifest.notify ? ["NOTIFY_SOCKET=/run/host/notify"] : []),
  ];
  const byName = new Map(entries.map((entry) => [entry.slice(0, entry.indexOf("=")), entry]));
  return [...byName.values()];
}
