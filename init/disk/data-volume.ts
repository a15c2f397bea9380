/**
 * Opens the data volume of this device: looks, decides (adoption.ts), acts. A partition that is refused is only read.
 * An existing volume is opened with the header that was checked, kept in memory, not with whatever the disk says a moment later.
 */
import { randomBytes } from "node:crypto";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { GimbalError, hasCode, quoted, reasonOf } from "../errors.ts";
import type { Kernel } from "../kernel.ts";
import type { RunTool } from "../machine/process.ts";
import type { SealedBlob } from "../tpm/blob.ts";
import { type Decision, decide, type StorageKey } from "./adoption.ts";
import { described, type Partition } from "./block.ts";
import { type CheckResult, checkExt4, type Ext4Tools, ext4Tools, mountExt4 } from "./ext4.ts";
import { initialiseVolume } from "./initialise.ts";
import { type Luks, luks } from "./luks.ts";
import { probePartition } from "./probe.ts";
import { type RecoveryKey, recoveryPassphrase } from "./recovery-key.ts";

/** What the volume needs from others: programs, the TPM's two operations, the operator. */
export type VolumeDeps = {
  readonly runTool: RunTool;
  readonly tpm: "present" | "absent";
  /** init/tpm's sealDiskKey with the release key; and its unsealDiskKey with the release's signed policies. */
  readonly seal: (key: Uint8Array) => Promise<SealedBlob>;
  readonly unseal: (blob: SealedBlob) => Promise<Uint8Array>;
  /** Asks the operator; `attempt` counts from 1. Undefined: nobody answers, the boot ends with the reason. */
  readonly askRecoveryKey: (why: string, attempt: number) => Promise<RecoveryKey | undefined>;
  /** Shows a new recovery key once. Called before the volume counts as complete. */
  readonly showRecoveryKey: (key: RecoveryKey) => Promise<void>;
  /** A word on progress, and warnings such as a repaired header, for the log. */
  readonly note: (text: string) => void;
  /** Default: as in the initramfs. */
  readonly programs?: Ext4Tools & { readonly cryptsetup: string; readonly mapper: string };
  /** A tmpfs of PID 1 for the header in use. Default: /run/gimbal. */
  readonly runFolder?: string;
  /** Waits between wrong recovery keys. */
  readonly wait?: (ms: number) => Promise<unknown>;
};

export type VolumeRequest = {
  readonly partition: Partition;
  readonly provisioned: boolean;
  readonly storageKey: StorageKey;
  /** Device-mapper name. Default: gimbal-data. */
  readonly name?: string;
};

export type UnlockedVolume = {
  /** "/dev/mapper/gimbal-data" */
  readonly devicePath: string;
  /** Of the LUKS2 header: the volume's identity. */
  readonly uuid: string;
  readonly how:
    | { readonly is: "initialised" }
    | { readonly is: "unsealed"; readonly slot: number }
    | { readonly is: "clear"; readonly slot: number }
    | { readonly is: "recovered"; readonly slot: number; readonly why: string };
  /** Closes the LUKS volume; it must be unmounted. */
  close(): Promise<void>;
};

export type MountedVolume = AsyncDisposable & { readonly fileSystem: CheckResult };

/**
 * Opens the data volume, or says why not. Errors: disk-foreign, disk-emptied, luks-header-damaged, luks-header-foreign,
 * tpm-absent (refusals, nothing was written), recovery-key-refused (nobody answered; its cause is why it was asked), tool-failed.
 */
export async function openDataVolume(deps: VolumeDeps, request: VolumeRequest): Promise<UnlockedVolume> {
  const { partition, provisioned, storageKey, name = "gimbal-data" } = request;
  const probe = await probePartition(partition.path, partition.sizeBytes);
  const decision = decide({ probe, provisioned, storageKey, tpm: deps.tpm });
  switch (decision.is) {
    case "refuse":
      throw new GimbalError(decision.code, {
        tried: "use",
        on: `the data partition ${described(partition)}`,
        why: decision.why,
        todo: decision.todo,
      });
    case "initialise":
      return initialise(deps, request, name);
    case "unseal":
    case "open-clear":
    case "ask-recovery":
      return openExisting(deps, partition, decision, name);
    default:
      return decision satisfies never;
  }
}

/** Checks the file system and mounts it. Disposing unmounts it. Errors: filesystem-damaged, tool-failed, kernel-refused. */
export async function mountDataVolume(
  kernel: Kernel,
  deps: Pick<VolumeDeps, "runTool" | "programs">,
  volume: UnlockedVolume,
  target = "/data",
): Promise<MountedVolume> {
  const fileSystem = await checkExt4(deps.runTool, volume.devicePath, deps.programs ?? ext4Tools);
  const mounted = mountExt4(kernel, volume.devicePath, target);
  return { fileSystem, [Symbol.asyncDispose]: () => mounted[Symbol.asyncDispose]() };
}

/** cryptsetup as `deps` say. */
export const luksOf = (deps: Pick<VolumeDeps, "runTool" | "programs">): Luks =>
  luks(deps.runTool, deps.programs?.cryptsetup, deps.programs?.mapper);

async function initialise(deps: VolumeDeps, request: VolumeRequest, name: string): Promise<UnlockedVolume> {
  const { partition, storageKey } = request;
  const tools = { ...deps, luks: luksOf(deps), ext4: deps.programs ?? ext4Tools };
  await initialiseVolume(tools, partition, storageKey, name);
  const made = await probePartition(partition.path, partition.sizeBytes);
  if (made.is !== "luks2") throw new Error(`the volume just made looks like: ${made.is}`);
  return unlocked(deps, made.header.uuid, name, { is: "initialised" });
}

type Openable = Extract<Decision, { is: "unseal" | "open-clear" | "ask-recovery" }>;

async function openExisting(
  deps: VolumeDeps,
  partition: Partition,
  decision: Openable,
  name: string,
): Promise<UnlockedVolume> {
  await using header = await headerFile(deps.runFolder ?? "/run/gimbal", decision.octets);
  const opener = { deps, luks: luksOf(deps), path: partition.path, header: header.path, name };
  const { how, key } = await openByAnyKey(opener, decision);
  try {
    await tidy(deps, opener.luks, partition.path, decision, key);
  } finally {
    key.fill(0);
  }
  return unlocked(deps, decision.header.uuid, name, how);
}

type Opener = {
  readonly deps: VolumeDeps;
  readonly luks: Luks;
  readonly path: string;
  readonly header: string;
  readonly name: string;
};

/** The key is the caller's to overwrite. */
type Opened = { readonly how: UnlockedVolume["how"]; readonly key: Uint8Array };

async function openByAnyKey(opener: Opener, decision: Openable): Promise<Opened> {
  switch (decision.is) {
    case "unseal": {
      const unsealed = await openUnsealed(opener, decision);
      return "how" in unsealed ? unsealed : openRecovered(opener, unsealed.why, unsealed.cause);
    }
    case "open-clear": {
      const { slot, key } = decision.token;
      await opener.luks.open(opener.path, opener.name, key, opener.header);
      return { how: { is: "clear", slot }, key };
    }
    case "ask-recovery":
      return openRecovered(opener, decision.why, undefined);
    default:
      return decision satisfies never;
  }
}

/** Tries each sealed token; a TPM that refuses, or a key that does not fit, ends in the reason to ask the operator. */
async function openUnsealed(
  opener: Opener,
  { tokens }: Extract<Decision, { is: "unseal" }>,
): Promise<Opened | { readonly why: string; readonly cause: unknown }> {
  let refusal: { why: string; cause: unknown } = { why: "no key is sealed to a TPM", cause: undefined };
  for (const { slot, blob } of tokens) {
    let key: Uint8Array | undefined;
    try {
      key = await opener.deps.unseal(blob);
      await opener.luks.open(opener.path, opener.name, key, opener.header);
      return { how: { is: "unsealed", slot }, key };
    } catch (error) {
      key?.fill(0);
      if (!(error instanceof GimbalError) || error.code === "tool-failed") throw error;
      const why = hasCode(error, "luks-key-refused")
        ? "the TPM gave the key, but it opens nothing here: the header was exchanged or altered"
        : reasonOf(error);
      refusal = { why, cause: error };
      opener.deps.note(why);
    }
  }
  return refusal;
}

/** A wrong key only costs time: from the third on each try waits longer, up to half a minute. */
async function openRecovered(opener: Opener, why: string, cause: unknown): Promise<Opened> {
  const { deps, luks, path, name, header } = opener;
  for (let attempt = 1; ; attempt++) {
    const recoveryKey = await deps.askRecoveryKey(why, attempt);
    if (recoveryKey === undefined) throw unanswered(path, why, cause);
    const key = recoveryPassphrase(recoveryKey);
    try {
      const slot = await luks.slotOfKey(path, key, header);
      await luks.open(path, name, key, header);
      return { how: { is: "recovered", slot, why }, key };
    } catch (error) {
      key.fill(0);
      if (!hasCode(error, "luks-key-refused")) throw error;
      deps.note(`recovery key refused, attempt ${attempt}`);
      if (attempt >= 3) await (deps.wait ?? sleep)(Math.min(30_000, 1000 * 2 ** (attempt - 3)));
    }
  }
}

const unanswered = (path: string, why: string, cause: unknown) =>
  new GimbalError(
    "recovery-key-refused",
    {
      tried: "open",
      on: path,
      why: `${why}, and no recovery key was entered`,
      todo: "start again and enter the recovery key of this device",
    },
    cause,
  );

/** After a successful open: what a power cut left in the header goes. A failure here is a note, the volume is open. */
async function tidy(
  deps: VolumeDeps,
  luks: Luks,
  path: string,
  { header, check }: Openable,
  key: Uint8Array,
): Promise<void> {
  try {
    if (header.copies !== "both") {
      await luks.repair(path);
      deps.note("one copy of the LUKS2 header was damaged: repaired from the other");
    }
    for (const slot of check.strays) {
      await luks.removeSlot(path, slot, key);
      deps.note(`key slot ${slot}, which no token names, was left by an interrupted change: removed`);
    }
  } catch (error) {
    deps.note(`the LUKS2 header could not be tidied: ${quoted(reasonOf(error))}`);
  }
}

function unlocked(deps: VolumeDeps, uuid: string, name: string, how: UnlockedVolume["how"]): UnlockedVolume {
  const luks = luksOf(deps);
  return { devicePath: luks.pathOf(name), uuid, how, close: () => luks.close(name) };
}

/** The header that was checked, as a file on PID 1's tmpfs while it is used. */
async function headerFile(
  folder: string,
  octets: Uint8Array,
): Promise<AsyncDisposable & { readonly path: string }> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const path = join(folder, `luks-header-${randomBytes(8).toString("hex")}`);
  const remove = () => rm(path, { force: true });
  try {
    await writeFile(path, octets, { mode: 0o600, flag: "wx" });
  } catch (error) {
    await remove();
    throw new GimbalError(
      "state-failed",
      { tried: "keep", on: "the LUKS2 header in memory", why: reasonOf(error) },
      error,
    );
  }
  return { path, [Symbol.asyncDispose]: remove };
}
