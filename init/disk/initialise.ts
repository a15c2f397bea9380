/**
 * Makes the data volume of an unprovisioned device. The order is the crash rule: whatever instant the power goes, the next boot
 * finds the old emptiness, something it knows as its own unfinished work (and begins anew), or the complete volume.
 *
 *   mark at the end of the partition        -> "unfinished" by the mark
 *   LUKS2 header labelled gimbal-new        -> "unfinished" by the mark, then by the label
 *   mark taken away
 *   recovery slot, file system, sealed token, recovery key shown   (all redone if cut: nothing of value is on it yet)
 *   label gimbal-data                       -> complete: one atomic change of the header
 */
import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import type { RunTool } from "../machine/process.ts";
import type { SealedBlob } from "../tpm/blob.ts";
import type { StorageKey } from "./adoption.ts";
import type { Partition } from "./block.ts";
import { type Ext4Tools, makeExt4 } from "./ext4.ts";
import type { Luks } from "./luks.ts";
import { unfinishedLabel, volumeLabel, volumeSubsystem } from "./luks-check.ts";
import { setMarker } from "./marker.ts";
import { makeRecoveryKey, type RecoveryKey, recoveryPassphrase } from "./recovery-key.ts";

export type InitialiseDeps = {
  readonly runTool: RunTool;
  readonly luks: Luks;
  readonly ext4: Ext4Tools;
  /** Seals the key of slot 0; called only where the board's storage key is a TPM. */
  readonly seal: (key: Uint8Array) => Promise<SealedBlob>;
  /** Shows the recovery key, once, before the volume is complete: a cut before that makes a new one. */
  readonly showRecoveryKey: (key: RecoveryKey) => Promise<void>;
  readonly note: (text: string) => void;
  readonly random?: (length: number) => Uint8Array;
};

/** Slot 0 takes the TPM's key (or the clear one), slot 1 the recovery key. */
const firstSlot = 0;
const recoverySlot = 1;

/** Initialises `partition` and leaves it open as `name`. All that was on it is lost. Errors: tool-failed, tpm-*. */
export async function initialiseVolume(
  deps: InitialiseDeps,
  partition: Partition,
  storageKey: StorageKey,
  name: string,
): Promise<void> {
  const { luks, note } = deps;
  const { path, sizeBytes } = partition;
  const random = deps.random ?? randomBytes;
  const key = random(32);
  const recovery = makeRecoveryKey(random);
  const passphrase = recoveryPassphrase(recovery);
  try {
    note("marking the partition");
    await setMarker(path, sizeBytes, true);
    note("writing the LUKS2 header");
    await luks.format(path, key, { label: unfinishedLabel, subsystem: volumeSubsystem });
    await setMarker(path, sizeBytes, false);
    await luks.addKey(path, key, passphrase, recoverySlot);
    await luks.importToken(path, 1, { type: "gimbal-recovery", keyslots: [String(recoverySlot)] });
    note("making the file system");
    await luks.open(path, name, key);
    try {
      await makeExt4(deps.runTool, luks.pathOf(name), deps.ext4);
      await settle(luks.pathOf(name));
      await keepKey(deps, path, key, passphrase, storageKey);
      await settle(path);
      await deps.showRecoveryKey(recovery);
      note("completing the volume");
      await luks.setNames(path, { label: volumeLabel, subsystem: volumeSubsystem });
      await settle(path);
    } catch (error) {
      await luks.close(name).catch(() => undefined); // the first error counts; the name is only free again
      throw error;
    }
  } finally {
    key.fill(0);
    passphrase.fill(0);
  }
}

/** Puts the key of slot 0 where the board keeps it: in the TPM, beside the lock, or nowhere (the slot then goes). */
async function keepKey(
  { luks, seal, note }: InitialiseDeps,
  path: string,
  key: Uint8Array,
  passphrase: Uint8Array,
  storageKey: StorageKey,
): Promise<void> {
  const keyslots = [String(firstSlot)];
  switch (storageKey) {
    case "tpm":
      note("sealing the key to the TPM");
      return luks.importToken(path, 0, { type: "gimbal-tpm2", keyslots, blob: await seal(key) });
    case "none":
      return luks.importToken(path, 0, {
        type: "gimbal-clear",
        keyslots,
        key: Buffer.from(key).toString("hex"),
      });
    case "recovery-only":
      return luks.removeSlot(path, firstSlot, passphrase);
    default:
      return storageKey satisfies never;
  }
}

/** What was written to a block device is on the disk when this resolves. */
async function settle(path: string): Promise<void> {
  const handle = await open(path, constants.O_RDONLY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
