import { generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import { produceEvidence } from "../../../init/attest/evidence.ts";
import { type ClaimedEvidence, encodeEvidence, parseEvidence } from "../../../init/attest/evidence-format.ts";
import { type CheckName, type Verdict, verifyEvidence } from "../../../init/attest/verify.ts";
import { decode, encode } from "../../../init/bytes/struct.ts";
import { measureGuestStart } from "../../../init/measure/guest-event.ts";
import { parseImaLog } from "../../../init/measure/ima-log.ts";
import { openEventLog } from "../../../init/measure/log.ts";
import { enterPhase } from "../../../init/measure/phases.ts";
import { parseTcgLog } from "../../../init/measure/tcg-log.ts";
import { attestationKey } from "../../../init/tpm/attestation-key.ts";
import { hashOf } from "../../../init/tpm/crypto.ts";
import { ecdsaFromDer } from "../../../init/tpm/ecdsa.ts";
import { eccKeyObject } from "../../../init/tpm/keys.ts";
import { extendDigests, extendPcr } from "../../../init/tpm/pcr.ts";
import { readKey } from "../../../init/tpm/primary.ts";
import { nameOf } from "../../../init/tpm/session.ts";
import {
  objectBits,
  publicArea,
  quoteAttest,
  selectPcrs,
  signature as signatureCodec,
} from "../../../init/tpm/structures.ts";
import type { Transport } from "../../../init/tpm/transport.ts";
import { firmwareLog, imaLog } from "../measure/fixture.ts";
import { haveSwtpm, haveTools, leftHandles, meddled, startSwtpm } from "../tpm/swtpm.ts";

const skip = haveSwtpm ? {} : { skip: "swtpm is not installed" };
const nonce = new Uint8Array(randomBytes(32));
const octets = (text: string) => new TextEncoder().encode(text);

/** Brings a TPM to the state of the recorded boot, then does what init does. */
async function boot(tpm: Transport) {
  const firmware = parseTcgLog(firmwareLog);
  const ima = parseImaLog(imaLog);
  if (firmware.is === "refused" || ima.is === "refused") throw new Error("the fixture does not parse");
  for (const { pcr, digests, number } of firmware.events)
    if (number > 0) await extendDigests(tpm, pcr, digests);
  for (const { pcr, templateData } of ima.entries)
    await extendDigests(tpm, pcr, new Map([["sha256", hashOf("sha256", templateData)]]));
  const folder = await mkdtemp(join(tmpdir(), "gimbal-attest-"));
  const log = await openEventLog(tpm, join(folder, "events.cbor"));
  await enterPhase(log, "enter-initrd");
  await enterPhase(log, "leave-initrd");
  const guest = { name: "c0", version: 1, manifestDigest: new Uint8Array(32), containerUuid: "u" };
  await measureGuestStart(log, guest);
  return {
    log,
    readLogs: async () => ({ firmware: firmwareLog, ima: imaLog, events: await log.bytes() }),
    async [Symbol.asyncDispose]() {
      await log[Symbol.asyncDispose]();
      await rm(folder, { recursive: true });
    },
  };
}

/** A device, its evidence, and the name of its key. */
async function attested() {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  await using device = await boot(tpm);
  const evidence = await produceEvidence(tpm, { nonce, readLogs: device.readLogs });
  return { evidence, knownKeys: [(await readKey(tpm, attestationKey.handle))?.name ?? new Uint8Array()] };
}

const failed = (verdict: Verdict) =>
  verdict.checks.filter(({ verdict }) => verdict === "failed").map(({ name }) => name);
const claims = (evidence: Uint8Array): ClaimedEvidence => {
  const parsed = parseEvidence(evidence);
  if (parsed.is === "refused") throw new Error(parsed.reason);
  return parsed.evidence;
};

t.test("good evidence is good only with a known key", skip, async (t) => {
  const { evidence, knownKeys } = await attested();
  const verdict = verifyEvidence(evidence, { nonce, knownKeys });
  t.same(failed(verdict), []);
  t.equal(verdict.good, true);
  t.same(
    verdict.events.map(({ type }) => type),
    ["phase", "phase", "guest"],
  );
  const unknown = verifyEvidence(evidence, { nonce });
  t.equal(unknown.good, false, "a check that was not done is no pass");
  t.same(
    unknown.checks.filter(({ verdict }) => verdict === "not-done").map(({ name }) => name),
    ["key-known"],
  );
});

t.test("forged evidence fails at the check that it should", skip, async (t) => {
  const { evidence, knownKeys } = await attested();
  const real = claims(evidence);
  const quote = decode(quoteAttest, real.quote);
  const key = decode(publicArea, real.attestationKey);
  if (quote.is === "refused" || key.is === "refused" || key.value.is !== "ecc") throw new Error("malformed");
  const other = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const jwk = other.publicKey.export({ format: "jwk" });
  const point = { x: Buffer.from(jwk.x ?? "", "base64url"), y: Buffer.from(jwk.y ?? "", "base64url") };
  const signedByOther = (attest: Uint8Array) => {
    const numbers = ecdsaFromDer(sign("sha256", attest, other.privateKey));
    if (!numbers) throw new Error("no signature");
    return encode(signatureCodec, { is: "ecdsa", hash: "sha256", ...numbers });
  };
  const flipped = (bytes: Uint8Array, at: number) => {
    const copy = bytes.slice();
    copy[at] = (copy[at] ?? 0) ^ 1;
    return copy;
  };
  const requote = (change: Partial<typeof quote.value>) => encode(quoteAttest, { ...quote.value, ...change });
  const firmwareEvents = firmwareLog.length;
  const forgeries: [string, Partial<ClaimedEvidence>, CheckName][] = [
    ["another nonce", { nonce: new Uint8Array(32) }, "nonce"],
    ["magic", { quote: flipped(real.quote, 0) }, "quote"],
    ["attest type", { quote: flipped(real.quote, 5) }, "quote"],
    ["nonce within the quote", { quote: requote({ extraData: new Uint8Array(32) }) }, "quote"],
    ["a nonce's prefix", { quote: requote({ extraData: nonce.subarray(0, 16) }) }, "quote"],
    ["octets behind the quote", { quote: new Uint8Array([...real.quote, 0]) }, "quote"],
    ["fewer PCRs", { quote: requote({ pcrs: [selectPcrs("sha256", [0, 7])] }) }, "selection"],
    ["another bank", { quote: requote({ pcrs: [selectPcrs("sha1", [...Array(16).keys()])] }) }, "selection"],
    ["two banks", { quote: requote({ pcrs: [...quote.value.pcrs, selectPcrs("sha1", [0])] }) }, "selection"],
    ["no PCRs", { quote: requote({ pcrs: [] }) }, "selection"],
    ["another PCR digest", { quote: requote({ pcrDigest: new Uint8Array(32) }) }, "pcr-digest"],
    [
      "another PCR value",
      { pcrs: real.pcrs.map((value, pcr) => (pcr === 7 ? new Uint8Array(32) : value)) },
      "pcr-digest",
    ],
    ["a PCR value less", { pcrs: real.pcrs.slice(1) }, "pcr-digest"],
    [
      "an unrestricted key",
      {
        attestationKey: encode(publicArea, {
          ...key.value,
          attributes: key.value.attributes & ~objectBits.restricted,
        }),
      },
      "key",
    ],
    [
      "a key from outside",
      {
        attestationKey: encode(publicArea, {
          ...key.value,
          attributes: key.value.attributes & ~objectBits.sensitiveDataOrigin,
        }),
      },
      "key",
    ],
    ["another signature", { signature: signedByOther(real.quote) }, "signature"],
    ["a signature's bit", { signature: flipped(real.signature, 20) }, "signature"],
    [
      "clock info",
      { quote: requote({ clockInfo: { ...quote.value.clockInfo, resetCount: 99 } }) },
      "signature",
    ],
    [
      "a self-made key",
      {
        attestationKey: encode(publicArea, { ...key.value, point }),
        signature: signedByOther(real.quote),
      },
      "key-known",
    ],
    [
      "a point off the curve",
      { attestationKey: encode(publicArea, { ...key.value, point: { x: point.x, y: point.x } }) },
      "signature",
    ],
    ["the firmware log's end", { firmwareLog: firmwareLog.subarray(0, firmwareEvents - 80) }, "firmware-log"],
    ["no firmware log", { firmwareLog: new Uint8Array() }, "firmware-log"],
    ["an IMA entry less", { imaLog: imaLog.subarray(0, imaLog.length - 107) }, "ima-log"],
    ["no IMA list", { imaLog: new Uint8Array() }, "ima-log"],
    ["no own log", { eventLog: new Uint8Array() }, "event-log"],
    ["an own event cut", { eventLog: real.eventLog.subarray(0, -1) }, "event-log"],
    ["an own event's bit", { eventLog: flipped(real.eventLog, 12) }, "event-log"],
  ];
  for (const [name, change, expected] of forgeries) {
    const verdict = verifyEvidence(encodeEvidence({ ...real, ...change }), { nonce, knownKeys });
    t.equal(verdict.good, false, name);
    t.equal(
      failed(verdict)[0],
      expected,
      `${name}: ${JSON.stringify(verdict.checks.find((c) => c.verdict === "failed"))}`,
    );
  }
  const old = verifyEvidence(evidence, { nonce: new Uint8Array(randomBytes(32)), knownKeys });
  t.same(failed(old), ["nonce"], "a replayed quote");
  t.same(
    failed(verifyEvidence(evidence, { nonce: nonce.subarray(0, 8), knownKeys })),
    ["nonce"],
    "a short expectation",
  );
});

t.test("verifyEvidence never throws and never accepts changed octets", skip, async (t) => {
  const { evidence, knownKeys } = await attested();
  fc.assert(
    fc.property(fc.nat(evidence.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
      const forged = evidence.slice();
      forged[at] = (forged[at] ?? 0) ^ change;
      const verdict = verifyEvidence(forged, { nonce, knownKeys });
      // the endorsement key is not checked yet, nor the text of firmware events: a flip there may pass
      const claimed = parseEvidence(forged);
      const sameSigned =
        claimed.is === "evidence" && Buffer.from(claimed.evidence.quote).equals(claims(evidence).quote);
      return !verdict.good || sameSigned;
    }),
    { numRuns: 300 },
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), (junk) => !verifyEvidence(junk, { nonce, knownKeys }).good),
  );
  t.end();
});

t.test("produceEvidence refuses nonces that are not 32 to 64 octets", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  await using device = await boot(tpm);
  for (const length of [0, 8, 31, 65, 1000]) {
    const request = { nonce: new Uint8Array(length), readLogs: device.readLogs };
    await t.rejects(produceEvidence(tpm, request), { code: "bad-argument" }, `${length} octets`);
  }
  const long = new Uint8Array(64).fill(1);
  t.same(
    failed(
      verifyEvidence(await produceEvidence(tpm, { nonce: long, readLogs: device.readLogs }), { nonce: long }),
    ),
    [],
  );
  t.same(await leftHandles(tpm), []);
});

t.test("what is measured while the TPM signs is quoted anew", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  await using device = await boot(tpm);
  let disturbances = 0;
  const disturbed = meddled(tpm, async (_, command, pass) => {
    const isQuote = Buffer.from(command).readUInt32BE(6) === 0x158;
    if (isQuote && disturbances++ < 2) {
      await measureGuestStart(device.log, {
        name: "late",
        version: 1,
        manifestDigest: new Uint8Array(32),
        containerUuid: "v",
      });
    }
    return pass();
  });
  const evidence = await produceEvidence(disturbed, { nonce, readLogs: device.readLogs });
  const verdict = verifyEvidence(evidence, { nonce });
  t.same(failed(verdict), []);
  t.equal(verdict.events.length, 5);
});

t.test("an extend that no log names shows", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  await using device = await boot(tpm);
  await extendPcr(tpm, 14, octets("behind the log's back"));
  const verdict = verifyEvidence(await produceEvidence(tpm, { nonce, readLogs: device.readLogs }), { nonce });
  t.same(failed(verdict), ["event-log"]);
  t.match(verdict.checks.find(({ name }) => name === "event-log")?.why, /PCR 14/);
});

t.test("produceEvidence leaves nothing behind at whatever command it fails", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  await using device = await boot(tpm);
  const work = (tpm: Transport) => produceEvidence(tpm, { nonce, readLogs: device.readLogs });
  await work(tpm);
  const whole = meddled(tpm, (_, __, pass) => pass());
  await work(whole);
  const failure = new Uint8Array([0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x01]);
  for (let failing = 0; failing < whole.count; failing++) {
    await work(meddled(tpm, async (index, _, pass) => (index === failing ? failure : pass()))).catch(
      (error: unknown) => t.match(error, { code: "tpm-failure" }),
    );
    t.same(await leftHandles(tpm), [], `command ${failing}`);
  }
  t.ok(whole.count > 3);
});

t.test(
  "the peer accepts the quote",
  haveTools ? skip : { skip: "tpm2-tools are not installed" },
  async (t) => {
    await using software = await startSwtpm();
    let real: ClaimedEvidence;
    {
      await using tpm = await software.connect();
      await using device = await boot(tpm);
      real = claims(await produceEvidence(tpm, { nonce, readLogs: device.readLogs }));
    }
    const area = decode(publicArea, real.attestationKey);
    if (area.is === "refused" || area.value.is !== "ecc") throw new Error("malformed");
    const put = (name: string, content: string | Uint8Array) =>
      writeFile(join(software.folder, name), content);
    await put("ak.pem", eccKeyObject(area.value).export({ format: "pem", type: "spki" }));
    await put("quote", real.quote);
    await put("signature", real.signature);
    const arguments_ = ["-u", "ak.pem", "-m", "quote", "-s", "signature", "-g", "sha256", "-q"];
    await software.tool("checkquote", ...arguments_, Buffer.from(nonce).toString("hex"));
    await t.rejects(software.tool("checkquote", ...arguments_, "00".repeat(32)), "and not for another nonce");
    await software.tool("readpublic", "-c", "0x81010002", "-n", "ak.name");
    t.same(new Uint8Array(await readFile(join(software.folder, "ak.name"))), nameOf(area.value));
  },
);
