/**
 * One start: everything a guest needs is made in order and owned by one stack, so that a failure at any step undoes
 * the steps before it, in reverse. What only global privilege can make is made here, as descriptors; the rest is the plan.
 */
import { closeSync, constants, openSync, readFileSync } from "node:fs";
import { GimbalError, quoted, reasonOf } from "../errors.ts";
import type { Kernel } from "../kernel.ts";
import { allNamespaces, O_PATH, RESOLVE_IN_ROOT } from "../linux.ts";
import { resourceLimitOps } from "./ambient.ts";
import { capabilityMask } from "./capabilities.ts";
import { createCgroup, missingLimits } from "./cgroup.ts";
import { type Console, openConsole } from "./console.ts";
import { compileDeviceProgram, type DeviceRule } from "./devices.ts";
import { hasErrno } from "./fd-stream.ts";
import { type Guest, SIGKILL, signalGuest } from "./guest.ts";
import { makeGuestDev } from "./guest-dev.ts";
import { hostMount, makeHostView } from "./host-view.ts";
import { idBaseOf } from "./ids.ts";
import type { OpenImages } from "./images.ts";
import type { PlanOp } from "./plan.ts";
import type { EnginePorts, MountView, VerifiedGuestOs } from "./ports.ts";
import type { ContainerRecord } from "./records.ts";
import { compileFilter } from "./seccomp/compile.ts";
import { type ProfileChange, type ProfileName, profileOf } from "./seccomp/profile.ts";
import type { Abi } from "./seccomp/table.ts";
import { type Settings, settingsOf } from "./settings.ts";
import { type Process, spawn } from "./spawn.ts";
import { type GuestMount, type GuestRoot, startPlan, type Walls } from "./start-plan.ts";
import { openVolume } from "./volumes.ts";

export type StartRequest = {
  readonly record: ContainerRecord;
  readonly isCore: boolean;
  readonly console: Console;
  /** Fires when the start is to be given up: a stop, or the time is over. */
  readonly signal: AbortSignal;
};

/** What starts share: open images, and what is compiled once per policy. */
export class Starter {
  readonly #kernel: Kernel;
  readonly #ports: EnginePorts;
  readonly #images: OpenImages;
  readonly #filters = new Map<string, Uint8Array>();
  readonly #programs = new Map<string, number>();
  readonly #resourceLimits: readonly PlanOp[];
  #shim: number | undefined;

  constructor(kernel: Kernel, ports: EnginePorts, images: OpenImages) {
    this.#kernel = kernel;
    this.#ports = ports;
    this.#images = images;
    this.#resourceLimits = resourceLimitOps();
  }

  /** @throws {GimbalError}; then nothing is left behind */
  async start(request: StartRequest): Promise<Guest> {
    try {
      return await this.#start(request);
    } catch (error) {
      throw startError(request, error);
    }
  }

  async #start({ record, isCore, console, signal }: StartRequest): Promise<Guest> {
    const kernel = this.#kernel;
    const { paths, guestOses, measure, coreBinds, controllers, missingControllers, beforeRelease } =
      this.#ports;
    const { uuid, config } = record;
    await using undo = new AsyncDisposableStack();
    using temporary = new DisposableStack(); // descriptors that the new process has copies of
    const keep = (fd: number) => temporary.adopt(fd, closeSync);

    const guestOs = await guestOses.verify(config.guestOs, config.minimumVersion);
    const settings = settingsOf(config, guestOs.manifest, { uuid, isCore });
    const missing = missingLimits(controllers, settings.limits);
    if (missing.length > 0 && missingControllers === "refuse") throw limitRefusal(config.name, missing);
    const idBase = idBaseOf(record.slot);

    const sources = await this.#openMounts(guestOs, uuid, settings, undo, keep);
    for (const bind of isCore ? coreBinds : []) {
      const make = bind.target.startsWith("/run/") ? bind.kind : undefined;
      const slotFd = keep(hostMount(kernel, bind.source, bind.executable));
      sources.mounts.push({ fd: slotFd, mapped: false, path: bind.target, make });
    }
    checkMountPoints(kernel, guestOs, sources);
    signal.throwIfAborted();
    await measured(measure, { uuid, guestOs });
    signal.throwIfAborted();

    const cgroup = undo.use(createCgroup({ path: paths.cgroup, controllers }, uuid, settings.limits, idBase));
    kernel.attachDeviceProgram(cgroup.fd, this.#deviceProgram(settings.devices));
    const view = undo.use(makeHostView(kernel, paths.run, { uuid, idBase, dnsServer: config.dnsServer }));
    const dev = undo.use(makeGuestDev(kernel, idBase, settings.devices));
    const pty = undo.use(openConsole(kernel, idBase));
    undo.use(console.connect(pty.master));

    const slots: number[] = [];
    const slot = (fd: number) => slots.push(fd) - 1;
    const walls = this.#walls(settings, config.seccomp);
    const plan = startPlan({
      staging: paths.staging,
      root: rootOf(sources, settings, slot),
      dev: slot(dev.dev),
      devpts: slot(dev.devpts),
      host: slot(view.mount),
      console: slot(pty.mount),
      mounts: sources.mounts.map((mount) => mountOf(mount, slot)),
      hostname: config.name,
      memoryBytes: settings.limits.memoryBytes,
      maskProc: settings.maskProc,
      walls,
      init: settings.init,
    });
    const mapped = sources.mounts.flatMap((mount) =>
      mount.fd !== undefined && mount.mapped ? [mount.fd] : [],
    );
    const process = undo.use(
      await spawn(kernel, this.#shimFd(), {
        plan,
        slots,
        namespaces: allNamespaces,
        cgroupFd: cgroup.fd,
        idBase,
        timeOffsets: clockOffsets(),
        idMapped: [sources.root.fd, dev.dev, ...mapped],
        beforeRelease: async ({ pid, pidfd }) => {
          // A stop in STARTING ends the child wherever it is; the pipe's end tells spawn.
          const end = () => void signalGuest(kernel, { pidfd }, SIGKILL);
          signal.addEventListener("abort", end, { once: true });
          temporary.defer(() => signal.removeEventListener("abort", end));
          await beforeRelease?.({ uuid, name: config.name, isCore, pid });
        },
        timeoutMs: config.startTimeoutMs,
      }),
    );
    undo.defer(() => endProcess(process));
    signal.throwIfAborted();
    const owned = undo.move();
    return {
      pid: process.pid,
      pidfd: process.pidfd,
      idBase,
      cgroup,
      guestOs,
      settings,
      walls,
      devpts: dev.devpts,
      startedMs: this.#ports.nowMs(),
      missing:
        walls.landlockScopes > 0 || settings.profile === "full-os"
          ? missing
          : [...missing, "no Landlock scopes"],
      exited: process.exited,
      onNotice: (callback) => view.notify.listen({ pid: process.pid, uid: idBase }, callback),
      [Symbol.asyncDispose]: () => owned.disposeAsync(),
    };
  }

  /** For `control run`: the same walls in the same order. */
  shimFd(): number {
    return this.#shimFd();
  }

  [Symbol.dispose](): void {
    for (const fd of this.#programs.values()) closeSync(fd);
    this.#programs.clear();
    if (this.#shim !== undefined) closeSync(this.#shim);
    this.#shim = undefined;
  }

  #shimFd(): number {
    this.#shim ??= openSync(this.#ports.paths.shim, constants.O_RDONLY);
    return this.#shim;
  }

  /** Opens every image and volume of the manifest as a detached mount. */
  async #openMounts(
    guestOs: VerifiedGuestOs,
    uuid: string,
    settings: Settings,
    undo: AsyncDisposableStack,
    keep: (fd: number) => number,
  ): Promise<Sources> {
    let root: Sources["root"] | undefined;
    const mounts: Source[] = [];
    for (const mount of guestOs.manifest.mounts) {
      switch (mount.mountType) {
        case "SHARED":
        case "SHARED_RW": {
          const image = undo.use(await this.#images.lease(guestOs, mount));
          const fd = keep(image.newMount());
          if (mount.mountPoint === "/") root = { fd, writable: mount.mountType === "SHARED_RW" };
          else if (mount.mountType === "SHARED") mounts.push({ fd, mapped: true, path: mount.mountPoint });
          else throw unsupported(guestOs, mount);
          break;
        }
        case "EMPTY": {
          const sizeBytes =
            mount.defaultSizeMb === undefined ? settings.tmpfsBytes : mount.defaultSizeMb * 2 ** 20;
          if (mount.mountPoint === "/") throw unsupported(guestOs, mount);
          if (mount.fsType === "tmpfs") mounts.push({ fd: undefined, sizeBytes, path: mount.mountPoint });
          else {
            const fd = keep(await openVolume(this.#kernel, this.#ports.paths.data, uuid, mount.imageFile));
            mounts.push({ fd, mapped: true, path: mount.mountPoint });
          }
          break;
        }
        case "FLASH":
        case "STORE_ONLY":
          break; // parts of a system update: nothing to mount
        default:
          throw unsupported(guestOs, mount);
      }
    }
    if (root === undefined) {
      throw new GimbalError("start-failed", {
        tried: "find the root of",
        on: quoted(guestOs.manifest.name),
        why: "its manifest has no SHARED or SHARED_RW mount on /",
      });
    }
    return { root, mounts };
  }

  #walls(settings: Settings, seccomp: ProfileChange): Walls {
    // Landlock scopes cut signals between a command of `control run` and the guest's services, so an own init goes
    // without: its pid and net namespaces already keep both inside.
    const scopes = settings.profile === "service" && this.#kernel.landlockAbi() >= 6 ? 3 : 0;
    return {
      capabilities: capabilityMask(settings.capabilities),
      noNewPrivs: settings.noNewPrivs,
      seccomp: this.#filter(settings.profile, seccomp),
      landlockScopes: scopes,
      resourceLimits: this.#resourceLimits,
    };
  }

  #filter(name: ProfileName, change: ProfileChange): Uint8Array {
    const key = JSON.stringify([name, change]);
    const filter = this.#filters.get(key) ?? compileFilter(profileOf(name, change), nativeAbis());
    this.#filters.set(key, filter);
    return filter;
  }

  #deviceProgram(rules: readonly DeviceRule[]): number {
    const key = JSON.stringify(rules);
    const program = this.#programs.get(key) ?? loadDeviceProgram(this.#kernel, rules);
    this.#programs.set(key, program);
    return program;
  }
}

type Source =
  | {
      readonly fd: number;
      readonly mapped: boolean;
      readonly path: string;
      readonly make?: "file" | "directory" | undefined;
    }
  | { readonly fd: undefined; readonly sizeBytes: number; readonly path: string };

type Sources = {
  readonly root: { readonly fd: number; readonly writable: boolean };
  readonly mounts: Source[];
};

function rootOf({ root }: Sources, settings: Settings, slot: (fd: number) => number): GuestRoot {
  return root.writable
    ? { is: "overlay", slot: slot(root.fd), tmpfsBytes: settings.tmpfsBytes }
    : { is: "read-only", slot: slot(root.fd) };
}

function mountOf(mount: Source, slot: (fd: number) => number): GuestMount {
  if (mount.fd === undefined)
    return { is: "tmpfs", path: mount.path, sizeBytes: mount.sizeBytes, mode: "755" };
  return { is: "detached", slot: slot(mount.fd), path: mount.path, make: mount.make };
}

/** What every guest needs, and the kernel's own that no image may cover. */
const ownMountPoints = ["/proc", "/sys", "/dev", "/run"];

/**
 * A missing mount point is told before anything is started, with the image's and its own name (B26). Looked up in the
 * image's root, so a link in it leads nowhere else.
 */
function checkMountPoints(kernel: Kernel, guestOs: VerifiedGuestOs, { root, mounts }: Sources): void {
  const given = mounts
    .filter((mount) => !("make" in mount && mount.make !== undefined))
    .map(({ path }) => path);
  for (const path of given) {
    const bad = !/^\/[^\0]*$/.test(path) || path.split("/").some((part) => part === "..");
    if (bad || ownMountPoints.some((own) => path === own || path.startsWith(`${own}/`))) {
      throw pointRefusal(guestOs, path, "it is no place for an image or volume");
    }
  }
  for (const path of [...ownMountPoints, ...given]) {
    try {
      closeSync(kernel.openat2(root.fd, path, O_PATH | constants.O_DIRECTORY, 0, RESOLVE_IN_ROOT));
    } catch (error) {
      if (hasErrno(error, "ENOENT"))
        throw pointRefusal(guestOs, path, "the image has no such directory", error);
      if (hasErrno(error, "ENOTDIR"))
        throw pointRefusal(guestOs, path, "in the image it is no directory", error);
      throw pointRefusal(guestOs, path, reasonOf(error), error);
    }
  }
}

function pointRefusal(guestOs: VerifiedGuestOs, path: string, why: string, cause?: unknown): GimbalError {
  const todo = "build the image with an empty directory there";
  const on = `${quoted(path)} of the image of ${quoted(guestOs.manifest.name)}`;
  return new GimbalError("mount-point-missing", { tried: "mount on", on, why, todo }, cause);
}

function unsupported(guestOs: VerifiedGuestOs, mount: MountView): GimbalError {
  return new GimbalError("unsupported", {
    tried: `mount ${quoted(mount.imageFile)} on ${quoted(mount.mountPoint)} for`,
    on: quoted(guestOs.manifest.name),
    why: `mount type ${quoted(mount.mountType)} is not supported there yet`,
  });
}

function limitRefusal(name: string, missing: readonly string[]): GimbalError {
  return new GimbalError("limit-unavailable", {
    tried: "start",
    on: quoted(name),
    why: `this machine cannot keep its limits: ${missing.join(", ")}`,
    todo: "boot a kernel with these cgroup v2 controllers",
  });
}

async function measured(
  measure: EnginePorts["measure"],
  { uuid, guestOs }: { readonly uuid: string; readonly guestOs: VerifiedGuestOs },
): Promise<void> {
  const { name, version } = guestOs.manifest;
  try {
    await measure({ containerUuid: uuid, guestOs: name, version, manifestDigest: guestOs.manifestDigest });
  } catch (error) {
    throw new GimbalError(
      "not-measured",
      {
        tried: "measure the start of",
        on: quoted(name),
        why: reasonOf(error),
        todo: "nothing starts unmeasured: look at the TPM",
      },
      error,
    );
  }
}

/** The guest's clocks of "since boot" begin near 0: how long the device runs is not its business. */
function clockOffsets(): string {
  const monotonic = process.hrtime.bigint() / 1_000_000_000n;
  const boot = BigInt(Math.floor(Number(readFileSync("/proc/uptime", "utf8").split(" ")[0])));
  return `monotonic -${monotonic} 0\nboottime -${boot} 0\n`;
}

/** The verifier gives up with EAGAIN when a signal comes in while it works, and expects to be asked again. */
function loadDeviceProgram(kernel: Kernel, rules: readonly DeviceRule[]): number {
  const program = compileDeviceProgram(rules);
  for (let attempt = 1; ; attempt++) {
    try {
      return kernel.loadDeviceProgram(program);
    } catch (error) {
      if (!hasErrno(error, "EAGAIN") || attempt === 10) throw error;
    }
  }
}

/** Refusals pass as they are; a stop while it started and what the kernel said get their sentence. */
function startError({ record, signal }: StartRequest, error: unknown): GimbalError {
  const on = quoted(record.config.name);
  if (signal.aborted) {
    return new GimbalError(
      "container-state",
      { tried: "start", on, why: "it was stopped while it started" },
      error,
    );
  }
  if (error instanceof GimbalError) return error;
  return new GimbalError("start-failed", { tried: "start", on, why: reasonOf(error) }, error);
}

/** Runs before the process's own dispose: a start that failed after the exec must not leave it running. */
async function endProcess(process: Process): Promise<void> {
  process.signal(SIGKILL);
  await process.exited;
}

function nativeAbis(): readonly Abi[] {
  switch (process.arch) {
    case "x64":
      return ["x64", "x86"];
    case "arm64":
      return ["arm64", "arm"];
    case "arm":
      return ["arm"];
    default:
      throw new GimbalError("unsupported", {
        tried: "filter system calls on",
        on: process.arch,
        why: "no table of its numbers is built in",
      });
  }
}
