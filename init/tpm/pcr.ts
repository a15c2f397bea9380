/** Reading and extending PCRs. */
import { GimbalError } from "../errors.ts";
import { getCapability, pcrExtend, pcrRead } from "./commands.ts";
import { hashOf } from "./crypto.ts";
import { execute } from "./execute.ts";
import { handleEntity } from "./session.ts";
import { type HashName, hashIds, selectedPcrs, selectPcrs } from "./structures.ts";
import type { Transport } from "./transport.ts";

/** The banks that this TPM keeps, in its own order. Banks with an unknown algorithm (SM3) are left out. */
export async function activeBanks(tpm: Transport): Promise<readonly HashName[]> {
  const { response } = await execute(tpm, getCapability, {}, { capability: 5, property: 0, count: 1 });
  if (response.data.is !== "pcrs") return [];
  const known = new Map(Object.entries(hashIds).map(([name, id]) => [id as number, name as HashName]));
  return response.data.list.flatMap(({ hash, select }) => {
    const bank = known.get(hash);
    return bank && select.some((octet) => octet !== 0) ? [bank] : [];
  });
}

const attempts = 5;

/**
 * PCR values of one bank, read as one state: where a PCR changes between two commands (a command gives eight at most)
 * all are read again.
 */
export async function readPcrs(
  tpm: Transport,
  bank: HashName,
  pcrs: readonly number[],
): Promise<ReadonlyMap<number, Uint8Array>> {
  for (let attempt = 0; attempt < attempts; attempt++) {
    const values = new Map<number, Uint8Array>();
    const counters = new Set<number>();
    let open = [...new Set(pcrs)].sort((a, b) => a - b);
    while (open.length > 0) {
      const { response } = await execute(tpm, pcrRead, {}, { pcrs: [selectPcrs(bank, open)] });
      counters.add(response.updateCounter);
      const given = response.pcrs.flatMap((selection) =>
        selection.hash === bank ? selectedPcrs(selection) : [],
      );
      if (given.length === 0 || given.length !== response.digests.length) throw missingBank(bank, open);
      given.forEach((pcr, index) => {
        values.set(pcr, response.digests[index] ?? new Uint8Array());
      });
      open = open.filter((pcr) => !values.has(pcr));
    }
    if (counters.size <= 1) return values;
  }
  throw new GimbalError("tpm-failure", {
    tried: "read",
    on: `PCRs ${pcrs.join(", ")}`,
    why: `they changed during each of ${attempts} attempts`,
  });
}

function missingBank(bank: HashName, pcrs: readonly number[]): GimbalError {
  return new GimbalError("tpm-failure", {
    tried: "read",
    on: `PCRs ${pcrs.join(", ")}`,
    why: `this TPM has no active ${bank} bank for them`,
    todo: `activate the ${bank} bank in the firmware menu`,
  });
}

/**
 * Extends a PCR with the digest of `data` in every active bank: a bank left out could be filled by someone else.
 * @returns the digests that were extended
 */
export async function extendPcr(
  tpm: Transport,
  pcr: number,
  data: Uint8Array,
): Promise<ReadonlyMap<HashName, Uint8Array>> {
  const digests = digestsOf(await activeBanks(tpm), data);
  await extendDigests(tpm, pcr, digests);
  return digests;
}

/** The digest of `data` for each bank. */
export function digestsOf(banks: readonly HashName[], data: Uint8Array): ReadonlyMap<HashName, Uint8Array> {
  return new Map(banks.map((bank) => [bank, hashOf(bank, data)]));
}

/** Extends a PCR with digests made before, one for each bank. */
export async function extendDigests(
  tpm: Transport,
  pcr: number,
  digests: ReadonlyMap<HashName, Uint8Array>,
): Promise<void> {
  const list = [...digests].map(([hash, digest]) => ({ hash, digest }));
  await execute(tpm, pcrExtend, { pcr: handleEntity(pcr) }, { digests: list });
}

/** The value of a PCR after one more extend, computed here. */
export function extended(bank: HashName, value: Uint8Array, digest: Uint8Array): Uint8Array {
  return hashOf(bank, value, digest);
}
