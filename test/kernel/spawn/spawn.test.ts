/** spawn: a real clone3 with all namespaces, the real shim, a static guest program. Needs root. */
import { closeSync, readFileSync, readSync } from "node:fs";
import t from "tap";
import { encodePlan, type Plan, type PlanOp } from "../../../init/container/plan.ts";
import { planFailureOf, type SpawnRequest, spawn } from "../../../init/container/spawn.ts";
import { allNamespaces, CLD_EXITED, CLD_KILLED } from "../../../init/linux.ts";
import { loadKernel, openShim } from "../load.ts";
import {
  after,
  before as beforeAt,
  children,
  guestRoot as guestRootOf,
  idBase,
  makeFixture,
  openFds,
  run,
  start as startOf,
} from "./guest.ts";

const kernel = loadKernel();
const shim = openShim();
const fixture = makeFixture(t);
const before = beforeAt(fixture.staging);
const guestRoot = () => guestRootOf(kernel, fixture);
const start = (plan: Plan, more?: Partial<SpawnRequest>) => startOf(kernel, shim, fixture, plan, more);

t.test(
  "a plan that does not name its own slots, or ends without exec, is refused before the clone",
  async (t) => {
    t.throws(() => encodePlan([{ op: "setsid" }]), TypeError);
    const plan = encodePlan([{ op: "moveMount", slot: 3, path: "/" }, run("0")]);
    const request = {
      namespaces: 0,
      cgroupFd: -1,
      shimFd: shim,
      slots: [],
      uidMap: "",
      gidMap: "",
      timeOffsets: "",
    };
    t.throws(() => kernel.clone({ ...request, plan }), /malformed/);
    const good = encodePlan([{ op: "setsid" }, run("0")]);
    for (let at = 0; at < 8 + 2 * 40; at++) {
      const bad = new Uint8Array(good);
      bad[at] = 0xee;
      t.throws(() => kernel.clone({ ...request, plan: bad }), TypeError, `octet ${at}`);
    }
    t.same(children(), []);
  },
);

t.test("an operation that fails is named, and nothing is left", async (t) => {
  const fds = openFds();
  const failing: [Plan, string, string][] = [
    [[...before, ...after, { op: "exec", path: "/missing", argv: ["x"], env: [] }], "exec", "ENOENT"],
    [[...before, ...after, { op: "exec", path: "/proc", argv: ["x"], env: [] }], "exec", "EACCES"],
    [[...before, { op: "chdir", path: "/nowhere" }, run("0")], "chdir", "ENOENT"],
    [
      [...before, { op: "mountFs", fsType: "tmpfs", path: "/nowhere", options: [], attributes: 0 }, run("0")],
      "mountFs",
      "ENOENT",
    ],
    [
      [
        ...before,
        { op: "mountFs", fsType: "tmpfs", path: "/dev", options: [["bogus", "1"]], attributes: 0 },
        run("0"),
      ],
      "mountFs",
      "EINVAL",
    ],
    [[...before, ...after, { op: "hostname", name: "x".repeat(65) }, run("0")], "hostname", "EPERM"],
    [[...before, { op: "seccomp", filter: new Uint8Array(8).fill(255) }, run("0")], "seccomp", "EINVAL"],
  ];
  for (const [plan, op, code] of failing) {
    const error = await start(plan).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    const failure = planFailureOf(error);
    t.same([failure?.op?.op, failure?.code], [op, code]);
    t.match(error, { code: "start-failed" });
  }
  t.equal(openFds(), fds);
  t.same(children(), []);
});

t.test("a start that never gets to its exec ends at the time limit", async (t) => {
  const fds = openFds();
  // A pipe that nobody writes: the child stays at its barrier while beforeRelease waits, then is late.
  await t.rejects(
    start([...before, ...after, run("0")], { beforeRelease: () => Promise.reject(new Error("no")) }),
    /no/,
  );
  t.equal(openFds(), fds);
  t.same(children(), []);
});

t.test("exit status and signal come back as they were", async (t) => {
  for (const [argument, code, status] of [
    ["0", CLD_EXITED, 0],
    ["7", CLD_EXITED, 7],
  ] as const) {
    using guest = await start([...before, ...after, run(argument)]);
    t.match(await guest.exited, { code, status });
  }
  using waiting = await start([...before, ...after, run()]);
  waiting.signal(9);
  t.match(await waiting.exited, { code: CLD_KILLED, status: 9 });
  waiting.signal(9); // it has ended: no error
});

t.test("inside, the guest is pid 1 and root, and its terminal is its own", async (t) => {
  const { master, slave } = kernel.openPty();
  kernel.setWindowSize(master, { rows: 11, columns: 22 });
  t.same(kernel.windowSize(slave), { rows: 11, columns: 22 });
  const root = guestRoot();
  const plan: Plan = [
    ...before,
    { op: "stdio", slot: 1, to: 0 },
    { op: "stdio", slot: 1, to: 1 },
    { op: "stdio", slot: 1, to: 2 },
    { op: "controllingTty" },
    ...after,
    run("p"),
  ];
  using guest = await spawn(kernel, shim, {
    plan,
    slots: [root, slave],
    namespaces: allNamespaces,
    idBase,
    idMapped: [root],
    timeoutMs: 10_000,
  });
  closeSync(root);
  closeSync(slave);
  t.match(await guest.exited, { code: CLD_EXITED, status: 0 });
  const output = Buffer.alloc(100);
  t.equal(output.toString("utf8", 0, readSync(master, output)), "1 0 0\r\n");
  closeSync(master);
});

t.test("a command joins a running container by setns and fork, and its exit status is its own", async (t) => {
  using guest = await start([...before, ...after, run()]);
  const fds = openFds();
  const join = (command: PlanOp): Plan => [
    { op: "reset" },
    { op: "setsid" },
    { op: "setns", slot: 0, namespaces: allNamespaces },
    { op: "fork" },
    { op: "ids", uid: 0, gid: 0, groups: [] },
    { op: "closeOnExec" },
    command,
  ];
  const enter = (command: PlanOp) =>
    spawn(kernel, shim, { plan: join(command), slots: [guest.pidfd], namespaces: 0, timeoutMs: 10_000 });
  for (const [argument, expected] of [
    ["0", { code: CLD_EXITED, status: 0 }],
    ["5", { code: CLD_EXITED, status: 5 }],
    ["k", { code: CLD_KILLED }],
  ] as const) {
    using command = await enter(run(argument));
    t.match(await command.exited, expected, argument);
  }
  const error = await enter({ op: "exec", path: "nosuch", argv: ["nosuch"], env: ["PATH=/a:/"] }).catch(
    (reason) => reason,
  );
  t.equal(planFailureOf(error)?.code, "ENOENT");
  using found = await enter({ op: "exec", path: "guest", argv: ["guest", "3"], env: ["PATH=/a:/"] });
  t.match(await found.exited, { status: 3 });
  found[Symbol.dispose]();
  t.equal(openFds(), fds);
  guest.signal(9);
  await guest.exited;
});

t.test("200 starts leave no descriptor, no child, no mount", async (t) => {
  const count = () => [
    openFds(),
    children().length,
    readFileSync("/proc/self/mountinfo", "utf8").split("\n").length,
  ];
  const first = count();
  for (let i = 0; i < 200; i++) {
    using guest = await start([...before, ...after, run("0")]);
    await guest.exited;
  }
  t.same(count(), first);
});
