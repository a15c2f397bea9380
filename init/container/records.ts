/**
 * Records of containers: /data/state/containers/<uuid>.cbor. A container exists when its record does: create ends
 * with writing it, remove begins with deleting it, and what has no record is a leftover.
 */
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { type CborValue, decodeCbor, encodeCbor } from "../bytes/cbor.ts";
import { parse, record, text, uint } from "../bytes/shape.ts";
import { reasonOf } from "../errors.ts";
import { readStateFile, removeFile, removeLeftovers, setAside, writeFileAtomic } from "../state/file.ts";
import { type ContainerConfig, isUuid, parseConfig } from "./config.ts";
import { lastSlot } from "./ids.ts";
import type { EngineReport } from "./status.ts";

export type ContainerRecord = {
  readonly uuid: string;
  readonly slot: number;
  /** Unix time in seconds. */
  readonly created: number;
  /** As it was given: it is parsed anew at each boot. */
  readonly rawConfig: CborValue;
  readonly config: ContainerConfig;
};

const recordBytes = 1024 * 1024;
const limits = { maxBytes: recordBytes, maxDepth: 8, maxItems: 10_000 };

const head = record({
  format: uint({ max: 1 }),
  uuid: text({ max: 36 }),
  slot: uint({ max: lastSlot }),
  created: uint({ max: Number.MAX_SAFE_INTEGER }),
});

export async function writeRecord(folder: string, container: ContainerRecord): Promise<void> {
  const bytes = encodeCbor(
    new Map<string, CborValue>([
      ["format", 1],
      ["uuid", container.uuid],
      ["slot", container.slot],
      ["created", container.created],
      ["config", container.rawConfig],
    ]),
  );
  await writeFileAtomic(join(folder, `${container.uuid}.cbor`), bytes);
}

export async function deleteRecord(folder: string, uuid: string): Promise<void> {
  await removeFile(join(folder, `${uuid}.cbor`));
}

/** All containers of this device. What cannot be read is set aside and reported, the rest is unharmed. */
export async function readRecords(folder: string): Promise<{
  readonly records: readonly ContainerRecord[];
  readonly reports: readonly EngineReport[];
  /** Of all records, also of those set aside in this or an earlier boot: their data stays. */
  readonly uuids: ReadonlySet<string>;
}> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await removeLeftovers(folder);
  const records: ContainerRecord[] = [];
  const reports: EngineReport[] = [];
  const uuids = new Set<string>();
  for (const file of (await readdir(folder)).sort()) {
    uuids.add(file.slice(0, 36));
    if (!file.endsWith(".cbor")) continue;
    const path = join(folder, file);
    const uuid = file.slice(0, -".cbor".length);
    const read = await parseRecord(path, uuid);
    const taken = "record" in read && records.find((other) => clash(other, read.record));
    if ("record" in read && !taken) {
      records.push(read.record);
      continue;
    }
    const why = "why" in read ? read.why : `it has the name or id range of ${taken ? taken.uuid : "another"}`;
    const aside = await setAside(path, why);
    reports.push({
      code: "state-set-aside",
      ...(isUuid(uuid) ? { uuid } : {}),
      sentence: `${aside.sentence}; the container's data is kept`,
    });
  }
  return { records, reports, uuids };
}

const clash = (a: ContainerRecord, b: ContainerRecord) =>
  a.slot === b.slot || a.config.name === b.config.name;

async function parseRecord(
  path: string,
  uuid: string,
): Promise<{ readonly record: ContainerRecord } | { readonly why: string }> {
  let file: Awaited<ReturnType<typeof readStateFile>>;
  try {
    file = await readStateFile(path, recordBytes);
  } catch (error) {
    return { why: reasonOf(error) };
  }
  if (file.is === "absent") return { why: "it went away while it was read" };
  const decoded = decodeCbor(file.bytes, limits);
  if (decoded.is === "refused") return { why: `${decoded.reason} at octet ${decoded.offset}` };
  if (!(decoded.value instanceof Map)) return { why: "it is no map" };
  const rest = new Map<string | number, CborValue>(decoded.value);
  const rawConfig = rest.get("config");
  rest.delete("config");
  const parsed = parse(head, rest);
  if (parsed.is === "refused") return { why: `${parsed.path}: ${parsed.why}` };
  const { slot, created } = parsed.value;
  if (parsed.value.uuid !== uuid || !isUuid(uuid)) return { why: "its uuid is not that of its file name" };
  if (rawConfig === undefined) return { why: "it has no config" };
  try {
    return { record: { uuid, slot, created, rawConfig, config: parseConfig(rawConfig) } };
  } catch (error) {
    return { why: reasonOf(error) };
  }
}
