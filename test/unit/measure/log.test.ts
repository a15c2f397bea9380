import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import { GimbalError } from "../../../init/errors.ts";
import { measureGuestStart, parseGuestStart } from "../../../init/measure/guest-event.ts";
import { openEventLog } from "../../../init/measure/log.ts";
import { encodeEvent, parseEventLog, replayEvents } from "../../../init/measure/log-format.ts";
import { enterPhase, phaseDigest } from "../../../init/measure/phases.ts";
import { digestsOf, extended, extendPcr, readPcrs } from "../../../init/tpm/pcr.ts";
import { haveSwtpm, meddled, startSwtpm } from "../tpm/swtpm.ts";
import { hex } from "./fixture.ts";

const skip = haveSwtpm ? {} : { skip: "swtpm is not installed" };
const octets = (text: string) => new TextEncoder().encode(text);
const guest = {
  name: "debian",
  version: 3,
  manifestDigest: new Uint8Array(32).fill(5),
  containerUuid: "00000000-0000-0000-0000-000000000001",
};

async function folder() {
  const path = await mkdtemp(join(tmpdir(), "gimbal-log-"));
  return {
    path,
    file: join(path, "events.cbor"),
    [Symbol.asyncDispose]: () => rm(path, { recursive: true }),
  };
}
const eventsOf = (bytes: Uint8Array) => {
  const parsed = parseEventLog(bytes);
  if (parsed.is === "refused") throw new Error(`event ${parsed.event}: ${parsed.reason}`);
  return parsed.events;
};

t.test("the log replays to the TPM's PCRs, in every bank", skip, async (t) => {
  await using software = await startSwtpm({ banks: "sha256,sha384" });
  await using tpm = await software.connect();
  await using scratch = await folder();
  await extendPcr(tpm, 11, octets("what the stub measured"));
  const before = await readPcrs(tpm, "sha256", [11]);
  await using log = await openEventLog(tpm, scratch.file);
  await enterPhase(log, "enter-initrd");
  await enterPhase(log, "leave-initrd");
  await Promise.all([1, 2, 3].map((version) => measureGuestStart(log, { ...guest, version })));
  const events = eventsOf(await log.bytes());
  t.same(
    events.map(({ pcr, type }) => `${pcr} ${type}`),
    ["11 phase", "11 phase", "13 guest", "13 guest", "13 guest"],
  );
  t.same(
    events.slice(2).map(({ data }) => parseGuestStart(data)?.version),
    [1, 2, 3],
    "in order",
  );
  const now = await readPcrs(tpm, "sha256", [11, 13]);
  const replayed = replayEvents(events, "sha256", before);
  t.equal(hex(replayed.get(11)), hex(now.get(11)));
  t.equal(hex(replayed.get(13)), hex(now.get(13)));
  const sha384 = await readPcrs(tpm, "sha384", [13]);
  t.equal(hex(replayEvents(events, "sha384").get(13)), hex(sha384.get(13)));
});

t.test("a phase extends the digest of its word, which the build predicts", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  await using scratch = await folder();
  await using log = await openEventLog(tpm, scratch.file);
  await enterPhase(log, "enter-initrd");
  const value = (await readPcrs(tpm, "sha256", [11])).get(11);
  t.equal(hex(value), hex(extended("sha256", new Uint8Array(32), phaseDigest("enter-initrd"))));
});

t.test("an event stands in the file before the TPM sees it", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  await using scratch = await folder();
  const failing = meddled(tpm, async (_, command, pass) => {
    if (Buffer.from(command).readUInt32BE(6) !== 0x182) return pass();
    t.equal(eventsOf(new Uint8Array(await readFile(scratch.file))).length, 1);
    throw new GimbalError("tpm-failure", { tried: "send", on: "the TPM", why: "the test says so" });
  });
  await using log = await openEventLog(failing, scratch.file);
  await t.rejects(enterPhase(log, "enter-initrd"), { code: "tpm-failure" });
});

t.test("an existing log is continued; a damaged one is refused, with the event", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  await using scratch = await folder();
  {
    await using log = await openEventLog(tpm, scratch.file);
    await enterPhase(log, "enter-initrd");
  }
  {
    await using log = await openEventLog(tpm, scratch.file);
    const event = await measureGuestStart(log, guest);
    t.equal(event.seq, 1);
  }
  const good = await readFile(scratch.file);
  t.equal(eventsOf(new Uint8Array(good)).length, 2);
  await writeFile(scratch.file, good.subarray(0, -1));
  await t.rejects(openEventLog(tpm, scratch.file), {
    code: "log-damaged",
    message: /event 1: it ends within an event/,
  });
});

t.test("parseEventLog never throws, and refuses changed, doubled, missing and swapped events", (t) => {
  const events = ["a", "b", "c"].map((word, seq) => ({
    seq,
    pcr: 13,
    type: "guest" as const,
    data: octets(word),
    digests: digestsOf(["sha256", "sha384"], octets(word)),
  }));
  const parts = events.map(encodeEvent);
  const join = (...indices: number[]) =>
    new Uint8Array(Buffer.concat(indices.map((index) => parts[index] ?? new Uint8Array())));
  const whole = join(0, 1, 2);
  t.equal(parseEventLog(whole).is, "log");
  const reason = (log: Uint8Array) => {
    const parsed = parseEventLog(log);
    return parsed.is === "refused" ? `event ${parsed.event}: ${parsed.reason}` : "accepted";
  };
  t.match(reason(join(0, 2)), /event 1: its number/);
  t.match(reason(join(0, 1, 1)), /event 2: its number/);
  t.match(reason(join(1, 0)), /event 0: its number/);
  const foreign = { ...events[0], data: octets("z") } as (typeof events)[0];
  t.match(reason(encodeEvent(foreign)), /event 0: its sha256 digest is not that of its data/);
  t.match(reason(encodeEvent({ ...foreign, pcr: 24 })), /PCR/);
  t.match(reason(new Uint8Array([0, 0, 0, 0])), /a length of 0/);
  t.match(reason(new Uint8Array([0xff, 0xff, 0xff, 0xff])), /a length of 4294967295/);
  t.throws(() => encodeEvent({ ...foreign, data: new Uint8Array(16_385) }), RangeError);
  let accepted = 0;
  for (let at = 0; at < whole.length; at++) {
    const log = whole.slice();
    log[at] = (log[at] ?? 0) ^ 1;
    if (parseEventLog(log).is === "log") accepted++;
  }
  t.ok(accepted <= 3, `${accepted} flips change the PCR's number only: the replay shows those`);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (log) => {
      parseEventLog(log);
      parseGuestStart(log);
    }),
  );
  t.end();
});
