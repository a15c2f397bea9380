/** The shim on its own: whatever plan it gets, it execs a well-formed one or tells what is wrong; it never guesses. */
import { type SpawnSyncReturns, spawnSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { encodePlan, type Plan } from "../../../init/container/plan.ts";
import { loadKernel } from "../load.ts";

loadKernel(); // builds the shim as well
const directory = mkdtempSync(join(tmpdir(), "gimbal-shim-"));
t.teardown(() => rmSync(directory, { recursive: true }));

const planFd = 3;
const reportFd = 4;
const prefixBytes = 16 + 32 * 4;

/** What clone.cc writes before a plan. */
function withPrefix(plan: Uint8Array, slots: readonly number[] = []): Uint8Array {
  const prefix = new DataView(new ArrayBuffer(prefixBytes));
  prefix.setUint32(0, plan.length, true);
  prefix.setInt32(4, reportFd, true);
  prefix.setUint32(8, 0xffff, true);
  prefix.setUint32(12, slots.length, true);
  for (const [index, fd] of slots.entries()) prefix.setInt32(16 + index * 4, fd, true);
  return Buffer.concat([new Uint8Array(prefix.buffer), plan]);
}

/** Runs the shim on these octets; `report` is what it wrote. */
function runShim(octets: Uint8Array): SpawnSyncReturns<Buffer> & { report: Buffer } {
  const path = join(directory, "plan");
  writeFileSync(path, octets);
  writeFileSync(join(directory, "report"), "");
  const [plan, report] = [openSync(path, "r+"), openSync(join(directory, "report"), "r+")];
  try {
    const run = spawnSync("build/x64/shim", [], {
      argv0: String(planFd),
      stdio: ["ignore", "pipe", "pipe", plan, report],
      timeout: 10_000,
    });
    return { ...run, report: readFileSync(join(directory, "report")) };
  } finally {
    closeSync(plan);
    closeSync(report);
  }
}

const plan: Plan = [
  { op: "reset" },
  { op: "umask", mask: 0o22 },
  { op: "rlimit", resource: 4, soft: 0n, hard: 0n },
  {
    op: "exec",
    path: "/bin/sh",
    argv: ["sh", "-c", 'echo "$A"; exit 3'],
    env: ["A=ran"],
  },
];

t.test("a well-formed plan runs", (t) => {
  const { status, stdout, report } = runShim(withPrefix(encodePlan(plan)));
  t.equal(status, 3);
  // 1 and 2 are inherited here; clone.cc closes what the plan does not name.
  t.equal(stdout.toString(), "ran\n");
  t.equal(report.length, 0);
  t.end();
});

t.test("a plan cut at any octet is refused", (t) => {
  const whole = withPrefix(encodePlan(plan));
  for (let length = 0; length < whole.length; length += 7) {
    const { status, stdout } = runShim(whole.subarray(0, length));
    t.equal(status, 126, `${length} octets`);
    t.equal(stdout.length, 0);
  }
  t.end();
});

t.test("a plan that is cut, with a prefix that agrees, is refused at the operation", (t) => {
  const whole = encodePlan(plan);
  for (let length = 0; length < whole.length; length += 5) {
    const { status, stdout, report } = runShim(withPrefix(whole.subarray(0, length)));
    // What is cut off may be padding after the last text: then nothing is missing.
    if (status === 3) continue;
    t.equal(status, 127, `${length} octets`);
    t.equal(report.readUInt16LE(2), 22, "EINVAL");
    t.equal(stdout.length, 0);
  }
  t.end();
});

t.test("octets that are no plan never run anything", (t) => {
  let seed = 20_240_607;
  const random = () => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
    return seed >>> 8;
  };
  const good = encodePlan(plan);
  const records = 8 + plan.length * 40;
  let refused = 0;
  for (let round = 0; round < 400; round++) {
    const bad = new Uint8Array(good);
    // Half of them are noise, half are the good plan with one octet changed.
    if (round % 2 === 0) for (let at = 8; at < bad.length; at++) bad[at] = random();
    else bad[random() % records] = random();
    const { status, signal, stdout, report } = runShim(withPrefix(bad));
    t.equal(signal, null, "no fault");
    if (status === 127 && report.length === 8) refused++;
    // One octet may turn a value into another good one (a mask, a limit): then it is another well-formed plan.
    else if (round % 2 === 0) t.fail(`noise ran: ${status} ${stdout}`);
  }
  t.ok(refused > 300, `${refused} of 400 refused`);
  t.end();
});

t.test("a slot that the prefix does not have is refused", (t) => {
  const octets = encodePlan([{ op: "stdio", slot: 5, to: 0 }, ...plan]);
  t.equal(runShim(withPrefix(octets, [0, 1])).status, 127);
  t.equal(runShim(withPrefix(octets, Array(32).fill(1))).status, 3);
  t.end();
});

t.test("an argument list as long as a plan can be arrives whole", (t) => {
  const argv = ["sh", "-c", 'echo "$#"', ...Array.from({ length: 20_000 }, (_, index) => `a${index}`)];
  const { stdout, report } = runShim(
    withPrefix(encodePlan([{ op: "exec", path: "/bin/sh", argv, env: [] }])),
  );
  t.equal(report.length, 0);
  t.equal(stdout.toString(), "19999\n");
  t.end();
});

t.test("arguments that are no plan at all end it", (t) => {
  for (const argv0 of ["", "x", "-1", "99999999999", "7", "0x3"]) {
    const run = spawnSync("build/x64/shim", [], { argv0, timeout: 10_000 });
    t.equal(run.status, 126, JSON.stringify(argv0));
  }
  t.end();
});
