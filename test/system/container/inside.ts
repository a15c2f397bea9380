/**
 * Runs as PID 1 in a VM in place of init: the container engine on the device's kernel, with the controllers that the build host
 * lacks. Each step prints one line `STEP <name> <JSON>` on the console; limits.test.ts reads them.
 */
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { CborValue } from "../../../init/bytes/cbor.ts";
import { prepareCgroups } from "../../../init/container/cgroup.ts";
import { Engine } from "../../../init/container/engine.ts";
import type { ManifestView } from "../../../init/container/ports.ts";
import { GimbalError, reasonOf } from "../../../init/errors.ts";
import type { Kernel } from "../../../init/kernel.ts";
import { MOUNT_ATTR_NODEV, MOUNT_ATTR_RDONLY } from "../../../init/linux.ts";
import { replaceEnvironment } from "../../../init/machine/command-line.ts";
import { hardenKernel, hardenProcess } from "../../../init/machine/hardening.ts";
import { openKmsgLog } from "../../../init/machine/kmsg.ts";
import { closeModuleDoor, loadModules } from "../../../init/machine/modules.ts";
import { makePivotable, mountSystem } from "../../../init/machine/mounts.ts";
import { shutDown } from "../../../init/machine/power.ts";
import { startReaper } from "../../../init/machine/reaper.ts";

const module_: { exports: unknown } = { exports: {} };
process.dlopen(module_, "/usr/lib/gimbal/gimbal.node");
const kernel = module_.exports as Kernel;
const console_ = openSync("/dev/console", "w");
const step = (name: string, value: unknown) =>
  void writeSync(console_, `STEP ${name} ${JSON.stringify(value)}\n`);
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

function manifest(args: readonly string[], more: Partial<ManifestView> = {}): ManifestView {
  const root = {
    imageFile: "root.img",
    mountPoint: "/",
    fsType: "erofs",
    mountType: "SHARED_RW",
    defaultSizeMb: undefined,
  };
  return {
    name: "probe",
    version: 1,
    mounts: [root],
    initPath: "/probe",
    initParam: args,
    initEnv: [],
    profile: "service",
    notify: false,
    setuid: false,
    defaultMemoryMb: 32,
    minimumMemoryMb: undefined,
    capabilities: [],
    devices: [],
    ...more,
  };
}

async function main(): Promise<void> {
  mountSystem(kernel);
  replaceEnvironment();
  hardenProcess(kernel);
  kernel.setConsoleLogLevel(1);
  const log = openKmsgLog();
  makePivotable(kernel);
  const modules = loadModules(kernel);
  closeModuleDoor();
  hardenKernel();
  startReaper(kernel);
  mkdirSync("/data", { recursive: true });
  kernel.mount("tmpfs", "/data", "tmpfs", 0, "size=64m");

  const memoryBytes = Number(/^MemTotal:\s+(\d+)/m.exec(readFileSync("/proc/meminfo", "utf8"))?.[1]) * 1024;
  const tree = prepareCgroups("/sys/fs/cgroup", memoryBytes);
  const own = "/sys/fs/cgroup/init";
  step("tree", {
    controllers: [...tree.controllers],
    own: readFileSync("/proc/self/cgroup", "utf8").trim(),
    minimum: Number(readFileSync(join(own, "memory.min"), "utf8")),
    cap: Number(readFileSync(join(tree.path, "memory.max"), "utf8")),
    memoryBytes,
    shared: Number(readFileSync("/proc/sys/user/max_user_namespaces", "utf8")),
    failedModules: modules.failed,
  });

  const views = new Map<string, ManifestView>();
  const engine = new Engine(kernel, {
    guestOses: {
      async verify(name) {
        const view = views.get(name);
        if (!view) throw new Error("none");
        return {
          manifest: view,
          manifestDigest: Buffer.from(name.padEnd(32)),
          directory: "/",
          trustLevel: "SIGNED",
        };
      },
    },
    async openImage() {
      const fd = openSync("/test/root.img", "r");
      const loop = kernel.loopAttach(fd, { readOnly: true, autoclear: true, directIo: false });
      closeSync(fd);
      return {
        newMount: () =>
          kernel.fsMount("erofs", [["source", loop.path], ["ro"]], MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV),
        [Symbol.asyncDispose]: async () => closeSync(loop.fd),
      };
    },
    measure: async () => {},
    paths: {
      state: "/data/state/containers",
      data: "/data/containers",
      run: "/run/gimbal/containers",
      cgroup: tree.path,
      staging: "/staging",
      shim: "/usr/lib/gimbal/shim",
    },
    coreBinds: [],
    controllers: tree.controllers,
    missingControllers: "refuse",
    memoryBytes,
    nowMs: Date.now,
    randomUuid: () => crypto.randomUUID(),
  });
  const heard: string[] = [];
  const reports: string[] = [];
  engine.on("state", ({ name, to }) => heard.push(`${name} ${to}`));
  engine.on("oom", ({ name }) => heard.push(`${name} oom`));
  engine.on("report", ({ sentence }) => reports.push(sentence));
  await engine.load();

  const create = async (name: string, view: ManifestView, config: Record<string, CborValue> = {}) => {
    views.set(name, { ...view, name });
    await engine.create(new Map<string, CborValue>(Object.entries({ name, guest_os: name, ...config })));
    await engine.start(name);
  };
  const reaches = async (name: string, is: () => boolean) => {
    for (let n = 0; n < 300 && !is(); n++) await pause(50);
    return { state: engine.status(name).state, exit: engine.status(name).lastExit };
  };
  const says = (name: string, text: string) =>
    Buffer.from(engine.logs(name).bytes()).toString().includes(text);
  const run = async (name: string, ...args: string[]) => {
    await using session = await engine.exec(name, { argv: ["/probe", ...args] });
    const pieces: Uint8Array[] = [];
    for await (const { bytes } of session.output) pieces.push(bytes);
    const { status } = await session.ended;
    return { status, out: Buffer.concat(pieces).toString() };
  };
  const stopped = (name: string) => () => engine.status(name).state === "STOPPED";

  await create("limits", manifest(["term"]), {
    cpu_percent: 50,
    assign_cpus: "0",
    pids_limit: 20,
    cpu_weight: 50,
  });
  const cgroup = join(tree.path, engine.status("limits").uuid);
  const read = (file: string) => readFileSync(join(cgroup, file), "utf8").trim();
  step("limits", {
    memory: Number(read("memory.max")),
    pids: read("pids.max"),
    cpu: read("cpu.max"),
    weight: read("cpu.weight"),
    cpus: read("cpuset.cpus"),
    oomGroup: read("memory.oom.group"),
    swap: readdirSync(cgroup).includes("memory.swap.max") ? read("memory.swap.max") : "0",
    guest: (await run("limits", "write", "/sys/fs/cgroup/memory.max", "max")).status,
    missing: engine.status("limits").missing,
    resources: (await run("limits", "status")).out
      .split("\n")
      .filter((line) => /^Max (core|open|processes)/.test(line))
      .map((line) => line.replace(/\s+/g, " ").trim()),
    // Last: this init does not wait for those whose parent went, and each counts until then.
    forks: (await run("limits", "forks", "100")).status,
  });
  await engine.stop("limits");

  heard.length = 0;
  await create("eater", manifest(["eat", "200"]));
  step("eater", { ...(await reaches("eater", stopped("eater"))), heard: [...heard] });
  heard.length = 0;
  await create("parent", manifest(["eat", "200", "child"], { profile: "full-os" }));
  await reaches("parent", () => heard.includes("parent oom"));
  step("child", { state: engine.status("parent").state, heard: [...heard] });
  await engine.stop("parent");

  await create("delegate", manifest(["delegate"], { profile: "full-os" }));
  await reaches("delegate", () => says("delegate", "ready"));
  const statuses: number[] = [];
  for (let n = 0; n < 20; n++) statuses.push((await run("delegate", "exit", "3")).status);
  step("delegate", {
    statuses: [...new Set(statuses)],
    missing: (await run("delegate", "write", "/sys/fs/cgroup/pids.max", "max")).status,
    end: await engine.stop("delegate"),
  });

  const delay = monitorEventLoopDelay({ resolution: 5 });
  await create("bomb", manifest(["bomb"]), { pids_limit: 200 });
  await reaches("bomb", () => says("bomb", "ready"));
  await pause(1_000);
  delay.enable();
  const begun = Date.now();
  const killed = await engine.kill("bomb");
  delay.disable();
  step("bomb", { why: killed.why, tookMs: Date.now() - begun, worstMs: Math.round(delay.max / 1e6) });

  const anonymous = () => Number(/^RssAnon:\s+(\d+)/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1]);
  views.set("idle", manifest(["wait"], { name: "idle" }));
  const before = anonymous();
  const each: number[] = [];
  for (let n = 0; n < 10; n++) {
    await engine.create(
      new Map<string, CborValue>([
        ["name", `idle${n}`],
        ["guest_os", "idle"],
      ]),
    );
    const from = performance.now();
    await engine.start(`idle${n}`);
    each.push(Math.round(performance.now() - from));
  }
  step("idle", { kibEach: (anonymous() - before) / 10, startMs: each });
  await engine[Symbol.asyncDispose]();
  step("rest", {
    cgroups: readdirSync(tree.path, { withFileTypes: true }).filter((entry) => entry.isDirectory()).length,
    run: readdirSync("/run/gimbal/containers"),
    reports,
  });
  step("end", true);
  await shutDown(kernel, "poweroff", [], log);
}

function died(error: unknown): void {
  step(
    "died",
    error instanceof GimbalError ? error.message : error instanceof Error ? error.stack : reasonOf(error),
  );
  void shutDown(kernel, "poweroff", [], openKmsgLog());
}
process.on("uncaughtException", died);
process.on("unhandledRejection", died);
writeFileSync("/dev/null", "");
main().catch(died);
