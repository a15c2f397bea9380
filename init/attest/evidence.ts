/** Evidence of what booted and runs: a quote over PCR 0 to 15 with the logs that explain them. */
import { encode } from "../bytes/struct.ts";
import { GimbalError } from "../errors.ts";
import { parseImaLog, replayImaLog } from "../measure/ima-log.ts";
import { attestationKey, readEndorsementKey } from "../tpm/attestation-key.ts";
import { sameOctets } from "../tpm/crypto.ts";
import { readPcrs } from "../tpm/pcr.ts";
import { pcrDigestOf } from "../tpm/policy-digest.ts";
import { ensurePrimary } from "../tpm/primary.ts";
import { quotePcrs } from "../tpm/quote.ts";
import { publicArea } from "../tpm/structures.ts";
import type { Transport } from "../tpm/transport.ts";
import { encodeEvidence, evidenceLimits, evidencePcrs } from "./evidence-format.ts";

export type Logs = {
  /** /sys/kernel/security/tpm0/binary_bios_measurements, empty where there is none. */
  readonly firmware: Uint8Array;
  /** /sys/kernel/security/ima/binary_runtime_measurements, empty where there is none. */
  readonly ima: Uint8Array;
  /** `EventLog.bytes()`. */
  readonly events: Uint8Array;
};

export type EvidenceRequest = {
  /** The verifier's: 32 to 64 octets. */
  readonly nonce: Uint8Array;
  /** Reads the logs as they are; called several times, as they may grow while the TPM signs. */
  readonly readLogs: () => Promise<Logs>;
};

const attempts = 5;

/**
 * Produces evidence: CBOR octets, see evidence-format.ts. Logs and registers agree: where something was measured
 * meanwhile, all is taken again. Throws "bad-argument" for another nonce, "tpm-failure". Leaves no handle behind.
 */
export async function produceEvidence(tpm: Transport, request: EvidenceRequest): Promise<Uint8Array> {
  const { nonce, readLogs } = request;
  if (nonce.length < evidenceLimits.nonceMin || nonce.length > evidenceLimits.nonceMax) {
    throw new GimbalError("bad-argument", {
      tried: "attest with",
      on: `a nonce of ${nonce.length} octets`,
      why: `it must have ${evidenceLimits.nonceMin} to ${evidenceLimits.nonceMax}`,
    });
  }
  const endorsementKey = encode(publicArea, await readEndorsementKey(tpm));
  await using key = await ensurePrimary(tpm, attestationKey);
  for (let attempt = 1; ; attempt++) {
    const logs = await readLogs();
    const values = await readPcrs(tpm, "sha256", evidencePcrs);
    const quote = await quotePcrs(tpm, key, nonce, "sha256", evidencePcrs);
    const steady =
      sameOctets(quote.read.pcrDigest, pcrDigestOf(values)) &&
      sameLogs(logs, await readLogs()) &&
      imaAgrees(logs.ima, values.get(10));
    // The last attempt goes out as it is: a list that never agrees is for the verifier to see, not to be kept from it.
    if (!steady && attempt < attempts) continue;
    return encodeEvidence({
      format: "gimbal-evidence-0",
      nonce,
      quote: quote.attest,
      signature: quote.signature,
      attestationKey: encode(publicArea, key.public),
      endorsementKey,
      pcrs: evidencePcrs.map((pcr) => values.get(pcr) ?? new Uint8Array(32)),
      firmwareLog: logs.firmware,
      imaLog: logs.ima,
      eventLog: logs.events,
    });
  }
}

function sameLogs(a: Logs, b: Logs): boolean {
  const pairs = [
    [a.firmware, b.firmware],
    [a.ima, b.ima],
    [a.events, b.events],
  ] as const;
  return pairs.every(([one, other]) => Buffer.compare(one, other) === 0);
}

/** The kernel appends to its list before it extends: between the two, list and register differ. */
function imaAgrees(list: Uint8Array, pcr10: Uint8Array | undefined): boolean {
  const parsed = parseImaLog(list);
  if (parsed.is === "refused" || parsed.cutBytes > 0) return false;
  const replayed = replayImaLog(parsed.entries, "sha256").get(10) ?? new Uint8Array(32);
  return pcr10 !== undefined && sameOctets(replayed, pcr10);
}
