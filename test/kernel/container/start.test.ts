/** Starts and their refusals, undone at whatever call they fail. */
import { existsSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import type { Kernel } from "../../../init/kernel.ts";
import {
  kernel,
  leftovers,
  makeBench,
  makeImage,
  manifest,
  mount,
  nothingLeft,
  reaches,
  run,
  says,
  settled,
  symlinkSync,
} from "./fixture.ts";

t.test("nothing starts unmeasured", async (t) => {
  await using bench = await makeBench({
    measure: async () => {
      throw new Error("the TPM does not answer");
    },
  });
  const name = await bench.create(manifest());
  const before = await settled(bench);
  await t.rejects(bench.engine.start(name), { code: "not-measured", message: /the TPM does not answer/ });
  t.equal(bench.engine.status(name).state, "STOPPED");
  t.match(bench.engine.status(name).lastExit, { why: "start-failed", sentence: /TPM/ });
  await nothingLeft(t, bench, before);
});

t.test("a machine that cannot keep the limits starts nothing", async (t) => {
  await using bench = await makeBench({ controllers: new Set(["cpu"]), missingControllers: "refuse" });
  const name = await bench.create(manifest());
  await t.rejects(bench.engine.start(name), { code: "limit-unavailable", message: /memory.*pids/ });
});

t.test("an image that lacks a mount point is refused with both names (B26)", async (t) => {
  await using bench = await makeBench();
  const without = makeImage("without-run", (root) => rmSync(join(root, "run"), { recursive: true }));
  const a = await bench.create(manifest(), {}, without);
  await t.rejects(bench.engine.start(a), { code: "mount-point-missing", message: /"\/run" .*os-/ });
  const file = makeImage("file-mount", (root) => writeFileSync(join(root, "srv"), ""));
  const volume = mount("EMPTY", "/srv", { imageFile: "srv", fsType: "ext4" });
  const b = await bench.create(manifest({ mounts: [mount("SHARED", "/"), volume] }), {}, file);
  await t.rejects(bench.engine.start(b), { code: "mount-point-missing", message: /no directory/ });
  for (const path of ["/proc/x", "/dev", "/run/y", "/../etc", "/sys"]) {
    const c = await bench.create(
      manifest({ mounts: [mount("SHARED", "/"), mount("EMPTY", path, { fsType: "tmpfs" })] }),
    );
    await t.rejects(bench.engine.start(c), { code: "mount-point-missing" }, path);
  }
});

t.test("an image whose /dev, /proc or /sys leads outside gets its own inside", async (t) => {
  await using bench = await makeBench();
  const listing = () => ["/dev", "/run", "/etc"].map((folder) => readdirSync(folder).sort().join(" "));
  const image = makeImage("links", (root) => {
    for (const name of ["proc", "run"]) rmSync(join(root, name), { recursive: true });
    symlinkSync("/../../../../../../data", join(root, "proc"));
    symlinkSync("../../../../../../var", join(root, "run"));
    symlinkSync("/../../../../etc/passwd", join(root, "etc/resolv.conf"));
  });
  const before = listing();
  const name = await bench.create(manifest({ args: ["term"] }), { dns_server: "192.0.2.1" }, image);
  await bench.engine.start(name);
  t.same(listing(), before, "the root namespace's tree is unchanged (B14)");
  t.match((await run(bench, name, "list", "/data")).out, /self/, "proc is where the link leads inside");
  t.match((await run(bench, name, "cat", "/var/host/resolv.conf")).out, "nameserver 192.0.2.1");
});

t.test("the name server reaches the guest where its own file is, and only there", async (t) => {
  await using bench = await makeBench();
  const image = makeImage("resolv", (root) => {
    writeFileSync(join(root, "etc/stub"), "");
    symlinkSync("../etc/stub", join(root, "etc/resolv.conf"));
  });
  const name = await bench.create(manifest({ args: ["wait"] }), { dns_server: "2001:db8::1" }, image);
  await bench.engine.start(name);
  t.match((await run(bench, name, "cat", "/etc/stub")).out, "nameserver 2001:db8::1");
});

t.test("an init that does not exist or is no program ends the start with its name", async (t) => {
  await using bench = await makeBench();
  const before = await settled(bench);
  for (const [initPath, why] of [
    ["/nothing", /\/nothing.*ENOENT/],
    ["/etc", /\/etc.*EACCES/],
  ] as const) {
    const name = await bench.create(manifest({ initPath }));
    await t.rejects(bench.engine.start(name), { code: "start-failed", message: why });
  }
  const { fds: _, ...rest } = leftovers(bench);
  const { fds: __, ...wanted } = before;
  t.same(rest, wanted);
});

t.test("a mount type that is not there yet is refused by name", async (t) => {
  await using bench = await makeBench();
  for (const type of ["OVERLAY_RO", "OVERLAY_RW", "BIND_FILE", "DEVICE"]) {
    const name = await bench.create(manifest({ mounts: [mount("SHARED", "/"), mount(type, "/data")] }));
    await t.rejects(bench.engine.start(name), { code: "unsupported", message: new RegExp(type) });
  }
  const rootless = await bench.create(manifest({ mounts: [] }));
  await t.rejects(bench.engine.start(rootless), { code: "start-failed", message: /root/ });
});

t.test("a start undoes itself at whatever kernel call it fails", async (t) => {
  // Warm: what is made once per policy exists, so that what is counted is one start.
  let failAt = 0;
  let calls = 0;
  const failing = new Proxy(kernel, {
    get(target, key) {
      const value = Reflect.get(target, key);
      // A watch, the end of a wait and the signals that end a process are how an undo works.
      const undo = ["watchFd", "freeJob", "pidfdSignal", "pidfdWait", "planProgress", "landlockAbi", "umask"];
      if (typeof value !== "function" || undo.includes(String(key))) return value;
      return (...args: unknown[]) => {
        if (++calls === failAt) {
          throw Object.assign(new Error(`EIO: ${String(key)}`), {
            code: "EIO",
            errno: 5,
            syscall: key,
            on: "",
          });
        }
        return Reflect.apply(value, target, args);
      };
    },
  });
  await using bench = await makeBench({}, failing as Kernel);
  const mounts = [
    mount("SHARED_RW", "/"),
    mount("EMPTY", "/data", { imageFile: "data", fsType: "ext4" }),
    mount("EMPTY", "/var", { imageFile: "var", fsType: "tmpfs", defaultSizeMb: 4 }),
  ];
  const name = await bench.create(manifest({ args: ["term"], mounts }), { dns_server: "192.0.2.1" });
  await bench.engine.start(name);
  await bench.engine.kill(name);
  const before = await settled(bench);
  calls = 0;
  await bench.engine.start(name);
  const all = calls;
  await bench.engine.kill(name);
  t.ok(all > 40, `${all} calls`);
  for (let n = 1; n <= all; n++) {
    calls = 0;
    failAt = n;
    await t.rejects(bench.engine.start(name), { message: /EIO/ }, `call ${n}`);
    failAt = 0;
    t.equal(bench.engine.status(name).state, "STOPPED");
    await nothingLeft(t, bench, before, `call ${n}`);
  }
  t.same(bench.reports, []);
  await bench.engine.start(name);
  await says(bench, name, "ready");
});

t.test("fifty starts leave nothing", async (t) => {
  await using bench = await makeBench();
  const name = await bench.create(manifest({ args: ["hello"], mounts: [mount("SHARED_RW", "/")] }));
  const once = async () => {
    await bench.engine.start(name);
    await reaches(bench, name, "STOPPED");
  };
  await once();
  const before = await settled(bench);
  for (let n = 0; n < 50; n++) await once();
  await nothingLeft(t, bench, before);
  t.equal(bench.measured.length, 51, "each start was measured");
});

t.test("ten at once are ten", async (t) => {
  await using bench = await makeBench();
  const names: string[] = [];
  for (let n = 0; n < 10; n++) names.push(await bench.create(manifest({ args: ["term"] })));
  await Promise.all(names.map((name) => bench.engine.start(name)));
  const bases = new Set(bench.engine.list().map((status) => status.idBase));
  t.equal(bases.size, 10, "each has its own ids");
  await Promise.all(names.map((name) => says(bench, name, "ready")));
  const ended = await Promise.all(names.map((name) => bench.engine.stop(name)));
  t.same(
    ended.map((exit) => exit.status),
    names.map(() => 7),
  );
});

t.test("a start is stopped while its image is opened, measured or released", async (t) => {
  const gate = Promise.withResolvers<void>();
  const reached = Promise.withResolvers<void>();
  const hold = async () => {
    reached.resolve();
    await gate.promise;
  };
  for (const port of ["measure", "beforeRelease"] as const) {
    await using bench = await makeBench({ [port]: hold });
    const name = await bench.create(manifest());
    const start = bench.engine.start(name);
    const refused = t.rejects(start, { code: "container-state", message: /stopped while it started/ });
    await reached.promise;
    const stop = bench.engine.stop(name);
    gate.resolve();
    t.match(await stop, { why: "start-failed" });
    await refused;
    t.equal(bench.engine.status(name).state, "STOPPED");
    t.equal(
      readdirSync(bench.cgroup, { withFileTypes: true }).filter((entry) => entry.isDirectory()).length,
      0,
    );
    t.notOk(existsSync(join(bench.ports.paths.run, bench.engine.status(name).uuid)));
  }
});

t.test("a host without the cgroup or with a full run folder refuses, and undoes", async (t) => {
  await using bench = await makeBench();
  const name = await bench.create(manifest());
  const { paths } = bench.ports;
  const before = await settled(bench);
  for (const broken of [
    { cgroup: "/sys/fs/cgroup/nowhere" },
    { run: "/proc/none" },
    { staging: "/nowhere" },
  ]) {
    Object.assign(bench.ports, { paths: { ...paths, ...broken } });
    await t.rejects(bench.engine.start(name), { name: "GimbalError" }, JSON.stringify(broken));
    Object.assign(bench.ports, { paths });
    t.equal(bench.engine.status(name).state, "STOPPED");
    t.same(readdirSync(bench.ports.paths.run), []);
    t.equal(leftovers(bench).cgroups, before.cgroups);
  }
});
