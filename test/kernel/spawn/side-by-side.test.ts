/** Starts beside each other, beside the reaper, and cut short. Needs root. */
import { execFile, spawnSync } from "node:child_process";
import { closeSync } from "node:fs";
import { promisify } from "node:util";
import t from "tap";
import type { Plan } from "../../../init/container/plan.ts";
import { planFailureOf, type SpawnRequest, spawn } from "../../../init/container/spawn.ts";
import { allNamespaces, CLD_EXITED, CLD_KILLED } from "../../../init/linux.ts";
import { ownChild } from "../../../init/machine/process.ts";
import { startReaper } from "../../../init/machine/reaper.ts";
import { loadKernel, openShim } from "../load.ts";
import { after, before as beforeAt, children, makeFixture, openFds, run, start as startOf } from "./guest.ts";

const kernel = loadKernel();
const shim = openShim();
const fixture = makeFixture(t);
const before = beforeAt(fixture.staging);
const start = (plan: Plan, more?: Partial<SpawnRequest>) => startOf(kernel, shim, fixture, plan, more);
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const failureOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => undefined,
    (error: unknown) => error,
  );

t.test("a start that hangs ends at its time limit, and the operation is named", async (t) => {
  const fds = openFds();
  // Stopped at the barrier: SIGSTOP cannot be blocked.
  const error = await failureOf(
    start([...before, ...after, run("0")], {
      timeoutMs: 100,
      beforeRelease: (child) => kernel.pidfdSignal(child.pidfd, 19),
    }),
  );
  t.match(error, { code: "start-timeout", message: /the start program: it was not done 0.1 s after/ });
  t.equal(planFailureOf(error)?.code, "ETIME");
  t.equal(openFds(), fds);
  t.same(children(), []);
});

t.test("a start that is ended from outside, at its barrier, is told from one that ran", async (t) => {
  const error = await failureOf(
    start([...before, ...after, run("0")], {
      beforeRelease: async (child) => {
        kernel.pidfdSignal(child.pidfd, 9);
        await pause(20);
      },
    }),
  );
  t.match(error, { code: "start-failed", message: /ended from outside/ });
  t.equal(planFailureOf(error)?.code, "EINTR");
  t.same(children(), []);
});

t.test("a start that waits does not keep another one's end of reports open", async (t) => {
  let release = () => {};
  const waiting = new Promise<void>((resolve) => {
    release = resolve;
  });
  const slow = start([...before, ...after, run("1")], { beforeRelease: () => waiting });
  using quick = await start([...before, ...after, run("2")], { timeoutMs: 2000 });
  t.match(await quick.exited, { status: 2 });
  release();
  using guest = await slow;
  t.match(await guest.exited, { status: 1 });
});

t.test("the reaper takes no exit of a start, a command or a helper, and all orphans", async (t) => {
  using reaper = startReaper(kernel);
  const helper = async () => {
    const running = promisify(execFile)("/bin/sh", ["-c", "echo helper"]);
    ownChild(running.child);
    t.equal((await running).stdout, "helper\n");
  };
  await helper(); // what Node opens once for its first child
  const fds = openFds();
  using guest = await start([...before, ...after, run()]);
  const command: Plan = [
    { op: "reset" },
    { op: "setns", slot: 0, namespaces: allNamespaces },
    { op: "fork" },
    { op: "ids", uid: 0, gid: 0, groups: [] },
    run("7"),
  ];
  const one = async (index: number) => {
    if (index % 3 === 0) return helper();
    using process =
      index % 3 === 1
        ? await start([...before, ...after, run("7")])
        : await spawn(kernel, shim, {
            plan: command,
            slots: [guest.pidfd],
            namespaces: 0,
            timeoutMs: 10_000,
          });
    t.match(await process.exited, { code: CLD_EXITED, status: 7 });
  };
  for (let round = 0; round < 20; round++) await Promise.all([0, 1, 2, 3, 4, 5, 7, 8].map(one));
  t.equal(reaper.reaped, 0);
  guest.signal(9);
  t.match(await guest.exited, { code: CLD_KILLED, status: 9 });
  t.equal(openFds(), fds + 1, "the guest's pidfd");
  t.same(children(), []);
});

t.test("what fails after a fork leaves neither of the two processes", async (t) => {
  const fds = openFds();
  for (let round = 0; round < 50; round++) {
    const error = await failureOf(
      spawn(kernel, shim, {
        plan: [{ op: "fork" }, { op: "chdir", path: "/nowhere" }, run("0")],
        slots: [],
        namespaces: 0,
        timeoutMs: 5000,
      }),
    );
    t.equal(planFailureOf(error)?.op?.op, "chdir");
  }
  t.equal(openFds(), fds);
  t.same(children(), []);
});

t.test("20 starts at once all end as they should", async (t) => {
  const all = await Promise.all(
    Array.from({ length: 20 }, (_, index) => start([...before, ...after, run(String(index % 10))])),
  );
  const ends = await Promise.all(all.map((guest) => guest.exited));
  t.same(
    ends.map(({ status }) => status),
    Array.from({ length: 20 }, (_, index) => index % 10),
  );
  for (const guest of all) guest[Symbol.dispose]();
  closeSync(kernel.memfd("x", new Uint8Array())); // descriptors are still given out
});

t.test("as PID 1: orphans are reaped, exits of helpers and starts are not stolen", (t) => {
  const script = `
    import { spawn as spawnChild } from "node:child_process";
    import { readdirSync, readFileSync } from "node:fs";
    import { loadKernel, openShim } from "./test/kernel/load.ts";
    import { spawn } from "./init/container/spawn.ts";
    import { ownChild } from "./init/machine/process.ts";
    import { startReaper } from "./init/machine/reaper.ts";
    const kernel = loadKernel();
    const shim = openShim();
    using reaper = startReaper(kernel);
    const leaveOrphans = "for i in 1 2 3 4; do (sleep 0.0$i &) ; done; exit 9";
    const helper = () => new Promise((resolve) => {
      const child = spawnChild("/bin/sh", ["-c", leaveOrphans], { stdio: "ignore" });
      ownChild(child);
      child.once("exit", resolve);
    });
    const start = async () => {
      using process = await spawn(kernel, shim, {
        plan: [{ op: "reset" }, { op: "fork" }, { op: "exec", path: "/bin/sh", argv: ["sh", "-c", leaveOrphans], env: [] }],
        slots: [], namespaces: 0, timeoutMs: 20000,
      });
      return (await process.exited).status;
    };
    const ends = await Promise.all(Array.from({ length: 40 }, (_, index) => index % 2 ? helper() : start()));
    await new Promise((resolve) => setTimeout(resolve, 500));
    const zombies = readdirSync("/proc").filter((name) => /^[0-9]+$/.test(name)).filter((pid) => {
      try { return / Z /.test(readFileSync("/proc/" + pid + "/stat", "utf8")); } catch { return false; }
    });
    console.log(JSON.stringify({ pid: process.pid, ends: [...new Set(ends)], reaped: reaper.reaped, zombies: zombies.length }));
  `;
  const { stdout, stderr } = spawnSync(
    "unshare",
    ["--pid", "--fork", "--mount-proc", process.execPath, "--input-type=module-typescript", "-e", script],
    { encoding: "utf8", timeout: 60_000 },
  );
  t.same(JSON.parse(stdout || "{}"), { pid: 1, ends: [9], reaped: 160, zombies: 0 }, stderr);
  t.end();
});
