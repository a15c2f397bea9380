/** What a guest gets without asking, and what it cannot do: the walls as its own program sees them. */
import { chmodSync, mkdtempSync, readFileSync, readlinkSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { capabilityMask, defaultCapabilities } from "../../../init/container/capabilities.ts";
import { makeBench, manifest, mount, type Ran, run, says } from "./fixture.ts";

const EPERM = 1;
const ENOENT = 2;
const EACCES = 13;
const EINVAL = 22;
const EROFS = 30;
const ENOSYS = 38;
const EAFNOSUPPORT = 97;

function linesOf({ out }: Pick<Ran, "out">): Map<string, string> {
  return new Map(
    out.split(/\r?\n/).flatMap((line) => {
      const match = /^([A-Za-z_.0-9-]+):?\s+(.*)$/.exec(line);
      return match?.[1] === undefined ? [] : [[match[1], match[2]?.trim() ?? ""]];
    }),
  );
}

t.test("a service gets what the table of ambient state says, and no more", async (t) => {
  await using bench = await makeBench();
  const name = await bench.create(
    manifest({ args: ["status-and-wait"], initEnv: ["GIVEN=by the GuestOS", "TWICE=os"] }),
    { init_env: ["TWICE=config"] },
  );
  await bench.engine.start(name);
  const out = await says(bench, name, "ready");
  const got = linesOf({ out });
  for (const [key, wanted] of Object.entries({
    pid: "1",
    uid: "0",
    gid: "0",
    groups: "0",
    umask: "22",
    nice: "0",
    root: "0:0",
    hostname: name,
    CapEff: capabilityMask(defaultCapabilities.service).toString(16).padStart(16, "0"),
    CapBnd: capabilityMask(defaultCapabilities.service).toString(16).padStart(16, "0"),
    CapInh: "0000000000000000",
    CapAmb: "0000000000000000",
    NoNewPrivs: "1",
    Seccomp: "2",
    SigBlk: "0000000000000000",
    SigIgn: "0000000000000000",
    SigCgt: "0000000000000000",
  })) {
    t.equal(got.get(key), wanted, key);
  }
  t.ok(Number(got.get("up")) < 30, "its clock began with it");
  t.same(out.match(/^fd \d+/gm), ["fd 0", "fd 1", "fd 2"]);
  const env = [...out.matchAll(/^env (\w+)=(.*?)\r?$/gm)].map((match) => `${match[1]}=${match[2]}`);
  t.same(env.sort(), [
    "GIVEN=by the GuestOS",
    "HOME=/root",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "TERM=linux",
    "TWICE=config",
    "container=gimbal",
    `container_uuid=${bench.engine.status(name).uuid.replaceAll("-", "")}`,
  ]);
  t.match(out, /Max core file size\s+0\s/);
  t.match(out, /Max nice priority\s+0\s+0/);
});

t.test("a command gets the same walls", async (t) => {
  await using bench = await makeBench();
  const name = await bench.create(manifest({ args: ["term"] }));
  await bench.engine.start(name);
  const ran = await run(bench, name, "status");
  const got = linesOf(ran);
  t.equal(got.get("CapBnd"), capabilityMask(defaultCapabilities.service).toString(16).padStart(16, "0"));
  t.equal(got.get("NoNewPrivs"), "1");
  t.equal(got.get("Seccomp"), "2");
  t.equal(got.get("NSpid")?.split(/\s+/).length, 1, "in the guest's pid namespace");
  t.equal(got.get("hostname"), name);
  t.same(ran.out.match(/^fd \d+/gm), ["fd 0", "fd 1", "fd 2"]);
  const { initPid } = bench.engine.status(name);
  await using session = await bench.engine.exec(name, { argv: ["/probe", "wait"] });
  for (const ns of ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"]) {
    const of = (pid: number | undefined) => readlinkSync(`/proc/${pid}/ns/${ns}`);
    t.equal(of(session.pid), of(initPid), ns);
    t.not(of(session.pid), of(process.pid), ns);
  }
});

t.test("ways out of a service are shut, with the errno that programs expect", async (t) => {
  await using bench = await makeBench();
  const name = await bench.create(manifest({ args: ["term"] }));
  await bench.engine.start(name);
  const got = linesOf(await run(bench, name, "escapes"));
  const wanted: Record<string, number> = {
    mknod: EPERM,
    mount: EPERM,
    umount: EPERM,
    unshare: EPERM,
    bpf: EPERM,
    keyctl: EPERM,
    clone3: ENOSYS,
    unknown: ENOSYS,
    x32: ENOSYS,
    "socket-vsock": EAFNOSUPPORT,
    sti: EPERM,
    kmsg: ENOENT,
    mem: ENOENT,
    release_agent: ENOENT,
    "memory.max": EACCES,
    setns: EPERM,
    above: 0,
    "host-id": EINVAL,
    setgroups: EINVAL,
    hostname: EPERM,
    reboot: EPERM,
    module: EPERM,
    clock: EPERM,
    nofile: EPERM,
    oom: EACCES,
  };
  for (const [key, errno] of Object.entries(wanted)) t.equal(got.get(key), String(errno), key);
  for (const key of ["parent", "uevent_helper", "nice", "sysrq", "core_pattern"])
    t.not(got.get(key), "0", key);
  t.equal((await run(bench, name, "cat", "/proc/kcore")).out, "", "an empty file stands there");
});

t.test("a guest with an own init may mount and make namespaces, and still not get out", async (t) => {
  await using bench = await makeBench();
  const mounts = [mount("SHARED_RW", "/")];
  const name = await bench.create(
    manifest({ args: ["system", "0"], profile: "full-os", notify: true, mounts }),
  );
  await bench.engine.start(name);
  const got = linesOf(await run(bench, name, "escapes"));
  for (const key of ["mount", "unshare"]) t.equal(got.get(key), "0", key);
  for (const key of [
    "mknod",
    "bpf",
    "keyctl",
    "clone3",
    "unknown",
    "x32",
    "socket-vsock",
    "sti",
    "kmsg",
    "mem",
    "sysrq",
    "core_pattern",
    "memory.max",
    "parent",
    "host-id",
    "setgroups",
    "module",
    "clock",
    "nofile",
    "oom",
  ]) {
    t.not(got.get(key), "0", key);
  }
});

t.test("a config can widen and tighten, within what nobody gets", async (t) => {
  await using bench = await makeBench();
  const name = await bench.create(manifest({ args: ["term"] }), {
    add_capabilities: ["SYS_ADMIN"],
    drop_capabilities: ["KILL"],
    seccomp_allow: ["mount"],
    seccomp_forbid: ["mknod", "mknodat"],
  });
  await bench.engine.start(name);
  t.equal(linesOf(await run(bench, name, "escapes")).get("mount"), "0");
  const mask = BigInt(`0x${linesOf(await run(bench, name, "status")).get("CapBnd")}`);
  t.equal((mask >> 21n) & 1n, 1n);
  t.equal((mask >> 5n) & 1n, 0n);
  for (const config of [
    { add_capabilities: ["SYS_MODULE"] },
    { seccomp_allow: ["ioctl"] },
    { seccomp_allow: ["no_such_call"] },
    { allow_dev: ["c 1:3 rwx"] },
  ]) {
    await t.rejects(bench.create(manifest(), config), { name: "GimbalError" }, JSON.stringify(config));
  }
});

t.test("/dev holds the default nodes and those that were allowed", async (t) => {
  await using bench = await makeBench();
  const plain = [
    "console",
    "fd",
    "full",
    "mqueue",
    "null",
    "ptmx",
    "pts",
    "random",
    "shm",
    "stderr",
    "stdin",
    "stdout",
  ];
  const name = await bench.create(manifest({ args: ["term"] }), {
    allow_dev: ["c 10:200 rw", "c 254:250 r"],
  });
  await bench.engine.start(name);
  const nodes = (await run(bench, name, "list", "/dev")).out.trim().split("\n").sort();
  t.same(nodes, [...plain, "net", "tty", "urandom", "zero"].sort());
  t.equal((await run(bench, name, "stat", "/dev/null")).out, "0:0 20666 1:3\n");
  t.equal((await run(bench, name, "stat", "/dev/net/tun")).out, "0:0 20660 10:200\n");
  t.match((await run(bench, name, "stat", "/dev/console")).out, /^0:5 20620 136:/);
  t.equal((await run(bench, name, "write", "/dev/null", "x")).status, 0);
  t.equal((await run(bench, name, "write", "/dev/full", "x")).status, 28);
});

t.test("the device program of the cgroup says no to a node that is there", async (t) => {
  await using bench = await makeBench();
  // Read is allowed, write is not: the node is bound in, the program decides.
  const name = await bench.create(manifest({ args: ["term"] }), { allow_dev: ["c 10:200 r"] });
  await bench.engine.start(name);
  t.equal((await run(bench, name, "write", "/dev/net/tun", "x")).status, EPERM);
});

t.test(
  "a read-only root is read-only, an overlay is the guest's until its end, a volume stays",
  async (t) => {
    await using bench = await makeBench();
    const volume = mount("EMPTY", "/data", { imageFile: "data", fsType: "ext4" });
    const ro = await bench.create(manifest({ args: ["term"], mounts: [mount("SHARED", "/"), volume] }));
    await bench.engine.start(ro);
    t.equal((await run(bench, ro, "write", "/etc/x", "x")).status, EROFS);
    t.equal((await run(bench, ro, "write", "/data/kept", "x")).status, 0);
    t.equal((await run(bench, ro, "chown", "/data/kept", "1000")).status, 0);
    const rw = await bench.create(manifest({ args: ["term"], mounts: [mount("SHARED_RW", "/"), volume] }), {
      tmpfs_size: 4,
    });
    await bench.engine.start(rw);
    t.equal((await run(bench, rw, "write", "/etc/x", "x")).status, 0);
    t.equal(
      (await run(bench, rw, "write", "/probe", "x")).status,
      26,
      "text file busy: it is the program that runs",
    );
    t.equal((await run(bench, rw, "cat", "/data/kept")).status, ENOENT, "the other's volume is not there");
    t.equal((await run(bench, rw, "list", "/")).out.includes("staging"), false);
    await bench.engine.stop(rw);
    await bench.engine.stop(ro);
    await bench.engine.start(rw);
    t.equal((await run(bench, rw, "cat", "/etc/x")).status, ENOENT, "gone with the stop");
    await bench.engine.start(ro);
    t.equal((await run(bench, ro, "cat", "/data/kept")).out, "x");
    t.match((await run(bench, ro, "stat", "/data/kept")).out, /^1000:1000 /);
    const { uuid } = bench.engine.status(ro);
    t.equal(
      statSync(join(bench.ports.paths.data, uuid, "volumes/data/kept")).uid,
      1000,
      "the disk holds the guest's ids",
    );
  },
);

t.test("a tmpfs is no larger than it may be", async (t) => {
  await using bench = await makeBench();
  const mounts = [
    mount("SHARED", "/"),
    mount("EMPTY", "/data", { imageFile: "d", fsType: "tmpfs", defaultSizeMb: 1 }),
  ];
  const name = await bench.create(manifest({ args: ["term"], mounts }));
  await bench.engine.start(name);
  const { status } = await run(bench, name, "write", "/data/large", "x".repeat(100_000));
  t.equal(status, 0);
  let last = 0;
  for (let n = 0; n < 12 && last === 0; n++) {
    last = (await run(bench, name, "write", "/data/large", "x".repeat(100_000))).status;
  }
  t.not(last, 0);
});

t.test("only c0 gets what is bound into c0", async (t) => {
  const open = mkdtempSync(join(tmpdir(), "gimbal-bind-"));
  t.teardown(() => rmSync(open, { recursive: true }));
  writeFileSync(join(open, "file"), "");
  chmodSync(join(open, "file"), 0o666);
  chmodSync(open, 0o777);
  await using bench = await makeBench({
    coreBinds: [
      { source: open, target: "/var", kind: "directory" },
      { source: "/etc/hostname", target: "/run/gimbal/some/file", kind: "file" },
    ],
  });
  bench.install(manifest({ name: "c0", args: ["term"] }));
  await bench.engine.createCore(
    new Map([
      ["name", "c0"],
      ["guest_os", "c0"],
    ]),
  );
  await bench.engine.start("c0");
  t.equal(
    (await run(bench, "c0", "cat", "/run/gimbal/some/file")).out,
    readFileSync("/etc/hostname", "utf8"),
  );
  t.match((await run(bench, "c0", "list", "/var")).out, /^file$/m);
  t.equal((await run(bench, "c0", "write", "/var/file", "x")).status, EROFS);
  t.equal(bench.engine.status("c0").idBase, 100_000);
  const other = await bench.create(manifest({ args: ["term"] }));
  await bench.engine.start(other);
  t.equal((await run(bench, other, "list", "/var")).out, "");
  t.ok(bench.engine.status(other).idBase > 100_000);
});
