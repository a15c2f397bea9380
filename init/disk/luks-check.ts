/**
 * What in a LUKS2 header gimbal itself writes; all else is a refusal by name. It matters beyond neatness: a header whose key
 * slot or segment names another cipher (cipher_null above all) opens with any key, and then /data would be an enemy's.
 *
 * gimbal's header: segment 0 (crypt, aes-xts-plain64, to the end), digest 0 over it, key slots 0 to 3, each named by a token:
 *   "gimbal-tpm2" {keyslots, blob}   the slot's key sealed to the TPM     "gimbal-recovery" {keyslots}   the operator's slot
 *   "gimbal-clear" {keyslots, key}   only where the board has no storage key at all
 * Slots 2 and 3 take turns with 0 and 1 when a key is exchanged; one that no token names was left by a power cut.
 */
import { type ParsedBlob, parseSealedBlob, type SealedBlob } from "../tpm/blob.ts";
import { entriesOf, fieldOf, isRecord, textsOf } from "./json.ts";
import type { LuksHeader } from "./luks-header.ts";

export const volumeLabel = "gimbal-data";
/** The label until the volume is complete: a header with it is an initialisation that was cut. */
export const unfinishedLabel = "gimbal-new";
export const volumeSubsystem = "gimbal";
export const cipher = "aes-xts-plain64";

export type SealedToken =
  | { readonly is: "sealed"; readonly tokenId: number; readonly slot: number; readonly blob: SealedBlob }
  | { readonly is: "clear"; readonly tokenId: number; readonly slot: number; readonly key: Uint8Array }
  | { readonly is: "damaged"; readonly tokenId: number; readonly slot: number; readonly why: string };

export type LuksCheck =
  | {
      readonly is: "ours";
      /** Usually one; after a power cut within a reseal two. */
      readonly tokens: readonly SealedToken[];
      readonly recovery: readonly { readonly tokenId: number; readonly slot: number }[];
      /** Slots that no token names. */
      readonly strays: readonly number[];
    }
  | { readonly is: "foreign"; readonly why: string };

const slotsMax = 4;
const tokensMax = 8;

/** Checks a header that was read from the data partition. Never throws. */
export function checkLuksHeader(header: LuksHeader): LuksCheck {
  const why =
    (header.label !== volumeLabel || header.subsystem !== volumeSubsystem
      ? "it is an encrypted volume, but not labelled as gimbal's"
      : undefined) ??
    segmentFault(header) ??
    slotFault(header) ??
    digestFault(header) ??
    tokenFault(header);
  if (why !== undefined) return { is: "foreign", why };
  const tokens = entriesOf(fieldOf(header.metadata, "tokens")).map(([id, token]) => ({
    tokenId: Number(id),
    type: fieldOf(token, "type"),
    slot: slotOf(token) ?? -1,
    token,
  }));
  const named = new Set(tokens.map(({ slot }) => slot));
  return {
    is: "ours",
    tokens: tokens
      .filter(({ type }) => type !== "gimbal-recovery")
      .map(({ tokenId, slot, token }) => sealedToken(tokenId, slot, token)),
    recovery: tokens
      .filter(({ type }) => type === "gimbal-recovery")
      .map(({ tokenId, slot }) => ({ tokenId, slot })),
    strays: entriesOf(fieldOf(header.metadata, "keyslots"))
      .map(([id]) => Number(id))
      .filter((slot) => !named.has(slot)),
  };
}

function segmentFault({ metadata, headerBytes }: LuksHeader): string | undefined {
  const segments = entriesOf(fieldOf(metadata, "segments"));
  const [first] = segments;
  if (segments.length !== 1 || first?.[0] !== "0") return "it has other than one data segment";
  const segment = first[1];
  const strange = namesBeyond(segment, ["type", "offset", "size", "iv_tweak", "encryption", "sector_size"]);
  if (strange !== undefined) return `its data segment has a field ${strange}`;
  if (fieldOf(segment, "type") !== "crypt" || fieldOf(segment, "encryption") !== cipher)
    return `its data is not encrypted with ${cipher}`;
  if (fieldOf(segment, "size") !== "dynamic" || fieldOf(segment, "iv_tweak") !== "0")
    return "its data segment has another place";
  const sector = fieldOf(segment, "sector_size");
  if (sector !== 512 && sector !== 4096) return "its sector size is unusual";
  const offset = fieldOf(segment, "offset");
  if (typeof offset !== "string" || !/^[0-9]{1,12}$/.test(offset) || Number(offset) < headerBytes)
    return "its data segment lies in its header";
  if (entriesOf(fieldOf(fieldOf(metadata, "config"), "requirements")).length > 0)
    return "it has unfinished work of another tool";
  return undefined;
}

function slotFault({ metadata }: LuksHeader): string | undefined {
  const slots = entriesOf(fieldOf(metadata, "keyslots"));
  if (slots.length === 0) return "it has no key slot";
  for (const [id, slot] of slots) {
    if (!/^[0-3]$/.test(id))
      return `key slot ${digitsOf(id)} was added by another tool (gimbal has 0 to ${slotsMax - 1})`;
    const area = fieldOf(slot, "area");
    const kdf = fieldOf(slot, "kdf");
    const usual =
      fieldOf(slot, "type") === "luks2" &&
      fieldOf(slot, "key_size") === 64 &&
      fieldOf(area, "type") === "raw" &&
      fieldOf(area, "encryption") === cipher &&
      fieldOf(area, "key_size") === 64 &&
      fieldOf(kdf, "type") === "pbkdf2" &&
      fieldOf(kdf, "hash") === "sha256";
    if (!usual) return `key slot ${id} is protected in another way than gimbal does it`;
  }
  return undefined;
}

function digestFault({ metadata }: LuksHeader): string | undefined {
  const digests = entriesOf(fieldOf(metadata, "digests"));
  const digest = digests[0]?.[1];
  const slots = entriesOf(fieldOf(metadata, "keyslots")).map(([id]) => id);
  if (digests.length !== 1 || fieldOf(digest, "type") !== "pbkdf2") return "it has other than one key digest";
  if (textsOf(fieldOf(digest, "segments")).join() !== "0") return "its key digest is not that of the data";
  const covered = new Set(textsOf(fieldOf(digest, "keyslots")));
  if (covered.size !== slots.length || slots.some((id) => !covered.has(id)))
    return "a key slot belongs to no key digest";
  return undefined;
}

function tokenFault({ metadata }: LuksHeader): string | undefined {
  const tokens = entriesOf(fieldOf(metadata, "tokens"));
  if (tokens.length > tokensMax) return "it has too many tokens";
  for (const [id, token] of tokens) {
    if (!/^[0-9]{1,2}$/.test(id) || !isRecord(token)) return "a token has no number";
    const type = fieldOf(token, "type");
    if (type !== "gimbal-tpm2" && type !== "gimbal-recovery" && type !== "gimbal-clear")
      return `token ${id} was added by another tool`;
    if (slotOf(token) === undefined) return `token ${id} names other than one key slot`;
  }
  return undefined;
}

function sealedToken(tokenId: number, slot: number, token: unknown): SealedToken {
  const damaged = (why: string): SealedToken => ({ is: "damaged", tokenId, slot, why });
  if (fieldOf(token, "type") === "gimbal-clear") {
    const key = fieldOf(token, "key");
    if (typeof key !== "string" || !/^[0-9a-f]{64}$/.test(key)) return damaged("its key is no key");
    return { is: "clear", tokenId, slot, key: new Uint8Array(Buffer.from(key, "hex")) };
  }
  const parsed: ParsedBlob = parseSealedBlob(fieldOf(token, "blob"));
  return parsed.is === "blob"
    ? { is: "sealed", tokenId, slot, blob: parsed.blob }
    : damaged(`its sealed object: ${parsed.reason}`);
}

function slotOf(token: unknown): number | undefined {
  const [slot, second] = textsOf(fieldOf(token, "keyslots"));
  return slot !== undefined && second === undefined && /^[0-3]$/.test(slot) ? Number(slot) : undefined;
}

function namesBeyond(value: unknown, known: readonly string[]): string | undefined {
  const found = entriesOf(value).find(([name]) => !known.includes(name))?.[0];
  return found === undefined ? undefined : JSON.stringify(found.slice(0, 32));
}

const digitsOf = (id: string) => (/^[0-9]{1,3}$/.test(id) ? id : "of an odd name");
