/**
 * gimbal's own event log: each event is written to the log before its PCR is extended, so the log never lacks what a
 * PCR holds. A CBOR sequence of maps {seq, pcr, type, digests, data} in one file, replayed by `replay`.
 */
import type { Transport } from "../tpm/transport.ts";

/** The kinds of events init extends, by name. */
export type EventType = "phase" | "guest" | "device-policy" | "volume-identity";

export type MeasuredEvent = {
  readonly seq: number;
  readonly pcr: number;
  readonly type: EventType;
  /** Bank name ("sha256") -> digest of `data` that was extended. */
  readonly digests: ReadonlyMap<string, Uint8Array>;
  /** What was hashed. */
  readonly data: Uint8Array;
};

export interface EventLog {
  /** Appends the event to the file, then extends the PCR in every active bank. Calls are carried out in order. */
  append(event: {
    readonly pcr: number;
    readonly type: EventType;
    readonly data: Uint8Array;
  }): Promise<MeasuredEvent>;
  /** The file's octets. */
  bytes(): Promise<Uint8Array>;
}

/** Opens the log file (made when absent, mode 0600; an existing one is parsed and continued). */
export async function openEventLog(_tpm: Transport, _path = "/run/gimbal/events.cbor"): Promise<EventLog> {
  throw new Error("not built yet");
}
