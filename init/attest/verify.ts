/**
 * Verifies evidence, trusting nothing in it that was not verified. Each check is listed as passed, failed or not done;
 * only when all passed is the evidence good. There is no default that accepts.
 * Left out until the trust issue: certificate chains, reference values, GuestOS signers.
 */
import { decode } from "../bytes/struct.ts";
import { parseImaLog, replayImaLog } from "../measure/ima-log.ts";
import { type MeasuredEvent, parseEventLog, replayEvents } from "../measure/log-format.ts";
import { parseTcgLog, replayTcgLog } from "../measure/tcg-log.ts";
import { isAttestationKey } from "../tpm/attestation-key.ts";
import { sameOctets } from "../tpm/crypto.ts";
import { pcrDigestOf } from "../tpm/policy-digest.ts";
import { verifyTpmSignature } from "../tpm/quote.ts";
import { nameOf } from "../tpm/session.ts";
import {
  type PublicArea,
  publicArea,
  type QuoteAttest,
  quoteAttest,
  selectedPcrs,
} from "../tpm/structures.ts";
import { type ClaimedEvidence, evidenceLimits, evidencePcrs, parseEvidence } from "./evidence-format.ts";

export const checkNames = [
  "form",
  "nonce",
  "quote",
  "selection",
  "pcr-digest",
  "key",
  "signature",
  "key-known",
  "firmware-log",
  "ima-log",
  "event-log",
] as const;
export type CheckName = (typeof checkNames)[number];

export type Check = {
  readonly name: CheckName;
  readonly verdict: "passed" | "failed" | "not-done";
  /** In words, for a failed or omitted check. */
  readonly why?: string;
};

export type Verdict = {
  /** True only where every check passed. */
  readonly good: boolean;
  readonly checks: readonly Check[];
  /** What the own log says, once "event-log" and all before it passed; else empty. */
  readonly events: readonly MeasuredEvent[];
  /** PCR values, once the quote vouches for them; else empty. */
  readonly pcrs: ReadonlyMap<number, Uint8Array>;
};

export type Expectation = {
  /** The nonce that was asked with: 32 to 64 octets. */
  readonly nonce: Uint8Array;
  /** Names of attestation keys that are known to lie in genuine devices. Without any, "key-known" is not done. */
  readonly knownKeys?: readonly Uint8Array[];
};

/** Verifies evidence. Never throws. */
export function verifyEvidence(octets: Uint8Array, expected: Expectation): Verdict {
  const checks = new Map<CheckName, Check>(
    checkNames.map((name) => [name, { name, verdict: "not-done", why: "an earlier check failed" }]),
  );
  const check = (name: CheckName, failure: string | undefined): boolean => {
    checks.set(
      name,
      failure === undefined ? { name, verdict: "passed" } : { name, verdict: "failed", why: failure },
    );
    return failure === undefined;
  };
  const verdict = (pcrs = new Map<number, Uint8Array>(), events: readonly MeasuredEvent[] = []): Verdict => {
    const list = [...checks.values()];
    const good = list.every((each) => each.verdict === "passed");
    return { good, checks: list, pcrs, events };
  };

  const parsed = parseEvidence(octets);
  if (!check("form", parsed.is === "refused" ? parsed.reason : undefined) || parsed.is === "refused")
    return verdict();
  const { evidence } = parsed;
  if (!check("nonce", nonceFailure(evidence, expected.nonce))) return verdict();
  const quote = decode(quoteAttest, evidence.quote);
  const quoteWrong = quote.is === "refused" ? quote.reason : quoteFailure(quote.value, expected.nonce);
  if (!check("quote", quoteWrong) || quote.is === "refused") return verdict();
  if (!check("selection", selectionFailure(quote.value))) return verdict();
  const pcrs = new Map(evidence.pcrs.map((value, pcr) => [pcr, value]));
  if (!check("pcr-digest", pcrFailure(evidence, quote.value, pcrs))) return verdict();
  const key = decode(publicArea, evidence.attestationKey);
  const keyWrong = key.is === "refused" ? key.reason : keyFailure(key.value);
  if (!check("key", keyWrong) || key.is === "refused") return verdict();
  const signed = verifyTpmSignature(key.value, evidence.quote, evidence.signature);
  if (!check("signature", signed ? undefined : "it is not the key's signature over the quote"))
    return verdict();
  checks.set("key-known", knownCheck(key.value, expected.knownKeys));
  const events = checkLogs(evidence, pcrs, check);
  return verdict(pcrs, events);
}

function nonceFailure(evidence: ClaimedEvidence, nonce: Uint8Array): string | undefined {
  if (nonce.length < evidenceLimits.nonceMin || nonce.length > evidenceLimits.nonceMax)
    return `the expected nonce has ${nonce.length} octets, not 32 to 64`;
  return sameOctets(evidence.nonce, nonce) ? undefined : "it is not the one that was asked with";
}

/** Magic and type were checked when the structure was read. */
function quoteFailure(quote: QuoteAttest, nonce: Uint8Array): string | undefined {
  return sameOctets(quote.extraData, nonce) ? undefined : "it was made for another nonce";
}

function selectionFailure({ pcrs }: QuoteAttest): string | undefined {
  const [only, ...more] = pcrs;
  if (!only || more.length > 0 || only.hash !== "sha256") return "it is not over the sha256 bank alone";
  return selectedPcrs(only).join() === evidencePcrs.join() ? undefined : "it is not over PCR 0 to 15";
}

function pcrFailure(
  evidence: ClaimedEvidence,
  quote: QuoteAttest,
  pcrs: ReadonlyMap<number, Uint8Array>,
): string | undefined {
  if (evidence.pcrs.length !== evidencePcrs.length) return `${evidence.pcrs.length} values instead of 16`;
  return sameOctets(pcrDigestOf(pcrs), quote.pcrDigest)
    ? undefined
    : "the values are not those that were quoted";
}

function keyFailure(area: PublicArea): string | undefined {
  return isAttestationKey(area) ? undefined : "it is no restricted signing key that was made in a TPM";
}

function knownCheck(area: PublicArea, known: readonly Uint8Array[] | undefined): Check {
  const name = "key-known";
  if (!known?.length)
    return { name, verdict: "not-done", why: "no known keys were given: any TPM could have signed this" };
  const found = known.some((each) => sameOctets(each, nameOf(area)));
  return found
    ? { name, verdict: "passed" }
    : { name, verdict: "failed", why: "it is none of the known keys" };
}

const zero = new Uint8Array(32);
type PcrValues = ReadonlyMap<number, Uint8Array>;

function mismatch(replayed: PcrValues, quoted: PcrValues, pcrs: readonly number[]): string | undefined {
  const wrong = pcrs.filter((pcr) => !sameOctets(replayed.get(pcr) ?? zero, quoted.get(pcr) ?? zero));
  return wrong.length > 0 ? `it does not replay to PCR ${wrong.join(", ")}` : undefined;
}

const firmwarePcrs = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
const ownPcrs = [11, 12, 13, 14, 15];

/** Replays all three logs. PCR 11 to 15 begin with what the stub measured and go on with our own log. */
function checkLogs(
  evidence: ClaimedEvidence,
  quoted: PcrValues,
  check: (name: CheckName, failure: string | undefined) => boolean,
): readonly MeasuredEvent[] {
  const firmware = parseTcgLog(evidence.firmwareLog);
  const first = firmware.is === "log" ? replayTcgLog(firmware, "sha256") : new Map<number, Uint8Array>();
  check(
    "firmware-log",
    firmware.is === "refused"
      ? `event ${firmware.event}: ${firmware.reason}`
      : mismatch(first, quoted, firmwarePcrs),
  );
  const ima = parseImaLog(evidence.imaLog);
  check(
    "ima-log",
    ima.is === "refused"
      ? `entry ${ima.entry}: ${ima.reason}`
      : ima.cutBytes > 0
        ? "it ends within an entry"
        : mismatch(replayImaLog(ima.entries, "sha256"), quoted, [10]),
  );
  const own = parseEventLog(evidence.eventLog);
  const failure =
    own.is === "refused"
      ? `event ${own.event}: ${own.reason}`
      : mismatch(replayEvents(own.events, "sha256", first), quoted, ownPcrs);
  return check("event-log", failure) && own.is === "log" ? own.events : [];
}
