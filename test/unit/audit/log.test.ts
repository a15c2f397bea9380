import { appendFileSync, mkdtempSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { walkSegment } from "../../../init/audit/chain.ts";
import { openAuditLog, verifyAuditLog } from "../../../init/audit/log.ts";
import { type AuditRecord, encodeRecord, noDigest, readRecord } from "../../../init/audit/record.ts";

const folder = () => mkdtempSync(join(tmpdir(), "gimbal-audit-"));
const first = "0000000000000001.audit";

async function filled(records: number, options = {}) {
  const dir = folder();
  const log = await openAuditLog(dir, options);
  for (let number = 1; number <= records; number++) await log.append("test", `record ${number}`);
  const head = log.head();
  await log.close();
  return { dir, head };
}

async function records(dir: string): Promise<AuditRecord[]> {
  const seen: AuditRecord[] = [];
  await verifyAuditLog(dir, (record) => seen.push(record));
  return seen;
}

t.test("a log that was changed in any octet does not verify", async (t) => {
  const { dir } = await filled(5);
  const path = join(dir, first);
  const whole = readFileSync(path);
  const last = whole.length - 1;
  let tried = 0;
  for (let at = 0; at <= last; at++) {
    const bad = Buffer.from(whole);
    bad[at] = (bad[at] ?? 0) ^ 0x40;
    writeFileSync(path, bad);
    const verdict = await verifyAuditLog(dir);
    // Within the last record a change of its content shows only against a head kept elsewhere.
    const changedHead = verdict.is === "whole" && (verdict.records < 5 || verdict.tailCut || at > last - 80);
    if (verdict.is === "whole" && !changedHead) t.fail(`octet ${at}`);
    tried++;
  }
  t.equal(tried, whole.length);
});

t.test("a record taken out, doubled or exchanged breaks the chain", async (t) => {
  const { dir } = await filled(4);
  const path = join(dir, first);
  const whole = readFileSync(path);
  const parts: Buffer[] = [];
  for (let at = 0; at < whole.length; ) {
    const length = 4 + whole.readUInt32BE(at);
    parts.push(whole.subarray(at, at + length));
    at += length;
  }
  const [a, b, c, d] = parts as [Buffer, Buffer, Buffer, Buffer];
  for (const [name, order] of Object.entries({
    "taken out": [a, b, d],
    doubled: [a, b, b, c, d],
    exchanged: [a, c, b, d],
    "without the first": [b, c, d],
  })) {
    writeFileSync(path, Buffer.concat(order));
    t.match(await verifyAuditLog(dir), { is: "broken", segment: first }, name);
  }
});

t.test("a tail cut at any octet loses only the last record, and the log says so", async (t) => {
  const { dir } = await filled(3);
  const whole = readFileSync(join(dir, first));
  const lastLength = (await records(dir)).map((record) => encodeRecord(record).octets.length).at(-1) ?? 0;
  t.ok(lastLength > 50);
  for (let lost = 1; lost < lastLength; lost += 3) {
    const cut = folder();
    writeFileSync(join(cut, first), whole.subarray(0, whole.length - lost));
    const log = await openAuditLog(cut);
    t.equal(await log.append("after", null), 4, `${lost} octets lost`);
    await log.close();
    t.match(
      (await records(cut)).map(({ type }) => type),
      ["test", "test", "audit-tail-cut", "after"],
    );
    t.match(await verifyAuditLog(cut), { is: "whole", records: 4, tailCut: false });
  }
});

t.test("zeros at the end are a cut tail", async (t) => {
  const { dir } = await filled(2);
  appendFileSync(join(dir, first), Buffer.alloc(500));
  t.match(await verifyAuditLog(dir), { is: "whole", records: 2, tailCut: true });
  const log = await openAuditLog(dir);
  await log.close();
  t.same(
    (await records(dir)).map(({ type }) => type),
    ["test", "test", "audit-tail-cut"],
  );
});

t.test(
  "a broken log is set aside whole, never overwritten, and a new one begins with the reason",
  async (t) => {
    const { dir } = await filled(40, { segmentBytes: 1000 });
    const names = readdirSync(dir).sort();
    t.ok(names.length > 3);
    const [, second] = names;
    const path = join(dir, second ?? "");
    const bad = readFileSync(path);
    bad[60] = (bad[60] ?? 0) ^ 1;
    writeFileSync(path, bad);
    const log = await openAuditLog(dir);
    await log.append("after", null);
    await log.close();
    const types = (await records(dir)).map(({ type }) => type);
    t.same(types.slice(-2), ["audit-broken", "after"]);
    t.match(await verifyAuditLog(dir), { is: "whole" });
    t.equal(readdirSync(dir).filter((name) => name.includes(".bad-")).length, names.length - 1);
    t.same(readFileSync(join(dir, `${second}.bad-1`)), bad);
  },
);

t.test("the chain goes over segments and restarts, and every number is there", async (t) => {
  const { dir } = await filled(30, { segmentBytes: 700 });
  const log = await openAuditLog(dir, { segmentBytes: 700 });
  const answers = await Promise.all(Array.from({ length: 20 }, (_, index) => log.append("more", index)));
  t.same(
    answers,
    Array.from({ length: 20 }, (_, index) => 31 + index),
    "in the order they were asked for",
  );
  const head = log.head();
  await log.close();
  const verdict = await verifyAuditLog(dir);
  t.match(verdict, { is: "whole", records: 50, firstSeq: 1, tailCut: false });
  t.same(verdict.is === "whole" && verdict.head, head);
  t.ok(readdirSync(dir).length > 3);
});

t.test("the log stays within its bound, and says what it dropped", async (t) => {
  const { dir } = await filled(300, { segmentBytes: 2000, maxBytes: 10_000 });
  const bytes = readdirSync(dir).reduce((sum, name) => sum + readFileSync(join(dir, name)).length, 0);
  t.ok(bytes <= 10_000 + 2000, `${bytes} octets`);
  const verdict = await verifyAuditLog(dir);
  t.match(verdict, { is: "whole" });
  t.ok(verdict.is === "whole" && verdict.firstSeq > 1);
  t.ok((await records(dir)).some(({ type }) => type === "audit-segment-dropped"));
  const log = await openAuditLog(dir, { segmentBytes: 2000, maxBytes: 10_000 });
  await log.append("after", null);
  await log.close();
  t.match(await verifyAuditLog(dir), { is: "whole" });
});

t.test("a record that is too large is refused, and the next one is written", async (t) => {
  const dir = folder();
  const log = await openAuditLog(dir);
  await t.rejects(log.append("big", new Uint8Array(70_000)), { code: "bad-argument" });
  t.equal(await log.append("small", null), 1);
  await log.close();
  t.match(await verifyAuditLog(dir), { is: "whole", records: 1 });
});

t.test("an empty folder and an empty segment are a log without records", async (t) => {
  const dir = folder();
  t.match(await verifyAuditLog(dir), { is: "whole", records: 0 });
  const { dir: used } = await filled(1);
  truncateSync(join(used, first), 0);
  const log = await openAuditLog(used);
  t.equal(await log.append("x", null), 1);
  await log.close();
});

t.test("hostile octets are no record and no exception", (t) => {
  for (const octets of [
    [0, 0, 0, 1, 0xa0],
    [0xff, 0xff, 0xff, 0xff],
    [0, 0, 0, 2, 0x81, 0x81],
    [0, 0, 0, 1, 0x1c],
  ])
    t.match(readRecord(Uint8Array.from(octets)), { is: "refused" });
  t.match(readRecord(Uint8Array.from([0, 0, 1])), { is: "cut" });
  const record = { seq: 7, timeMs: 0, type: "x", data: null, prev: noDigest };
  t.match(walkSegment(encodeRecord(record).octets, undefined), { end: { is: "whole" }, firstSeq: 7 });
  t.match(walkSegment(encodeRecord(record).octets, { seq: 5, digest: noDigest }), { end: { is: "broken" } });
  t.end();
});
