/**
 * The data volume: opened by the TPM's key, made on a new device, or opened by the recovery key. Then "leave-initrd": from that moment
 * nothing unseals until the next boot, so only what comes after may touch what a guest wrote.
 */
import { readFile } from "node:fs/promises";
import { findPartition, type Partition } from "../disk/block.ts";
import { mountDataVolume, openDataVolume, type UnlockedVolume } from "../disk/data-volume.ts";
import { recoveryKeyLines } from "../disk/recovery-key.ts";
import { promptRecoveryKey } from "../disk/recovery-prompt.ts";
import { GimbalError } from "../errors.ts";
import { openConsoleInput } from "../machine/console-input.ts";
import { runTool } from "../machine/process.ts";
import { enterPhase } from "../measure/phases.ts";
import { sealDiskKey, unsealDiskKey } from "../tpm/sealing.ts";
import { parseSignedPolicies, type SignedPolicy } from "../tpm/signed-policy.ts";
import type { Measured } from "./machine.ts";

declare const unlocked: unique symbol;
export type Unlocked = Measured & { readonly [unlocked]: true; readonly volume: UnlockedVolume };

declare const left: unique symbol;
/** "leave-initrd" stands in PCR 11. */
export type Left = Unlocked & { readonly [left]: true };

declare const mounted: unique symbol;
export type Mounted = Left & {
  readonly [mounted]: true;
  /** Unmounts /data and closes the LUKS volume. */
  readonly closeDisk: () => Promise<void>;
};

const labels = { data: "gimbal-data", boot: "gimbal-boot" } as const;
/** Disks on USB or SCSI come late. */
const diskWaitMs = 20_000;
/** Nobody at the console: the device tries again by itself, as the reason may have gone (a lost network disk, a TPM in lockout). */
const answerMs = 10 * 60_000;
const policyPath = "/.extra/tpm2-pcr-signature.json";

export async function unlock(before: Measured): Promise<Unlocked> {
  const { kernel, screen, log, build, trusted, provisioned, warnings } = before;
  const stage = screen.stage("disk");
  const partition = await findPartition(labels.data, { waitMs: diskWaitMs, settleMs: 300 });
  const need = () => {
    if (trusted) return trusted.tpm;
    throw new GimbalError("tpm-absent", { tried: "use", on: "the TPM", why: "there is none" });
  };
  const volume = await openDataVolume(
    {
      runTool,
      tpm: trusted ? "present" : "absent",
      seal: async (key) =>
        sealDiskKey(need(), { key, releaseKey: await readFile("/etc/gimbal/release.pub", "utf8") }),
      unseal: async (blob) => unsealDiskKey(need(), { blob, signedPolicies: await readPolicies() }),
      askRecoveryKey: (why, attempt) => askRecoveryKey(before, why, attempt),
      showRecoveryKey: async (key) => {
        screen.banner([
          "RECOVERY KEY of this device, shown only now. Write it down and keep it away from the device.",
          "It opens the disk when the TPM does not: after a change of firmware, keys or board.",
          "",
          ...recoveryKeyLines(key),
        ]);
      },
      note: (text) => log.info(`disk: ${text}`),
    },
    { partition, provisioned, storageKey: build.storageKey },
  );
  show(volume, partition, stage, warnings);
  return { ...before, volume } as Omit<Unlocked, typeof unlocked> as Unlocked;

  async function readPolicies(): Promise<readonly SignedPolicy[]> {
    const octets = await readFile(policyPath).catch((cause: unknown) => {
      throw refusePolicies("the kernel image brought none (section .pcrsig)", cause);
    });
    const parsed = parseSignedPolicies(octets);
    if (parsed.is === "policies") return parsed.policies;
    throw refusePolicies(parsed.reason);
  }
  function refusePolicies(why: string, cause?: unknown): GimbalError {
    return new GimbalError(
      "tpm-policy-refused",
      { tried: "read", on: "the release's signed policies", why },
      cause,
    );
  }
  async function askRecoveryKey(_: Measured, why: string, attempt: number) {
    if (attempt === 1) {
      stage.warn(`the disk does not open by itself: ${why}`, "enter the recovery key, 16 groups of 6 digits");
    } else screen.warn("this recovery key does not open the disk", "try again");
    using input = openConsoleInput(kernel);
    return await promptRecoveryKey((prompt) => input.ask(prompt, answerMs));
  }
}

function show(
  { how, uuid }: UnlockedVolume,
  partition: Partition,
  stage: { done(text: string): void },
  warnings: string[],
): void {
  const on = `${partition.path}, LUKS2 ${uuid.slice(0, 8)}`;
  switch (how.is) {
    case "initialised":
      return stage.done(`${on}: a new volume was made and its key sealed to this TPM`);
    case "unsealed":
      return stage.done(`${on}: unsealed by the TPM, key slot ${how.slot}`);
    case "clear":
      warnings.push("the disk key lies beside the lock: this board protects nothing at rest");
      return stage.done(`${on}: opened by the key beside it, slot ${how.slot}`);
    case "recovered":
      warnings.push(`the disk was opened by the recovery key: ${how.why}`);
      return stage.done(`${on}: opened by the recovery key, slot ${how.slot}`);
    default:
      return how satisfies never;
  }
}

/** After this no software of this boot can unseal the disk key. */
export async function leaveInitrd(before: Unlocked): Promise<Left> {
  if (before.trusted) await enterPhase(before.trusted.events, "leave-initrd");
  return before as Omit<Left, typeof left> as Left;
}

export async function mountData(before: Left): Promise<Mounted> {
  const { kernel, volume, log } = before;
  const data = await mountDataVolume(kernel, { runTool }, volume);
  if (data.fileSystem === "repaired") log.warn("the file system of /data was repaired");
  const closeDisk = async () => {
    await data[Symbol.asyncDispose]();
    await volume.close();
  };
  return { ...before, closeDisk } as Omit<Mounted, typeof mounted> as Mounted;
}

export { labels };
