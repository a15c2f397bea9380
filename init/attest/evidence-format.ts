/**
 * The form of evidence: one CBOR map in snake case. The format, and what certifies the keys, may change in the trust
 * issue: its name says so ("gimbal-evidence-0").
 */
import { decodeCbor, encodeCbor } from "../bytes/cbor.ts";
import { bytesOf, listOf, oneOf, optional, parse, record, type Shaped } from "../bytes/shape.ts";

export const evidenceLimits = { bytes: 96 * 2 ** 20, nonceMin: 32, nonceMax: 64 } as const;
/** The PCRs of every quote: all that are measured into on a device. */
export const evidencePcrs: readonly number[] = Array.from({ length: 16 }, (_, index) => index);

const evidenceShape = record({
  format: oneOf("gimbal-evidence-0"),
  nonce: bytesOf({ min: evidenceLimits.nonceMin, max: evidenceLimits.nonceMax }),
  /** TPMS_ATTEST and TPMT_SIGNATURE. */
  quote: bytesOf({ max: 1024 }),
  signature: bytesOf({ max: 1024 }),
  /** TPMT_PUBLIC of the attestation key and of the endorsement key. Nothing certifies either yet. */
  attestationKey: bytesOf({ max: 1024 }),
  endorsementKey: optional(bytesOf({ max: 1024 })),
  /** Values of PCR 0 to 15, SHA-256: believed only where the quote's digest is theirs. */
  pcrs: listOf(bytesOf({ min: 32, max: 32 }), 16),
  /** binary_bios_measurements, binary_runtime_measurements, gimbal's own log. */
  firmwareLog: bytesOf({ max: 16 * 2 ** 20 }),
  imaLog: bytesOf({ max: 64 * 2 ** 20 }),
  eventLog: bytesOf({ max: 8 * 2 ** 20 }),
});

/** Evidence as it came: nothing in it is verified. */
export type ClaimedEvidence = Shaped<typeof evidenceShape>;

export type ParsedEvidence =
  | { readonly is: "evidence"; readonly evidence: ClaimedEvidence }
  | { readonly is: "refused"; readonly reason: string };

export function encodeEvidence(evidence: ClaimedEvidence): Uint8Array {
  return encodeCbor(evidenceShape.toCbor(evidence));
}

/** Never throws. */
export function parseEvidence(octets: Uint8Array): ParsedEvidence {
  const decoded = decodeCbor(octets, { maxBytes: evidenceLimits.bytes, maxDepth: 3, maxItems: 64 });
  if (decoded.is === "refused") return { is: "refused", reason: `${decoded.reason} at ${decoded.offset}` };
  const shaped = parse(evidenceShape, decoded.value);
  if (shaped.is === "refused") return { is: "refused", reason: `evidence${shaped.path} ${shaped.why}` };
  return { is: "evidence", evidence: shaped.value };
}
