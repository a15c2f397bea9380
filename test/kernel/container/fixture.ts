/**
 * An engine on this machine: images are EROFS on a loop device (no device-mapper here, so no dm-verity), limits are kept
 * where the machine has the controllers. Needs root. Everything lies in a temporary folder and a cgroup of its own.
 */
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  watch,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Test } from "tap";
import type { CborValue } from "../../../init/bytes/cbor.ts";
import { enable } from "../../../init/container/cgroup.ts";
import { Engine } from "../../../init/container/engine.ts";
import type {
  EnginePorts,
  ManifestView,
  MountView,
  StartMeasurement,
  VerifiedGuestOs,
} from "../../../init/container/ports.ts";
import type { EngineReport, StateChange } from "../../../init/container/status.ts";
import { GimbalError } from "../../../init/errors.ts";
import type { Kernel } from "../../../init/kernel.ts";
import { MOUNT_ATTR_NODEV, MOUNT_ATTR_RDONLY } from "../../../init/linux.ts";
import { loadKernel } from "../load.ts";

export const kernel: Kernel = loadKernel();

const scratch = mkdtempSync(join(tmpdir(), "gimbal-container-"));
process.on("exit", () => rmSync(scratch, { recursive: true, force: true }));
chmodSync(scratch, 0o755);
watch(scratch).close(); // libuv's inotify descriptor is there from here on
const program = join(scratch, "probe");
execFileSync("gcc", ["-static", "-O1", "-w", "test/kernel/container/probe.c", "-o", program]);

/** An EROFS image with the probe as /probe, and what `more` makes in the folder. */
export function makeImage(name: string, more: (root: string) => void = () => {}): string {
  const root = mkdtempSync(join(scratch, "root-"));
  for (const folder of ["proc", "sys", "dev", "run", "etc", "tmp", "var", "data"])
    mkdirSync(join(root, folder));
  chmodSync(join(root, "tmp"), 0o1777);
  execFileSync("cp", [program, join(root, "probe")]);
  more(root);
  chmodSync(root, 0o755);
  const image = join(scratch, `${name}.img`);
  execFileSync("mkfs.erofs", ["--quiet", "-Enoinline_data", image, root], { stdio: "pipe" });
  rmSync(root, { recursive: true });
  return image;
}

export { mkdirSync, symlinkSync };

export function mount(mountType: string, mountPoint: string, more: Partial<MountView> = {}): MountView {
  return { imageFile: "root.img", mountPoint, fsType: "erofs", mountType, defaultSizeMb: undefined, ...more };
}

export function manifest(
  more: Partial<ManifestView> & { readonly args?: readonly string[] } = {},
): ManifestView {
  const { args = ["wait"], ...rest } = more;
  return {
    name: "probe",
    version: 1,
    mounts: [
      mount("SHARED", "/"),
      mount("EMPTY", "/tmp", { imageFile: "tmp", fsType: "tmpfs", defaultSizeMb: 8 }),
    ],
    initPath: "/probe",
    initParam: args,
    initEnv: [],
    profile: "service",
    notify: false,
    setuid: false,
    defaultMemoryMb: 64,
    minimumMemoryMb: undefined,
    capabilities: [],
    devices: [],
    ...rest,
  };
}

const images = new Map<string, string>();
export const standardImage = makeImage("probe");

export type Bench = AsyncDisposable & {
  engine: Engine;
  readonly changes: StateChange[];
  readonly reports: EngineReport[];
  readonly measured: StartMeasurement[];
  readonly ports: EnginePorts;
  readonly folder: string;
  readonly cgroup: string;
  /** Puts a GuestOS into the store; `image` is its root. */
  install(view: ManifestView, image?: string): void;
  /** Installs and creates; returns the container's name. */
  create(view: ManifestView, config?: Record<string, CborValue>, image?: string): Promise<string>;
  /** A new engine on the same disk, as after a boot. */
  reload(): Promise<void>;
};

export async function makeBench(more: Partial<EnginePorts> = {}, on: Kernel = kernel): Promise<Bench> {
  const folder = mkdtempSync(join(scratch, "bench-"));
  chmodSync(folder, 0o755);
  const at = (name: string) => join(folder, name);
  for (const name of ["state", "data", "run", "staging/l", "staging/u", "staging/root"]) {
    mkdirSync(at(name), { recursive: true });
  }
  const unified = "/sys/fs/cgroup/unified";
  const cgroup = join(
    existsSync(unified) ? unified : "/sys/fs/cgroup",
    `gimbal-test-${process.pid}-${++benches}`,
  );
  mkdirSync(cgroup);
  const guestOses = new Map<string, VerifiedGuestOs>();
  const measured: StartMeasurement[] = [];
  const ports: EnginePorts = {
    guestOses: {
      async verify(name, minimumVersion) {
        const found = guestOses.get(name);
        if (found && found.manifest.version >= minimumVersion) return found;
        throw new GimbalError("not-found", { tried: "find the GuestOS", on: name, why: "there is none" });
      },
    },
    async openImage({ directory }) {
      const file = images.get(directory);
      if (file === undefined) throw new Error("no image");
      const fd = openSync(file, "r");
      using _closing = { [Symbol.dispose]: () => closeSync(fd) };
      const loop = on.loopAttach(fd, { readOnly: true, autoclear: true, directIo: false });
      return {
        newMount: () =>
          on.fsMount("erofs", [["source", loop.path], ["ro"]], MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV),
        [Symbol.asyncDispose]: async () => closeSync(loop.fd),
      };
    },
    imageLingerMs: 0, // so that what is left over is left over
    measure: async (event) => void measured.push(event),
    paths: {
      state: at("state"),
      data: at("data"),
      run: at("run"),
      cgroup,
      staging: at("staging"),
      shim: "build/x64/shim",
    },
    coreBinds: [],
    controllers: enable(cgroup),
    missingControllers: "ignore",
    memoryBytes: 2 ** 31,
    nowMs: () => Date.now(),
    randomUuid: () => crypto.randomUUID(),
    ...more,
  };
  const changes: StateChange[] = [];
  const reports: EngineReport[] = [];
  const open = async () => {
    const engine = new Engine(on, ports);
    engine.on("state", (change) => changes.push(change));
    engine.on("report", (report) => reports.push(report));
    await engine.load();
    return engine;
  };
  const bench: Bench = {
    engine: await open(),
    changes,
    reports,
    measured,
    ports,
    folder,
    cgroup,
    install(view, image = standardImage) {
      const directory = `${view.name}-${view.version}-${folder}`;
      images.set(directory, image);
      const manifestDigest = new TextEncoder().encode(
        `${directory}-${JSON.stringify(view)}`.padEnd(32).slice(0, 200),
      );
      guestOses.set(view.name, { manifest: view, manifestDigest, directory, trustLevel: "SIGNED" });
    },
    async create(view, config = {}, image) {
      const name = `c${++containers}`;
      const own = { ...view, name: `os-${name}` };
      this.install(own, image);
      await this.engine.create(new Map(Object.entries({ name, guest_os: own.name, ...config })));
      return name;
    },
    async reload() {
      await this.engine[Symbol.asyncDispose]();
      this.engine = await open();
    },
    async [Symbol.asyncDispose]() {
      await this.engine[Symbol.asyncDispose]();
      rmdirSync(cgroup);
      rmSync(folder, { recursive: true });
    },
  };
  return bench;
}
let benches = 0;
let containers = 0;

/** Resolves when the container has this state. */
export async function reaches(bench: Bench, name: string, state: string, timeoutMs = 10_000): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (bench.engine.status(name).state !== state) {
    if (Date.now() > end) throw new Error(`${name} is ${bench.engine.status(name).state}, not ${state}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Resolves when the console log holds the text. */
export async function says(bench: Bench, name: string, text: string, timeoutMs = 10_000): Promise<string> {
  const end = Date.now() + timeoutMs;
  for (;;) {
    const log = Buffer.from(bench.engine.logs(name).bytes()).toString();
    if (log.includes(text)) return log;
    if (Date.now() > end) throw new Error(`${name} does not say ${text}: ${log}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

export type Ran = { status: number; out: string; err: string; sentence: string | undefined };

/** Runs the probe in the container. */
export async function run(bench: Bench, name: string, ...args: string[]): Promise<Ran> {
  return runArgv(bench, name, ["/probe", ...args]);
}

export async function runArgv(
  bench: Bench,
  name: string,
  argv: readonly string[],
  input?: string,
): Promise<Ran> {
  await using session = await bench.engine.exec(name, { argv });
  if (input !== undefined) void session.write(Buffer.from(input)).then(() => session.endInput());
  const pieces = { stdout: [] as Uint8Array[], stderr: [] as Uint8Array[] };
  for await (const { from, bytes } of session.output) pieces[from].push(bytes);
  const { status, sentence } = await session.ended;
  return {
    status,
    out: Buffer.concat(pieces.stdout).toString(),
    err: Buffer.concat(pieces.stderr).toString(),
    sentence,
  };
}

export type Leftovers = {
  readonly fds: number;
  readonly children: string;
  readonly mounts: number;
  readonly cgroups: number;
  readonly run: readonly string[];
  readonly loops: number;
};

/** Others use this machine, too. */
const own = (lines: readonly string[]) => lines.filter((line) => line.includes(scratch)).length;
function textOf(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // no loop device, or one that was detached just now
  }
}

/** What a start could leave behind. */
export function leftovers(bench: Bench): Leftovers {
  return {
    fds: readdirSync("/proc/self/fd").length,
    children: readFileSync(`/proc/self/task/${process.pid}/children`, "utf8").trim(),
    mounts: own(readFileSync("/proc/self/mountinfo", "utf8").split("\n")),
    cgroups: readdirSync(bench.cgroup, { withFileTypes: true }).filter((entry) => entry.isDirectory()).length,
    run: readdirSync(bench.ports.paths.run),
    loops: own(readdirSync("/sys/block").map((name) => textOf(`/sys/block/${name}/loop/backing_file`))),
  };
}

/** Asserts that nothing is left but what was there before; the log of an ended guest may still be on its way to the disk. */
export async function nothingLeft(
  t: Test,
  bench: Bench,
  before: Leftovers,
  name = "nothing is left",
): Promise<void> {
  const wanted = JSON.stringify(before);
  for (let n = 0; n < 100 && JSON.stringify(leftovers(bench)) !== wanted; n++) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  t.same(leftovers(bench), before, name);
}

/** Before anything is counted. */
export async function settled(bench: Bench): Promise<Leftovers> {
  let last = leftovers(bench);
  for (let equal = 0, n = 0; equal < 5 && n < 200; n++) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    const now = leftovers(bench);
    equal = JSON.stringify(now) === JSON.stringify(last) ? equal + 1 : 0;
    last = now;
  }
  return last;
}
