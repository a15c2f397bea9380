/**
 * The firmware's event log, /sys/kernel/security/tpm0/binary_bios_measurements: TCG PC Client Platform Firmware Profile
 * 1.06, 10. Crypto-agile logs begin with a Spec ID event that names the banks; a log without one holds SHA-1 only and
 * is refused as "legacy". Everything is little-endian. Nothing here throws: a refusal names the event.
 * Left out: the contents of events, which the later explanations read.
 */
import { extended } from "../tpm/pcr.ts";
import { type HashName, hashBytes, hashIds } from "../tpm/structures.ts";

export type TcgEvent = {
  /** 0 is the Spec ID event. */
  readonly number: number;
  readonly pcr: number;
  /** EV_*: see `tcgEventTypes`. */
  readonly type: number;
  readonly digests: ReadonlyMap<HashName, Uint8Array>;
  readonly data: Uint8Array;
};

export type ParsedTcgLog =
  | {
      readonly is: "log";
      readonly banks: readonly HashName[];
      readonly events: readonly TcgEvent[];
      /** Locality from which the firmware started the TPM (StartupLocality event), else 0. */
      readonly startupLocality: number;
    }
  | { readonly is: "refused"; readonly event: number; readonly offset: number; readonly reason: string };

export const tcgLogLimits = {
  bytes: 16 * 2 ** 20,
  events: 65_536,
  eventBytes: 4 * 2 ** 20,
  algorithms: 16,
} as const;

/** Names of event types, 10.4.1; an unknown type is no error. */
export const tcgEventTypes: ReadonlyMap<number, string> = new Map([
  [0x00000000, "EV_PREBOOT_CERT"],
  [0x00000001, "EV_POST_CODE"],
  [0x00000003, "EV_NO_ACTION"],
  [0x00000004, "EV_SEPARATOR"],
  [0x00000005, "EV_ACTION"],
  [0x00000006, "EV_EVENT_TAG"],
  [0x00000007, "EV_S_CRTM_CONTENTS"],
  [0x00000008, "EV_S_CRTM_VERSION"],
  [0x00000009, "EV_CPU_MICROCODE"],
  [0x0000000a, "EV_PLATFORM_CONFIG_FLAGS"],
  [0x0000000b, "EV_TABLE_OF_DEVICES"],
  [0x0000000c, "EV_COMPACT_HASH"],
  [0x0000000d, "EV_IPL"],
  [0x0000000e, "EV_IPL_PARTITION_DATA"],
  [0x00000011, "EV_NONHOST_CONFIG"],
  [0x00000012, "EV_NONHOST_INFO"],
  [0x00000013, "EV_OMIT_BOOT_DEVICE_EVENTS"],
  [0x80000001, "EV_EFI_VARIABLE_DRIVER_CONFIG"],
  [0x80000002, "EV_EFI_VARIABLE_BOOT"],
  [0x80000003, "EV_EFI_BOOT_SERVICES_APPLICATION"],
  [0x80000004, "EV_EFI_BOOT_SERVICES_DRIVER"],
  [0x80000005, "EV_EFI_RUNTIME_SERVICES_DRIVER"],
  [0x80000006, "EV_EFI_GPT_EVENT"],
  [0x80000007, "EV_EFI_ACTION"],
  [0x80000008, "EV_EFI_PLATFORM_FIRMWARE_BLOB"],
  [0x80000009, "EV_EFI_HANDOFF_TABLES"],
  [0x8000000a, "EV_EFI_PLATFORM_FIRMWARE_BLOB2"],
  [0x8000000b, "EV_EFI_HANDOFF_TABLES2"],
  [0x8000000c, "EV_EFI_VARIABLE_BOOT2"],
  [0x80000010, "EV_EFI_HCRTM_EVENT"],
  [0x800000e0, "EV_EFI_VARIABLE_AUTHORITY"],
  [0x800000e1, "EV_EFI_SPDM_FIRMWARE_BLOB"],
  [0x800000e2, "EV_EFI_SPDM_FIRMWARE_CONFIG"],
]);

const noAction = 0x00000003;
const specIdSignature = "Spec ID Event03\0";
const localitySignature = "StartupLocality\0";
const namesById = new Map(Object.entries(hashIds).map(([name, id]) => [id as number, name as HashName]));

/** Where a parse stands; `take` and the numbers end it by a Stop. */
class Cursor {
  offset = 0;
  readonly #octets: Uint8Array;
  readonly #view: DataView;

  constructor(octets: Uint8Array) {
    this.#octets = octets;
    this.#view = new DataView(octets.buffer, octets.byteOffset, octets.length);
  }

  get atEnd(): boolean {
    return this.offset === this.#octets.length;
  }

  take(count: number, what: string): Uint8Array {
    const left = this.#octets.length - this.offset;
    if (count > left) throw new Stop(`${what} needs ${count} octets, ${left} are left`);
    this.offset += count;
    return this.#octets.subarray(this.offset - count, this.offset);
  }

  u8(what: string): number {
    return this.take(1, what)[0] ?? 0;
  }

  u16(what: string): number {
    this.take(2, what);
    return this.#view.getUint16(this.offset - 2, true);
  }

  u32(what: string): number {
    this.take(4, what);
    return this.#view.getUint32(this.offset - 4, true);
  }
}

/** Ends a parse from within; never leaves this file. */
class Stop extends Error {}

type Algorithms = ReadonlyMap<number, number>;

/** Parses a whole log. */
export function parseTcgLog(log: Uint8Array): ParsedTcgLog {
  const events: TcgEvent[] = [];
  const cursor = new Cursor(log);
  const refused = (reason: string): ParsedTcgLog => ({
    is: "refused",
    event: events.length,
    offset: cursor.offset,
    reason,
  });
  if (log.length > tcgLogLimits.bytes) return refused(`the log has more than ${tcgLogLimits.bytes} octets`);
  if (log.length === 0) return refused("the log is empty");
  try {
    const first = readLegacyEvent(cursor);
    const algorithms = readSpecId(first);
    events.push(first);
    let startupLocality = 0;
    while (!cursor.atEnd) {
      if (events.length >= tcgLogLimits.events) return refused("too many events");
      const event = readEvent(cursor, algorithms, events.length);
      startupLocality = localityOf(event) ?? startupLocality;
      events.push(event);
    }
    const banks = [...algorithms.keys()].flatMap((id) => namesById.get(id) ?? []);
    return { is: "log", banks, events, startupLocality };
  } catch (error) {
    if (!(error instanceof Stop)) throw error;
    return refused(error.message);
  }
}

/** TCG_PCClientPCREvent: one SHA-1 digest. */
function readLegacyEvent(cursor: Cursor): TcgEvent {
  const pcr = cursor.u32("a PCR");
  const type = cursor.u32("a type");
  const digest = cursor.take(20, "a SHA-1 digest");
  return { number: 0, pcr, type, digests: new Map([["sha1", digest]]), data: readData(cursor) };
}

function readData(cursor: Cursor): Uint8Array {
  const length = cursor.u32("an event's size");
  if (length > tcgLogLimits.eventBytes) throw new Stop(`an event of ${length} octets`);
  return cursor.take(length, "an event's data");
}

/** TCG_EfiSpecIDEvent, 10.4.5.1: the algorithms with their digest sizes. */
function readSpecId({ pcr, type, data }: TcgEvent): Algorithms {
  const cursor = new Cursor(data);
  const isSpecId = pcr === 0 && type === noAction && data.length >= 16 && startsWith(data, specIdSignature);
  if (!isSpecId) throw new Stop("no Spec ID event: a legacy log with SHA-1 alone");
  cursor.take(16 + 8, "the Spec ID event"); // signature; class, version, errata, uintn size
  const count = cursor.u32("the number of algorithms");
  if (count === 0 || count > tcgLogLimits.algorithms) throw new Stop(`${count} algorithms`);
  const algorithms = new Map<number, number>();
  for (let index = 0; index < count; index++) {
    const id = cursor.u16("an algorithm");
    const size = cursor.u16("a digest size");
    const known = namesById.get(id);
    if ((known && hashBytes[known] !== size) || size === 0 || size > 64)
      throw new Stop(`digest size ${size} for algorithm 0x${id.toString(16)}`);
    if (algorithms.has(id)) throw new Stop(`algorithm 0x${id.toString(16)} twice`);
    algorithms.set(id, size);
  }
  cursor.take(cursor.u8("the vendor's size"), "the vendor's data");
  return algorithms;
}

function startsWith(data: Uint8Array, text: string): boolean {
  return new TextDecoder("latin1").decode(data.subarray(0, text.length)) === text;
}

/** TCG_PCR_EVENT2: one digest for each algorithm of the Spec ID event, in any order. */
function readEvent(cursor: Cursor, algorithms: Algorithms, number: number): TcgEvent {
  const pcr = cursor.u32("a PCR");
  const type = cursor.u32("a type");
  // 0xffffffff appears with EV_NO_ACTION, which extends nothing
  if (pcr > 23 && type !== noAction) throw new Stop(`PCR ${pcr}`);
  const count = cursor.u32("the number of digests");
  if (count > algorithms.size) throw new Stop(`${count} digests for ${algorithms.size} banks`);
  const seen = new Set<number>();
  const digests = new Map<HashName, Uint8Array>();
  for (let index = 0; index < count; index++) {
    const id = cursor.u16("a digest's algorithm");
    const size = algorithms.get(id);
    if (size === undefined)
      throw new Stop(`a digest of algorithm 0x${id.toString(16)}, which the Spec ID event lacks`);
    if (seen.has(id)) throw new Stop(`two digests of algorithm 0x${id.toString(16)}`);
    seen.add(id);
    const digest = cursor.take(size, "a digest");
    const name = namesById.get(id);
    if (name) digests.set(name, digest);
  }
  if (type !== noAction && seen.size !== algorithms.size) throw new Stop("a bank's digest is missing");
  return { number, pcr, type, digests, data: readData(cursor) };
}

function localityOf({ type, pcr, data }: TcgEvent): number | undefined {
  if (type !== noAction || pcr !== 0 || data.length !== 17 || !startsWith(data, localitySignature))
    return undefined;
  return data[16];
}

/** PCR values after the log, in one bank. PCRs that no event extended are absent. */
export function replayTcgLog(
  log: Extract<ParsedTcgLog, { is: "log" }>,
  bank: HashName,
): ReadonlyMap<number, Uint8Array> {
  const values = new Map<number, Uint8Array>();
  for (const event of log.events) {
    const digest = event.digests.get(bank);
    if (event.type === noAction || !digest || event.number === 0) continue;
    const before = values.get(event.pcr) ?? firstValue(event.pcr, bank, log.startupLocality);
    values.set(event.pcr, extended(bank, before, digest));
  }
  return values;
}

/** PCR 0 begins with the start-up locality in its last octet. */
function firstValue(pcr: number, bank: HashName, locality: number): Uint8Array {
  const value = new Uint8Array(hashBytes[bank]);
  if (pcr === 0) value[value.length - 1] = locality;
  return value;
}
