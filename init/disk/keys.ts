/**
 * Exchanges keys of an existing volume, in the order add, prove, remove: at every instant some way known to work opens it. Slots
 * and tokens take turns (0 and 2 for the TPM, 1 and 3 for the operator); what a cut leaves behind, the next open removes.
 */
import { strict as assert } from "node:assert";
import { randomBytes } from "node:crypto";
import { GimbalError } from "../errors.ts";
import { described, type Partition } from "./block.ts";
import { luksOf, type VolumeDeps } from "./data-volume.ts";
import { checkLuksHeader, type LuksCheck } from "./luks-check.ts";
import { probePartition } from "./probe.ts";
import { makeRecoveryKey, type RecoveryKey, recoveryPassphrase } from "./recovery-key.ts";

type Named = { readonly tokenId: number; readonly slot: number };
type KeyDeps = Pick<VolumeDeps, "runTool" | "programs" | "note">;

/**
 * Seals a fresh key to the TPM as it is now; slots and tokens sealed before are removed. `proof` opens the volume (the recovery
 * key's octets, or a key just unsealed). Errors: luks-key-refused, luks-header-foreign, tpm-*, tool-failed.
 */
export async function resealVolume(
  deps: KeyDeps & Pick<VolumeDeps, "seal">,
  partition: Partition,
  proof: Uint8Array,
): Promise<void> {
  const { tokens, strays } = await ourHeader(partition);
  const key = randomBytes(32);
  try {
    await exchange(deps, partition, proof, key, [0, 2], strays, tokens, async (slot) => ({
      type: "gimbal-tpm2",
      keyslots: [String(slot)],
      blob: await deps.seal(key),
    }));
  } finally {
    key.fill(0);
  }
}

/** Replaces the recovery key. `show` sees the new one before the old one goes. Errors as above. */
export async function rotateRecoveryKey(
  deps: KeyDeps,
  partition: Partition,
  proof: Uint8Array,
  show: (key: RecoveryKey) => Promise<void>,
): Promise<void> {
  const { recovery, strays } = await ourHeader(partition);
  const recoveryKey = makeRecoveryKey();
  await exchange(
    deps,
    partition,
    proof,
    recoveryPassphrase(recoveryKey),
    [1, 3],
    strays,
    recovery,
    async (slot) => {
      await show(recoveryKey);
      return { type: "gimbal-recovery", keyslots: [String(slot)] };
    },
  );
}

async function exchange(
  deps: KeyDeps,
  { path }: Partition,
  proof: Uint8Array,
  added: Uint8Array,
  turns: readonly [number, number],
  strays: readonly number[],
  old: readonly Named[],
  tokenFor: (slot: number) => Promise<object>,
): Promise<void> {
  const luks = luksOf(deps);
  const proven = await luks.slotOfKey(path, proof); // refuses before anything is written
  const remove = async ({ tokenId, slot }: Named, remaining: Uint8Array) => {
    await luks.removeToken(path, tokenId);
    await luks.removeSlot(path, slot, remaining);
  };
  const free = turns.find((turn) => old.every(({ slot }) => slot !== turn));
  // Both are taken after a cut: one that the proof does not need makes room.
  const room = free === undefined ? old.find(({ slot }) => slot !== proven) : undefined;
  const slot = free ?? room?.slot;
  assert(slot !== undefined, "two slots, and the proof is in both");
  if (room) await remove(room, proof);
  else if (strays.includes(slot)) await luks.removeSlot(path, slot, proof);
  await luks.addKey(path, proof, added, slot);
  await luks.importToken(path, slot, await tokenFor(slot));
  await luks.slotOfKey(path, added); // proves it before the old one goes
  for (const named of old) if (named !== room) await remove(named, added);
  deps.note(`key slot ${slot} is in use now`);
}

async function ourHeader(partition: Partition): Promise<Extract<LuksCheck, { is: "ours" }>> {
  const probe = await probePartition(partition.path, partition.sizeBytes);
  const check: LuksCheck =
    probe.is === "luks2" ? checkLuksHeader(probe.header) : { is: "foreign", why: `it is ${probe.is}` };
  if (check.is === "ours") return check;
  throw new GimbalError("luks-header-foreign", {
    tried: "change the keys of",
    on: described(partition),
    why: check.why,
  });
}
