/** What others see of a container: its state, how it ended, and the events that tell of a change. */

/** The names GyroidOS users know (DESIGN section 6). */
export const stateNames = [
  "STOPPED",
  "STARTING",
  "BOOTING",
  "RUNNING",
  "FREEZING",
  "FROZEN",
  "SHUTTING_DOWN",
  "REBOOTING",
  "SETUP",
  "ZOMBIE",
] as const;

export type StateName = (typeof stateNames)[number];

/** How a container's init ended. `oom` goes first: it explains the signal that follows. */
export type ExitReport = {
  readonly why: "exited" | "killed" | "poweroff" | "reboot" | "oom" | "start-failed";
  /** Exit status of init, or 128 + signal. */
  readonly status: number;
  /** A sentence for a person: who ended it and how, or why the start failed. */
  readonly sentence: string;
  readonly atMs: number;
};

export type ContainerStatus = {
  readonly uuid: string;
  readonly name: string;
  readonly state: StateName;
  readonly guestOs: string;
  /** Of the running or last verified GuestOS; undefined before the first start of this boot. */
  readonly guestOsVersion: number | undefined;
  readonly trustLevel: "SIGNED" | "LOCALLY_SIGNED" | undefined;
  readonly autostart: boolean;
  /** Unix time in seconds. */
  readonly createdSeconds: number;
  /** Since the exec of init; undefined when nothing runs. */
  readonly uptimeSeconds: number | undefined;
  readonly initPid: number | undefined;
  /** First host id of its 65,536 uids and gids. */
  readonly idBase: number;
  /** What the guest says of itself (sd_notify STATUS=), escaped and cut: a claim. */
  readonly guestSays: string | undefined;
  readonly lastExit: ExitReport | undefined;
  /** Walls that this host or this config lacks, in words. Empty is the rule on the device. */
  readonly missing: readonly string[];
};

export type StateChange = {
  readonly uuid: string;
  readonly name: string;
  readonly from: StateName;
  readonly to: StateName;
  readonly atMs: number;
  /** Where the change is an end of the container. */
  readonly exit?: ExitReport;
};

/** Something the operator should know; nothing was stopped by it. */
export type EngineReport = {
  readonly code: string;
  readonly uuid?: string;
  readonly sentence: string;
};

export type EngineEvents = {
  state: (change: StateChange) => void;
  /** Before the state change that it explains (B29). */
  oom: (event: { readonly uuid: string; readonly name: string; readonly kills: number }) => void;
  report: (report: EngineReport) => void;
  created: (status: ContainerStatus) => void;
  removed: (container: { readonly uuid: string; readonly name: string }) => void;
};
