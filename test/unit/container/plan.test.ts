import t from "tap";
import { describeOp, encodePlan, type PlanOp } from "../../../init/container/plan.ts";

const exec: PlanOp = { op: "exec", path: "/init", argv: ["init"], env: [] };
const headerBytes = 8;
const opBytes = 40;

/** One record of an encoded plan, as addon/plan.h has it. */
function record(octets: Uint8Array, index: number) {
  const view = new DataView(octets.buffer, octets.byteOffset + headerBytes + index * opBytes, opBytes);
  return {
    op: view.getUint32(0, true),
    slot: view.getInt32(4, true),
    str: [8, 12, 16].map((at) => view.getUint32(at, true)),
    length: view.getUint32(20, true),
    a: view.getBigUint64(24, true),
    b: view.getBigUint64(32, true),
  };
}

function textAt(octets: Uint8Array, ops: number, offset: number | undefined): string {
  const at = headerBytes + ops * opBytes + (offset ?? Number.NaN);
  return Buffer.from(octets.subarray(at, octets.indexOf(0, at))).toString();
}

t.test("encodePlan refuses what the shim could misread", (t) => {
  t.throws(() => encodePlan([]), TypeError, "no exec");
  t.throws(() => encodePlan([{ op: "setsid" }]), TypeError, "no exec at the end");
  t.throws(() => encodePlan([{ op: "chdir", path: "/a\0b" }, exec]), TypeError, "NUL in a path");
  t.throws(() => encodePlan([{ ...exec, argv: ["a\0b"] }]), TypeError, "NUL in an argument");
  t.throws(() => encodePlan([{ ...exec, env: ["A=\0"] }]), TypeError, "NUL in the environment");
  t.throws(
    () =>
      encodePlan([
        { op: "mountFs", fsType: "tmpfs", path: "/", options: [["size", "1,mode=777"]], attributes: 0 },
        exec,
      ]),
    TypeError,
    "a comma in an option would be two options",
  );
  t.throws(() => encodePlan([{ op: "umask", mask: -1 }, exec]), TypeError, "a negative number");
  t.throws(() => encodePlan([{ op: "umask", mask: 0.5 }, exec]), TypeError, "no whole number");
  t.throws(() => encodePlan([{ op: "rlimit", resource: -1, soft: 0n, hard: 0n }, exec]), TypeError);
  t.throws(() => encodePlan([{ op: "rlimit", resource: 1, soft: 1n << 64n, hard: 0n }, exec]), TypeError);
  t.throws(() => encodePlan([{ op: "stdio", slot: 2 ** 31, to: 0 }, exec]), TypeError);
  t.throws(
    () => encodePlan([{ op: "ids", uid: 0, gid: 0, groups: [2 ** 32] }, exec]),
    TypeError,
    "a group id that would be cut",
  );
  t.end();
});

t.test("a record holds its values where addon/plan.h says", (t) => {
  const octets = encodePlan([
    { op: "mkdir", path: "/run/x", mode: 0o755, mayExist: true },
    { op: "moveMount", slot: 3, path: "/dev" },
    { op: "rlimit", resource: 7, soft: 1024n, hard: 0xffffffffffffffffn },
    { op: "file", path: "/f", content: Uint8Array.of(1, 2, 3), mode: 0o600 },
    { ...exec, argv: ["init", "x"], env: ["A=1", "B=2", "C=3"] },
  ]);
  const none = 0xffffffff;
  t.equal(Buffer.from(octets.subarray(0, 4)).toString(), "pln1");
  t.match(record(octets, 0), { op: 10, slot: -1, length: 0, a: 0o755n, b: 1n });
  t.equal(textAt(octets, 5, record(octets, 0).str[0]), "/run/x");
  t.same(record(octets, 0).str.slice(1), [none, none]);
  t.match(record(octets, 1), { op: 8, slot: 3, a: 0n, b: 0n });
  t.match(record(octets, 2), { op: 6, length: 7, a: 1024n, b: 0xffffffffffffffffn });
  t.match(record(octets, 3), { op: 12, length: 3, a: 0o600n });
  t.match(record(octets, 4), { op: 24, length: 2, a: 3n });
  t.equal(octets.at(-1), 0, "the string area ends with NUL");
  t.equal((octets.length - headerBytes - 5 * opBytes) % 8, 0);
  t.end();
});

t.test("equal texts are stored once, data stays aligned to 8", (t) => {
  const octets = encodePlan([
    { op: "chdir", path: "/same" },
    { op: "chdir", path: "/same" },
    { op: "seccomp", filter: new Uint8Array(16) },
    exec,
  ]);
  t.equal(record(octets, 0).str[0], record(octets, 1).str[0]);
  t.equal((record(octets, 2).str[1] ?? 1) % 8, 0);
  t.end();
});

t.test("every operation has words for a sentence", (t) => {
  t.same(describeOp(exec), { tried: "run", on: "/init" });
  t.same(describeOp({ op: "mountFs", fsType: "proc", path: "/proc", options: [], attributes: 0 }), {
    tried: "mount proc on",
    on: "/proc",
  });
  t.same(describeOp({ op: "noNewPrivs" }), { tried: "carry out", on: "noNewPrivs" });
  t.end();
});
