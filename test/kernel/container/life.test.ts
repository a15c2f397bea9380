/** Stops, freezes, reboots and ends, from every state. */
import { closeSync, readdirSync, readFileSync } from "node:fs";
import t from "tap";
import { kernel, makeBench, manifest, mount, reaches, run, says, settled } from "./fixture.ts";

t.test("what does not run is not stopped, and nothing is started twice", async (t) => {
  await using bench = await makeBench();
  const name = await bench.create(manifest({ args: ["term"] }));
  for (const act of ["stop", "kill", "freeze", "unfreeze"] as const) {
    await t.rejects(
      async () => void (await bench.engine[act](name)),
      { code: "container-state", message: /STOPPED/ },
      act,
    );
  }
  await t.rejects(bench.engine.exec(name, { argv: ["/probe"] }), { code: "container-state" });
  await t.rejects(bench.engine.start("nobody"), { code: "container-unknown" });
  const first = bench.engine.start(name);
  await t.rejects(bench.engine.start(name), { code: "container-state", message: /STARTING/ });
  await first;
  await t.rejects(bench.engine.start(name), { code: "container-state", message: /RUNNING/ });
  await t.rejects(bench.engine.unfreeze(name), { code: "container-state" });
});

t.test("a guest that takes the signal ends by itself (B28)", async (t) => {
  await using bench = await makeBench();
  const name = await bench.create(manifest({ args: ["term"] }));
  await bench.engine.start(name);
  await says(bench, name, "ready");
  t.match(await bench.engine.stop(name), { why: "exited", status: 7 });
  const other = await bench.create(manifest({ args: ["term"], stopSignal: "SIGTERM" }));
  await bench.engine.start(other);
  t.match(await bench.engine.stop(other), { why: "exited", status: 7 }, "also right after its start");
});

t.test("one that does not even listen is killed without waiting for the time limit", async (t) => {
  await using bench = await makeBench();
  for (const args of [["wait"], ["ignore"]]) {
    const name = await bench.create(manifest({ args }));
    await bench.engine.start(name);
    const begun = Date.now();
    t.match(await bench.engine.stop(name), { why: "killed", status: 137, sentence: /takes no signal/ });
    t.ok(Date.now() - begun < 5_000);
    t.equal(bench.engine.status(name).state, "STOPPED");
  }
});

t.test("one that listens and goes on is killed when its time is over", async (t) => {
  await using bench = await makeBench();
  const name = await bench.create(manifest({ args: ["deaf"] }), { stop_timeout: 1 });
  await bench.engine.start(name);
  await says(bench, name, "ready");
  t.match(await bench.engine.stop(name), { why: "killed", status: 137, sentence: /within 1 s/ });
});

t.test("an own init says that it is ready, and is halted by SIGRTMIN+3", async (t) => {
  await using bench = await makeBench();
  const name = await bench.create(manifest({ args: ["system", "200"], profile: "full-os", notify: true }));
  const status = await bench.engine.start(name);
  t.equal(status.state, "BOOTING");
  await reaches(bench, name, "RUNNING");
  t.equal(bench.engine.status(name).guestSays, "all is well");
  t.match(await bench.engine.stop(name), { why: "poweroff", status: 0 });
});

t.test("only the init itself is believed", async (t) => {
  await using bench = await makeBench();
  const name = await bench.create(manifest({ args: ["system", "1000"], profile: "full-os", notify: true }));
  await bench.engine.start(name);
  await using session = await bench.engine.exec(name, {
    argv: ["/probe", "say", "READY=1\nSTATUS=evil"],
    env: ["NOTIFY_SOCKET=/run/host/notify"],
  });
  for await (const _ of session.output);
  t.match(await session.ended, { status: 0 }, "it was sent");
  t.match(bench.engine.status(name), { state: "BOOTING", guestSays: undefined });
  await bench.engine.stop(name);
});

t.test("a guest's power off and reboot are told apart, and a reboot starts it again (B30)", async (t) => {
  await using bench = await makeBench();
  const off = await bench.create(manifest({ args: ["poweroff"], profile: "full-os" }));
  await bench.engine.start(off);
  await reaches(bench, off, "STOPPED");
  t.match(bench.engine.status(off).lastExit, { why: "poweroff", status: 0 });
  const mounts = [mount("SHARED", "/"), mount("EMPTY", "/data", { imageFile: "data", fsType: "ext4" })];
  const again = await bench.create(
    manifest({ args: ["reboot-once", "/data/mark"], profile: "full-os", mounts }),
  );
  await bench.engine.start(again);
  await says(bench, again, "second life");
  await reaches(bench, again, "RUNNING");
  t.same(
    bench.changes.filter(({ name }) => name === again).map(({ to }) => to),
    ["STARTING", "RUNNING", "SHUTTING_DOWN", "REBOOTING", "STARTING", "RUNNING"],
  );
  t.match(await bench.engine.stop(again), { status: 7 });
});

t.test("a guest that reboots for ever can be stopped between two lives", async (t) => {
  await using bench = await makeBench();
  const name = await bench.create(manifest({ args: ["reboot"], profile: "full-os" }));
  await bench.engine.start(name);
  await reaches(bench, name, "REBOOTING");
  t.match(await bench.engine.stop(name), { why: "reboot" });
  t.equal(bench.engine.status(name).state, "STOPPED");
  await new Promise((resolve) => setTimeout(resolve, 2_500));
  t.equal(bench.engine.status(name).state, "STOPPED", "and stays so");
});

t.test("a frozen guest is thawed, stopped and killed", async (t) => {
  await using bench = await makeBench();
  const name = await bench.create(manifest({ args: ["term"] }));
  await bench.engine.start(name);
  await says(bench, name, "ready");
  await bench.engine.freeze(name);
  t.equal(bench.engine.status(name).state, "FROZEN");
  await t.rejects(bench.engine.exec(name, { argv: ["/probe"] }), {
    code: "container-state",
    message: /FROZEN/,
  });
  await bench.engine.unfreeze(name);
  t.equal(bench.engine.status(name).state, "RUNNING");
  await bench.engine.freeze(name);
  t.match(
    await bench.engine.stop(name),
    { why: "exited", status: 7 },
    "an orderly end, for all it was frozen",
  );
  await bench.engine.start(name);
  await bench.engine.freeze(name);
  t.match(await bench.engine.kill(name), { why: "killed", status: 137 });
  t.equal(bench.engine.status(name).state, "STOPPED");
  t.same(
    new Set(bench.changes.map(({ to }) => to)),
    new Set(["STARTING", "RUNNING", "FREEZING", "FROZEN", "SHUTTING_DOWN", "STOPPED"]),
  );
});

t.test("every end is one of: exit, signal, killed", async (t) => {
  await using bench = await makeBench();
  for (const [args, wanted] of [
    [["exit", "32"], { why: "exited", status: 32 }],
    [["exit", "0"], { why: "exited", status: 0 }],
  ] as const) {
    const name = await bench.create(manifest({ args }));
    await bench.engine.start(name);
    await reaches(bench, name, "STOPPED");
    t.match(bench.engine.status(name).lastExit, wanted);
  }
});

t.test("everything of a guest dies with it, also what a command left", async (t) => {
  await using bench = await makeBench();
  const name = await bench.create(manifest({ args: ["term"] }));
  await bench.engine.start(name);
  const before = await settled(bench);
  const { uuid } = bench.engine.status(name);
  const session = await bench.engine.exec(name, { argv: ["/probe", "child", "0"] });
  await run(bench, name, "forks", "5");
  await bench.engine.kill(name);
  t.notOk(readdirSync(bench.cgroup).includes(uuid));
  await session[Symbol.asyncDispose]();
  t.equal(readFileSync(`/proc/self/task/${process.pid}/children`, "utf8"), "");
  const { fds } = await settled(bench);
  t.ok(fds < before.fds, `${fds} descriptors`);
});

t.test("the log outlives the stop, and a follower the restart", async (t) => {
  await using bench = await makeBench();
  const name = await bench.create(manifest({ args: ["hello"] }));
  const heard: string[] = [];
  using _watching = bench.engine.attachConsole(name, (bytes) => heard.push(Buffer.from(bytes).toString()));
  for (let n = 0; n < 3; n++) {
    await bench.engine.start(name);
    await reaches(bench, name, "STOPPED");
  }
  t.equal(heard.join("").match(/hello/g)?.length, 3);
  const count = () => Buffer.from(bench.engine.logs(name).bytes()).toString().match(/hello/g)?.length;
  t.equal(count(), 3);
  await bench.reload();
  t.equal(count(), 3, "and a boot");
  await bench.engine.start(name);
  await reaches(bench, name, "STOPPED");
  t.equal(count(), 4);
  const { uuid } = bench.engine.status(name);
  await bench.engine.remove(name);
  t.same(readdirSync(bench.ports.paths.data), [], "removed with its container");
  t.same(bench.reports, [], uuid);
});

t.test("a guest that floods its console neither fills memory nor stops the loop", async (t) => {
  await using bench = await makeBench();
  const name = await bench.create(manifest({ args: ["flood", "30000000"] }), { log_size: 1 });
  await bench.engine.start(name);
  let worst = 0;
  let last = performance.now();
  const timer = setInterval(() => {
    worst = Math.max(worst, performance.now() - last);
    last = performance.now();
  }, 1);
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  clearInterval(timer);
  t.ok(bench.engine.logs(name).bytes().length <= 1024 * 1024);
  t.ok(worst < 2_000, "the event loop goes on"); // how long each turn takes is the machine's matter
  t.comment(`worst delay of the event loop ${Math.round(worst)} ms`);
  await bench.engine.kill(name);
});

t.test("all are stopped at once, c0 last", async (t) => {
  await using bench = await makeBench();
  bench.install(manifest({ name: "c0", args: ["term"] }));
  await bench.engine.createCore(
    new Map([
      ["name", "c0"],
      ["guest_os", "c0"],
    ]),
  );
  await bench.engine.start("c0");
  const names = [
    await bench.create(manifest({ args: ["term"] })),
    await bench.create(manifest({ args: ["wait"] })),
  ];
  for (const name of names) await bench.engine.start(name);
  await bench.engine.stopAll();
  const stopped = bench.changes.filter(({ to }) => to === "STOPPED").map(({ name }) => name);
  t.same([...stopped].sort(), ["c0", ...names].sort());
  t.equal(stopped.at(-1), "c0");
  await bench.engine[Symbol.asyncDispose]();
  await t.rejects(bench.engine.start("c0"), { code: "container-state", message: /going down/ });
});

t.test(
  "with a full disk a container is still stopped and removed, and what was lost is told (B72)",
  async (t) => {
    await using bench = await makeBench();
    const mounts = [mount("SHARED", "/"), mount("EMPTY", "/data", { imageFile: "data", fsType: "ext4" })];
    const name = await bench.create(manifest({ args: ["status-and-wait"], mounts }));
    // A small file system in place of the data folder, and all of it taken.
    const disk = kernel.fsMount("tmpfs", [["size", "64k"]], 0);
    kernel.moveMount(disk, -100, bench.ports.paths.data);
    closeSync(disk);
    using _unmount = { [Symbol.dispose]: () => kernel.umount(bench.ports.paths.data, 2) };
    await bench.engine.start(name);
    await says(bench, name, "ready");
    t.not((await run(bench, name, "flood-file", "/data/large")).status, 0);
    await bench.engine.stop(name);
    t.equal(bench.engine.status(name).state, "STOPPED");
    await bench.engine.remove(name);
    t.same(readdirSync(bench.ports.paths.data), []);
    t.match(bench.reports, [{ code: "log-not-kept" }]);
  },
);
