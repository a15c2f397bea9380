/** A range of 65,536 host uids and gids per container. Slot 0 is c0's; slots only go up, so none is used twice. */
import { GimbalError } from "../errors.ts";

export const idsPerContainer = 65_536;
const firstId = 100_000;
/** The last slot whose range ends below 2^32 - 1, which is "no id". */
export const lastSlot = Math.floor((2 ** 32 - 2 - firstId) / idsPerContainer) - 1;
export const coreSlot = 0;

/** The host id of the guest's id 0. */
export function idBaseOf(slot: number): number {
  if (!Number.isInteger(slot) || slot < 0 || slot > lastSlot) {
    throw new GimbalError("bad-argument", {
      tried: "use the id range of slot",
      on: String(slot),
      why: `slots go from 0 to ${lastSlot}`,
    });
  }
  return firstId + slot * idsPerContainer;
}

/**
 * The next slot: above every slot in use, so that an id of a removed container means nobody. After the 65,000th
 * container the first free one is taken.
 */
export function nextSlot(used: Iterable<number>): number {
  const taken = new Set<number>([coreSlot, ...used]);
  const above = Math.max(...taken) + 1;
  if (above <= lastSlot) return above;
  for (let slot = coreSlot + 1; slot <= lastSlot; slot++) if (!taken.has(slot)) return slot;
  throw new GimbalError("no-id-range", {
    tried: "find an id range for",
    on: "a new container",
    why: `all ${lastSlot} are in use`,
    todo: "remove a container",
  });
}
