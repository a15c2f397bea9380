import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import fc from "fast-check";
import t from "tap";
import { parseTcgLog, replayTcgLog } from "../../../init/measure/tcg-log.ts";
import { firmwareLog, firmwareLogPath, hex, pcr } from "./fixture.ts";

const real = () => {
  const log = parseTcgLog(firmwareLog);
  if (log.is === "refused") throw new Error(log.reason);
  return log;
};
const refusal = (octets: Uint8Array) => {
  const log = parseTcgLog(octets);
  return log.is === "refused" ? `event ${log.event} at ${log.offset}: ${log.reason}` : "accepted";
};
const u32 = (value: number) => {
  const octets = Buffer.alloc(4);
  octets.writeUInt32LE(value);
  return octets;
};
const u16 = (value: number) => u32(value).subarray(0, 2);

/** A Spec ID event with these algorithms and digest sizes. */
function specId(algorithms: readonly (readonly [number, number])[], text = "Spec ID Event03\0") {
  const list = algorithms.map(([id, size]) => Buffer.concat([u16(id), u16(size)]));
  const data = Buffer.concat([
    Buffer.from(text),
    Buffer.alloc(8),
    u32(algorithms.length),
    ...list,
    Buffer.from([0]),
  ]);
  return Buffer.concat([u32(0), u32(3), Buffer.alloc(20), u32(data.length), data]);
}
function event(
  index: number,
  type: number,
  digests: readonly (readonly [number, number])[],
  data = Buffer.from("data"),
) {
  const list = digests.map(([id, size]) => Buffer.concat([u16(id), Buffer.alloc(size, 1)]));
  return Buffer.concat([u32(index), u32(type), u32(digests.length), ...list, u32(data.length), data]);
}
const sha256 = [0x0b, 32] as const;
const sha384 = [0x0c, 48] as const;

t.test("a log that is no crypto-agile one is refused, and says why", (t) => {
  t.match(refusal(Buffer.alloc(0)), /empty/);
  t.match(refusal(specId([sha256], "Spec ID Event02\0")), /event 0 .*legacy log/);
  t.match(refusal(specId([])), /0 algorithms/);
  t.match(refusal(specId([[0x0b, 20]])), /digest size 20/);
  t.match(refusal(specId([sha256, sha256])), /twice/);
  t.match(refusal(specId(Array.from({ length: 17 }, (_, id) => [id + 100, 32] as const))), /17 algorithms/);
  t.end();
});

t.test("a malformed event is refused with its number", (t) => {
  const head = specId([sha256, sha384]);
  const good = event(1, 1, [sha384, sha256]); // in another order than the Spec ID event
  const log = (...events: Buffer[]) => Buffer.concat([head, good, ...events]);
  t.equal(refusal(log(good)), "accepted");
  t.match(refusal(log(event(24, 1, [sha256, sha384]))), /event 2 .*PCR 24/);
  t.match(refusal(log(event(1, 1, [sha256]))), /event 2 .*missing/);
  t.match(refusal(log(event(1, 1, [sha256, sha256]))), /two digests/);
  t.match(refusal(log(event(1, 1, [sha256, [0x04, 20]]))), /0x4, which the Spec ID event lacks/);
  t.match(refusal(log(event(1, 1, [sha256, sha384, sha256]))), /3 digests for 2 banks/);
  t.match(
    refusal(log(Buffer.concat([good.subarray(0, -8), u32(0xffffffff)]))),
    /an event of 4294967295 octets/,
  );
  t.match(
    refusal(log(Buffer.concat([good.subarray(0, -8), u32(2 ** 20)]))),
    /needs 1048576 octets, 0 are left/,
  );
  t.end();
});

t.test("unknown event types and algorithms are no errors", (t) => {
  const sm3 = [0x12, 32] as const;
  const log = parseTcgLog(Buffer.concat([specId([sha256, sm3]), event(1, 0x8000_1234, [sha256, sm3])]));
  t.equal(log.is, "log");
  t.same(log.is === "log" && log.banks, ["sha256"]);
  t.end();
});

t.test("a real log, cut at any octet, is refused or ends after a whole event", (t) => {
  const whole = real().events.length;
  const seen = new Set<number>();
  for (let length = 1; length < firmwareLog.length; length++) {
    const log = parseTcgLog(firmwareLog.subarray(0, length));
    if (log.is === "log") seen.add(log.events.length);
  }
  t.equal(seen.size, whole - 1, "one cut for each event");
  t.end();
});

t.test("the parser never throws on changed octets", (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(firmwareLog.length - 1), fc.nat(255)), { minLength: 1, maxLength: 5 }),
      (changes) => {
        const log = firmwareLog.slice();
        for (const [at, value] of changes) log[at] = value;
        parseTcgLog(log);
      },
    ),
    { numRuns: 1000 },
  );
  t.end();
});

t.test("a real log replays to the TPM's PCRs", (t) => {
  const values = replayTcgLog(real(), "sha256");
  t.same(
    [...values.keys()].sort((a, b) => a - b),
    [0, 1, 2, 3, 4, 5, 6, 7, 9, 11],
  );
  for (const [index, value] of values) t.equal(hex(value), pcr(index), `PCR ${index}`);
  t.end();
});

t.test("the start-up locality is the first value of PCR 0", (t) => {
  const locality = event(0, 3, [sha256], Buffer.from("StartupLocality\0\x03", "latin1"));
  const log = parseTcgLog(Buffer.concat([specId([sha256]), locality, event(0, 1, [sha256])]));
  if (log.is === "refused") throw new Error(log.reason);
  t.equal(log.startupLocality, 3);
  const zero = parseTcgLog(Buffer.concat([specId([sha256]), event(0, 1, [sha256])]));
  if (zero.is === "refused") throw new Error(zero.reason);
  t.not(hex(replayTcgLog(log, "sha256").get(0)), hex(replayTcgLog(zero, "sha256").get(0)));
  t.end();
});

const peer = existsSync("/usr/bin/tpm2_eventlog");
t.test(
  "the peer computes the same PCRs from the log",
  peer ? {} : { skip: "tpm2-tools are not installed" },
  (t) => {
    const text = execFileSync("tpm2_eventlog", [firmwareLogPath], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
    const theirs = [...text.slice(text.indexOf("\npcrs:")).matchAll(/^ +(\d+) *: 0x([0-9a-f]{64})$/gm)];
    t.ok(theirs.length >= 10, `${theirs.length} PCRs`);
    const values = replayTcgLog(real(), "sha256");
    for (const [, index, value] of theirs) t.equal(hex(values.get(Number(index))), value, `PCR ${index}`);
    t.end();
  },
);
