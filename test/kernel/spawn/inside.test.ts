/** What a guest finds: nothing of the start program's own state, and a root as planned. Needs root. */
import { closeSync, existsSync, mkdirSync, readFileSync, rmdirSync, statSync, writeFileSync } from "node:fs";
import t from "tap";
import type { PlanOp } from "../../../init/container/plan.ts";
import { MOUNT_ATTR_NODEV } from "../../../init/linux.ts";
import { loadKernel, openShim } from "../load.ts";
import { after, before as beforeAt, makeFixture, outputOf, run, start } from "./guest.ts";

const kernel = loadKernel();
const shim = openShim();
const fixture = makeFixture(t);
const before = beforeAt(fixture.staging);
type Ops = { readonly before?: readonly PlanOp[]; readonly after?: readonly PlanOp[] };
const output = (ops: Ops, ...argv: string[]) => outputOf(kernel, shim, fixture, ops, ...argv);

t.test("a guest has three descriptors, whatever is open here", async (t) => {
  const leaks = Array.from({ length: 20 }, () => kernel.memfd("leak", new Uint8Array(1)));
  const { text, status } = await output({}, "l", "/proc/self/fd");
  t.equal(status, 0);
  t.same(text.split("\n").filter(Boolean).sort(), ["0", "1", "2"]);
  for (const fd of leaks) closeSync(fd);
});

t.test("signals, privileges, umask, session and clocks are set on purpose", async (t) => {
  const limits: PlanOp[] = [{ op: "umask", mask: 0o27 }, ...after];
  const { text } = await output({ after: limits }, "c", "/proc/self/status");
  const field = (name: string) => new RegExp(`^${name}:[ \\t]*(.*)$`, "m").exec(text)?.[1];
  for (const name of ["SigBlk", "SigIgn", "SigCgt"]) t.equal(field(name), "0".repeat(16), name);
  for (const name of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
    t.equal(field(name), "0".repeat(16), name);
  t.equal(field("NoNewPrivs"), "1");
  t.equal(field("Groups"), "");
  t.equal(field("NSpid"), "1");
  t.equal(field("Umask"), "0027");
  const state = (await output({}, "s")).text;
  t.match(state, /^nice 0$/m);
  t.match(state, /^session 1$/m);
  t.match(state, /^root 0:0$/m);
  const monotonic = Number(/^monotonic (\d+)$/m.exec(state)?.[1]);
  t.ok(monotonic > 1000, "the offset of its clock applies");
  t.match((await output({}, "c", "/proc/sys/kernel/hostname")).text, "guest\n");
  t.match((await output({}, "c", "/proc/self/uid_map")).text, /^\s*0\s+300000\s+65536\n$/);
});

const effective = BigInt(
  `0x${/^CapEff:\s*(\w+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? 0}`,
);
const mayAll = { skip: effective & (1n << 24n) ? false : "no CAP_SYS_RESOURCE here" };

t.test("it cannot make itself unkillable, whatever this process may", mayAll, async (t) => {
  writeFileSync("/proc/self/oom_score_adj", "-900");
  try {
    t.equal((await output({}, "c", "/proc/self/oom_score_adj")).text, "0\n");
    t.equal((await output({}, "w", "/proc/self/oom_score_adj", "-500")).status, 13, "EACCES");
  } finally {
    writeFileSync("/proc/self/oom_score_adj", "0");
  }
});

t.test("the old root is gone, and its mounts with it", async (t) => {
  const { text } = await output({}, "c", "/proc/self/mountinfo");
  t.same(
    text
      .trim()
      .split("\n")
      .map((line) => line.split(" ")[4]),
    ["/", "/proc"],
  );
});

t.test("keys of this process's session are not the guest's", async (t) => {
  const serial = kernel.addKey("user", "gimbal-test-secret", new TextEncoder().encode("x"), -3);
  const { text } = await output({}, "c", "/proc/keys");
  t.notMatch(text, /gimbal-test-secret/);
  kernel.unlinkKey(serial, -3);
});

t.test("an overlay over the id-mapped image is writable, and the image stays as it was", async (t) => {
  const { directory } = fixture;
  const root: PlanOp[] = [
    { op: "reset" },
    { op: "setsid" },
    { op: "propagation", path: "/", flags: (1 << 19) | 16384 },
    { op: "moveMount", slot: 0, path: `${directory}/l` },
    {
      op: "mountFs",
      fsType: "tmpfs",
      path: `${directory}/u`,
      options: [
        ["size", "1048576"],
        ["mode", "755"],
      ],
      attributes: MOUNT_ATTR_NODEV,
    },
    { op: "mkdir", path: `${directory}/u/up`, mode: 0o755 },
    { op: "mkdir", path: `${directory}/u/wk`, mode: 0o755 },
    {
      op: "mountFs",
      fsType: "overlay",
      path: fixture.staging,
      options: [
        ["lowerdir+", `${directory}/l`],
        ["upperdir", `${directory}/u/up`],
        ["workdir", `${directory}/u/wk`],
        ["userxattr"],
      ],
      attributes: 0,
    },
    { op: "chdir", path: fixture.staging },
    { op: "mountFs", fsType: "proc", path: "/proc", options: [], attributes: 0 },
  ];
  t.equal((await output({ before: root }, "w", "/new")).status, 0);
  t.equal(
    (await output({ before: root }, "w", "/guest")).status,
    26,
    "ETXTBSY: it runs, so it could be written",
  );
  t.match((await output({ before: root }, "s")).text, /^root 0:0$/m);
  t.same(
    ["l", "u"].map((name) => statSync(`${directory}/${name}`).uid),
    [0, 0],
  );
});

t.test("mounts, files, links, binds and masks arrive where the plan says", async (t) => {
  const ops: PlanOp[] = [
    ...before,
    {
      op: "mountFs",
      fsType: "tmpfs",
      path: "/run",
      options: [["mode", "755"]],
      attributes: MOUNT_ATTR_NODEV,
    },
    { op: "file", path: "/run/hello", content: new TextEncoder().encode("content\n"), mode: 0o644 },
    { op: "symlink", target: "/run/hello", path: "/run/link" },
    { op: "mkdir", path: "/run/there", mode: 0o755 },
    { op: "mkdir", path: "/run/there", mode: 0o755, mayExist: true },
    { op: "bind", source: "/run", path: "/run/there", attributes: 1 },
    { op: "bind", source: "/run/hello", path: "/proc/version", attributes: 1 },
    { op: "bind", source: "/run/hello", path: "/proc/no-such", attributes: 1, mayBeMissing: true },
    { op: "bind", source: "/run/no-such", path: "/proc/uptime", attributes: 1, mayBeMissing: true },
    { op: "symlink", target: "/../../../../../..", path: "/run/up" },
    { op: "mkdir", path: "/run/up/made", mode: 0o755 },
  ];
  const read = async (path: string) => (await output({ before: ops }, "c", path)).text;
  t.equal(await read("/run/link"), "content\n");
  t.equal(await read("/run/there/hello"), "content\n");
  t.equal(await read("/proc/version"), "content\n");
  t.equal((await output({ before: ops }, "w", "/run/there/x")).status, 30, "EROFS");
  t.match(
    (await output({ before: ops }, "l", "/")).text,
    /^made$/m,
    "a link upwards ends at the guest's root",
  );
  t.notOk(existsSync("/made"));
});

const hierarchy = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].find((path) =>
  existsSync(`${path}/cgroup.controllers`),
);
const withCgroup2 = { skip: hierarchy ? false : "no cgroup2 here" };

t.test("a start into a cgroup is in it from its first instruction", withCgroup2, async (t) => {
  const path = `${hierarchy}/gimbal-test-${process.pid}`;
  mkdirSync(path);
  const cgroupFd = kernel.openat2(-100, path, 0o200000, 0, 0);
  try {
    using guest = await start(kernel, shim, fixture, [...before, ...after, run()], { cgroupFd });
    t.equal(readFileSync(`${path}/cgroup.procs`, "utf8"), `${guest.pid}\n`);
    guest.signal(9);
    await guest.exited;
  } finally {
    closeSync(cgroupFd);
    rmdirSync(path);
  }
});
