/** What a container's start leaves in PCR 13: DESIGN section 1. More kinds (stop, exec, update) come with the trust issue. */
import { type CborValue, decodeCbor, encodeCbor } from "../bytes/cbor.ts";
import type { EventLog } from "./log.ts";
import type { MeasuredEvent } from "./log-format.ts";

export const guestPcr = 13;

export type GuestStart = {
  readonly name: string;
  readonly version: number;
  /** SHA-256 of the signed manifest's octets. */
  readonly manifestDigest: Uint8Array;
  readonly containerUuid: string;
};

/** Measures a start before it happens: log first, then the PCR. */
export async function measureGuestStart(log: EventLog, start: GuestStart): Promise<MeasuredEvent> {
  return await log.append({ pcr: guestPcr, type: "guest", data: encodeGuestStart(start) });
}

/** The event's data: deterministic CBOR {action: "start", name, version, manifest, container}. */
export function encodeGuestStart(start: GuestStart): Uint8Array {
  return encodeCbor(
    new Map<string, CborValue>([
      ["action", "start"],
      ["name", start.name],
      ["version", start.version],
      ["manifest", start.manifestDigest],
      ["container", start.containerUuid],
    ]),
  );
}

/** The start that an event's data names; undefined where it is none. */
export function parseGuestStart(data: Uint8Array): GuestStart | undefined {
  const decoded = decodeCbor(data, { maxBytes: 4096, maxDepth: 2, maxItems: 16 });
  if (decoded.is === "refused" || !(decoded.value instanceof Map) || decoded.value.size !== 5)
    return undefined;
  const map: ReadonlyMap<unknown, unknown> = decoded.value;
  const name = map.get("name");
  const version = map.get("version");
  const manifestDigest = map.get("manifest");
  const containerUuid = map.get("container");
  if (map.get("action") !== "start" || typeof name !== "string" || typeof version !== "number")
    return undefined;
  if (!(manifestDigest instanceof Uint8Array) || typeof containerUuid !== "string") return undefined;
  return { name, version, manifestDigest, containerUuid };
}
