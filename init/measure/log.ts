/**
 * gimbal's own event log: each event is written to the log before its PCR is extended, so the log never lacks what a
 * PCR holds. The file lies on a tmpfs and lives as long as the PCRs do. Its form and its replay: log-format.ts.
 */
import { type FileHandle, open } from "node:fs/promises";
import { GimbalError } from "../errors.ts";
import { activeBanks, digestsOf, extendDigests } from "../tpm/pcr.ts";
import type { HashName } from "../tpm/structures.ts";
import type { Transport } from "../tpm/transport.ts";
import { type EventType, encodeEvent, logLimits, type MeasuredEvent, parseEventLog } from "./log-format.ts";

/** What is to be measured. At most 16 KiB of data. */
export type Measurement = { readonly pcr: number; readonly type: EventType; readonly data: Uint8Array };

export interface EventLog extends AsyncDisposable {
  /** Appends the event to the file, then extends the PCR in every active bank. Calls are carried out in order. */
  append(measurement: Measurement): Promise<MeasuredEvent>;
  /** The file's octets so far, whole events only. */
  bytes(): Promise<Uint8Array>;
}

/**
 * Opens the log file for this boot (made when absent, mode 0600; an existing one is parsed and continued). The caller
 * owns it. Throws "log-damaged" where an existing file does not parse, "tpm-failure" where the TPM does not answer.
 */
export async function openEventLog(tpm: Transport, path = "/run/gimbal/events.cbor"): Promise<EventLog> {
  const banks = await activeBanks(tpm);
  const file = await open(path, "a+", 0o600);
  try {
    const parsed = parseEventLog(await readAll(file));
    if (parsed.is === "log") return continueLog(tpm, banks, file, parsed.events.length);
    throw new GimbalError("log-damaged", {
      tried: "continue the event log",
      on: path,
      why: `event ${parsed.event}: ${parsed.reason}`,
      todo: "restart the device: the log and the PCRs then begin anew together",
    });
  } catch (error) {
    await file.close();
    throw error;
  }
}

function continueLog(
  tpm: Transport,
  banks: readonly HashName[],
  file: FileHandle,
  firstSeq: number,
): EventLog {
  let seq = firstSeq;
  let closed = false;
  let last: Promise<unknown> = Promise.resolve();
  const inOrder = <T>(work: () => Promise<T>): Promise<T> => {
    const mine = last.then(work, work); // whoever asked for the work before was told of its failure
    last = mine;
    return mine;
  };
  return {
    append: ({ pcr, type, data }) =>
      inOrder(async () => {
        const event = { seq, pcr, type, data: data.slice(), digests: digestsOf(banks, data) };
        // The log first: an extend without its event could never be explained, an event without its extend can.
        await appendWhole(file, encodeEvent(event));
        seq++;
        await extendDigests(tpm, pcr, event.digests);
        return event;
      }),
    bytes: () => inOrder(() => readAll(file)),
    [Symbol.asyncDispose]: () =>
      inOrder(async () => {
        if (closed) return;
        closed = true;
        await file.close();
      }),
  };
}

/** Appends all octets or none: half an event would spoil the log for the rest of the boot. */
async function appendWhole(file: FileHandle, octets: Uint8Array): Promise<void> {
  const { size } = await file.stat();
  try {
    await file.appendFile(octets);
  } catch (error) {
    await file.truncate(size);
    throw error;
  }
}

/** Reads from the start, whatever stat says of the size. */
async function readAll(file: FileHandle): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for (let position = 0; position <= logLimits.bytes; ) {
    const chunk = new Uint8Array(65_536);
    const { bytesRead } = await file.read(chunk, 0, chunk.length, position);
    if (bytesRead === 0) break;
    chunks.push(chunk.subarray(0, bytesRead));
    position += bytesRead;
  }
  return new Uint8Array(Buffer.concat(chunks));
}
