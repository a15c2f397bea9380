import fc from "fast-check";
import t from "tap";
import { imaDigestHolds, parseImaLog, replayImaLog } from "../../../init/measure/ima-log.ts";
import { hex, imaLog, pcr } from "./fixture.ts";

const parsed = (octets: Uint8Array) => {
  const log = parseImaLog(octets);
  if (log.is === "refused") throw new Error(log.reason);
  return log;
};
const refusal = (octets: Uint8Array) => {
  const log = parseImaLog(octets);
  return log.is === "refused" ? `entry ${log.entry}: ${log.reason}` : "accepted";
};
const u32 = (value: number) => {
  const octets = Buffer.alloc(4);
  octets.writeUInt32LE(value);
  return octets;
};
const sized = (octets: Uint8Array) => Buffer.concat([u32(octets.length), octets]);
const entry = (
  template: string,
  fields: readonly Uint8Array[],
  { index = 10, digest = Buffer.alloc(20, 1) } = {},
) =>
  Buffer.concat([u32(index), digest, sized(Buffer.from(template)), sized(Buffer.concat(fields.map(sized)))]);
const fileDigest = Buffer.concat([Buffer.from("sha256:\0"), Buffer.alloc(32, 7)]);
const path = Buffer.from("/usr/lib/x\0");

t.test("a real list replays to PCR 10, and names its files", (t) => {
  const { entries, cutBytes } = parsed(imaLog);
  t.equal(cutBytes, 0);
  t.same(
    entries.map(({ name }) => name),
    ["boot_aggregate", "/loop.ko.xz", "/dm-mod.ko.xz", "/squashfs.ko.xz"],
  );
  t.ok(entries.every(imaDigestHolds));
  t.ok(entries.every(({ algorithm, digest }) => algorithm === "sha256" && digest.length === 32));
  t.equal(hex(replayImaLog(entries, "sha256").get(10)), pcr(10));
  t.end();
});

t.test("a list cut while it grew ends after a whole entry", (t) => {
  for (let length = 0; length < imaLog.length; length++) {
    const { entries, cutBytes } = parsed(imaLog.subarray(0, length));
    const first = imaLog.subarray(0, length - cutBytes);
    if (cutBytes > 0) t.equal(parsed(first).cutBytes, 0);
    if (entries.length !== parsed(first).entries.length) t.fail(`cut at ${length}`);
  }
  t.end();
});

t.test("malformed entries are refused with their number", (t) => {
  const good = entry("ima-ng", [fileDigest, path]);
  const log = (...more: Buffer[]) => Buffer.concat([good, ...more]);
  t.equal(refusal(log(entry("ima-buf", [fileDigest, path, Buffer.from("table")]))), "accepted");
  t.match(refusal(log(entry("ima-evil", [fileDigest, path]))), /entry 1: an unknown template/);
  t.match(refusal(log(entry("toString", [fileDigest, path]))), /unknown template/);
  t.match(refusal(log(entry("ima-ng", [fileDigest, path], { index: 24 }))), /PCR 24/);
  t.match(refusal(log(entry("ima-ng", [fileDigest]))), /do not fill/);
  t.match(refusal(log(entry("ima-ng", [fileDigest, path, path]))), /do not fill/);
  t.match(refusal(log(entry("ima-ng", [Buffer.alloc(20), path]))), /no algorithm/);
  t.match(refusal(log(entry("ima-ng", [fileDigest, Buffer.from("no end")]))), /no end/);
  t.match(
    refusal(log(Buffer.concat([u32(10), Buffer.alloc(20), u32(4_000_000_000)]))),
    /template name of 4000000000/,
  );
  t.match(
    refusal(log(Buffer.concat([u32(10), Buffer.alloc(20), sized(Buffer.from("ima-ng")), u32(2 ** 31)]))),
    /entry of 2147483648/,
  );
  t.end();
});

t.test("a violation extends all ones", (t) => {
  const { entries } = parsed(entry("ima-ng", [fileDigest, path], { digest: Buffer.alloc(20) }));
  t.equal(entries[0]?.violation, true);
  const clean = parsed(entry("ima-ng", [fileDigest, path])).entries;
  t.not(hex(replayImaLog(entries, "sha256").get(10)), hex(replayImaLog(clean, "sha256").get(10)));
  t.end();
});

t.test("the parser never throws on changed octets", (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(imaLog.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }),
      (changes) => {
        const log = imaLog.slice();
        for (const [at, value] of changes) log[at] = value;
        parseImaLog(log);
      },
    ),
    { numRuns: 2000 },
  );
  t.end();
});
