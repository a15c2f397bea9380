/**
 * The highest version of each GuestOS that this device ever had. It outlives the GuestOS: a release with a known hole does not
 * come back by removing the newer one first.
 */
import { decodeCbor, encodeCbor } from "../bytes/cbor.ts";
import { mapOf, parse, text, uint } from "../bytes/shape.ts";
import { GimbalError, quoted } from "../errors.ts";
import { readStateFile, type SetAside, setAside, writeFileAtomic } from "../state/file.ts";

const maxNames = 4096;
const maxBytes = 256 * 1024;
const shape = mapOf(text({ min: 1, max: 32 }), uint({ min: 1 }), maxNames);

export type Floors = ReadonlyMap<string, number>;

/** A file that cannot be understood is set aside and told; then what is installed is the floor. */
export async function readFloors(path: string): Promise<{ floors: Floors; setAside?: SetAside }> {
  const file = await readStateFile(path, maxBytes);
  if (file.is === "absent") return { floors: new Map() };
  const decoded = decodeCbor(file.bytes, { maxBytes, maxDepth: 1, maxItems: 2 * maxNames + 1 });
  const parsed = decoded.is === "value" ? parse(shape, decoded.value) : undefined;
  if (parsed?.is === "ok") return { floors: parsed.value };
  return { floors: new Map(), setAside: await setAside(path, "it is no list of versions") };
}

/** Raises one floor, never lowers it. */
export async function raiseFloor(path: string, floors: Floors, name: string, version: number): Promise<void> {
  if ((floors.get(name) ?? 0) >= version) return;
  if (!floors.has(name) && floors.size >= maxNames) {
    throw new GimbalError("state-too-large", {
      tried: "remember",
      on: `the version of ${quoted(name)}`,
      why: `this device has had ${maxNames} GuestOSes of different names`,
    });
  }
  await writeFileAtomic(path, encodeCbor(new Map([...floors, [name, version]])));
}
