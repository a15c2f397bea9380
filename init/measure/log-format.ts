/**
 * The form of gimbal's own event log: for each event a length (u32, big-endian, 1 to 32,768), then that many octets of
 * deterministic CBOR (RFC 8949, 4.2.1): a map {seq, pcr, type, digests: {bank: digest}, data}. A parser at the border:
 * nothing here throws for what a log may hold, and a refusal names the event. Also read by verifiers.
 */
import { type CborValue, decodeCbor, encodeCbor } from "../bytes/cbor.ts";
import { encode, u32 } from "../bytes/struct.ts";
import { hashOf, joined, sameOctets } from "../tpm/crypto.ts";
import { extended } from "../tpm/pcr.ts";
import { type HashName, hashBytes } from "../tpm/structures.ts";

/** The kinds of events init extends, by name. */
export const eventTypes = ["phase", "guest", "device-policy", "volume-identity"] as const;
export type EventType = (typeof eventTypes)[number];

export type MeasuredEvent = {
  /** 0, 1, 2 ... over the whole log. */
  readonly seq: number;
  readonly pcr: number;
  readonly type: EventType;
  /** Bank -> digest of `data` that was extended. */
  readonly digests: ReadonlyMap<HashName, Uint8Array>;
  /** What was hashed. */
  readonly data: Uint8Array;
};

export type ParsedLog = { readonly is: "log"; readonly events: readonly MeasuredEvent[] } | LogRefused;
export type LogRefused = { readonly is: "refused"; readonly event: number; readonly reason: string };

export const logLimits = {
  bytes: 8 * 2 ** 20,
  events: 65_536,
  eventBytes: 32_768,
  dataBytes: 16_384,
} as const;

/** One event as it stands in the file. Throws a RangeError for more data than an event may have. */
export function encodeEvent(event: MeasuredEvent): Uint8Array {
  if (event.data.length > logLimits.dataBytes) throw new RangeError("too much data for one event");
  const body = encodeCbor(
    new Map<string, CborValue>([
      ["seq", event.seq],
      ["pcr", event.pcr],
      ["type", event.type],
      ["digests", new Map<string, CborValue>(event.digests)],
      ["data", event.data],
    ]),
  );
  return joined(encode(u32, body.length), body);
}

/** Parses a whole log: each event well-formed, numbered without a gap, its digests those of its data. */
export function parseEventLog(log: Uint8Array): ParsedLog {
  const events: MeasuredEvent[] = [];
  const refused = (reason: string): LogRefused => ({ is: "refused", event: events.length, reason });
  if (log.length > logLimits.bytes) return refused(`the log has more than ${logLimits.bytes} octets`);
  const view = new DataView(log.buffer, log.byteOffset, log.length);
  for (let offset = 0; offset < log.length; ) {
    if (events.length >= logLimits.events) return refused("too many events");
    if (log.length - offset < 4) return refused("it ends within a length");
    const length = view.getUint32(offset);
    const end = offset + 4 + length;
    if (length === 0 || length > logLimits.eventBytes) return refused(`a length of ${length}`);
    if (end > log.length) return refused("it ends within an event");
    const event = parseEvent(log.subarray(offset + 4, end), events.length);
    if (typeof event === "string") return refused(event);
    events.push(event);
    offset = end;
  }
  return { is: "log", events };
}

function parseEvent(octets: Uint8Array, seq: number): MeasuredEvent | string {
  const decoded = decodeCbor(octets, { maxBytes: logLimits.eventBytes, maxDepth: 3, maxItems: 64 });
  if (decoded.is === "refused") return decoded.reason;
  const map = decoded.value;
  if (!(map instanceof Map) || map.size !== 5) return "not a map of five fields";
  const type = eventTypes.find((name) => name === map.get("type"));
  const pcr: unknown = map.get("pcr");
  const data: unknown = map.get("data");
  if (map.get("seq") !== seq) return "its number is not the next one";
  if (typeof pcr !== "number" || pcr < 0 || pcr > 23) return "its PCR does not exist";
  if (!type) return "its type is unknown";
  if (!(data instanceof Uint8Array) || data.length > logLimits.dataBytes) return "its data is no octets";
  const digests = parseDigests(map.get("digests"), data);
  return typeof digests === "string" ? digests : { seq, pcr, type, digests, data };
}

function parseDigests(value: unknown, data: Uint8Array): ReadonlyMap<HashName, Uint8Array> | string {
  if (!(value instanceof Map) || value.size === 0) return "it has no digests";
  const digests = new Map<HashName, Uint8Array>();
  for (const [name, digest] of value) {
    const bank = (Object.keys(hashBytes) as HashName[]).find((known) => known === name);
    if (!bank || !(digest instanceof Uint8Array)) return "a digest of an unknown bank";
    if (!sameOctets(digest, hashOf(bank, data))) return `its ${bank} digest is not that of its data`;
    digests.set(bank, digest);
  }
  return digests;
}

/**
 * PCR values after a log, in one bank.
 * @param initial values before the first event (PCR 11 after the stub's measurements); zeros where none is given
 */
export function replayEvents(
  events: readonly MeasuredEvent[],
  bank: HashName,
  initial: ReadonlyMap<number, Uint8Array> = new Map(),
): ReadonlyMap<number, Uint8Array> {
  const values = new Map(initial);
  const zero = new Uint8Array(hashBytes[bank]);
  for (const { pcr, digests } of events) {
    const digest = digests.get(bank);
    if (digest) values.set(pcr, extended(bank, values.get(pcr) ?? zero, digest));
  }
  return values;
}
