/**
 * Runs as PID 1 in a VM in place of init: the disk room on a real kernel with device-mapper. Each step prints one line
 * `STEP <name> <JSON>` on the console; device-mapper.test.ts reads them. "gimbal.step=..." on the command line picks the part.
 */
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  readFileSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { findPartition } from "../../../init/disk/block.ts";
import { mountDataVolume, openDataVolume, type VolumeDeps } from "../../../init/disk/data-volume.ts";
import type { Image } from "../../../init/disk/image.ts";
import { resealVolume } from "../../../init/disk/keys.ts";
import { type RecoveryKey, recoveryPassphrase } from "../../../init/disk/recovery-key.ts";
import { openImage } from "../../../init/disk/verity.ts";
import { GimbalError, reasonOf } from "../../../init/errors.ts";
import type { Kernel } from "../../../init/kernel.ts";
import { AT_FDCWD } from "../../../init/linux.ts";
import { raiseClock } from "../../../init/machine/clock.ts";
import { readCommandLine, replaceEnvironment } from "../../../init/machine/command-line.ts";
import { hardenKernel, hardenProcess } from "../../../init/machine/hardening.ts";
import { writeImaPolicy } from "../../../init/machine/ima-policy.ts";
import { openKmsgLog } from "../../../init/machine/kmsg.ts";
import { closeModuleDoor, loadModules } from "../../../init/machine/modules.ts";
import { makePivotable, mountEfivars, mountSystem } from "../../../init/machine/mounts.ts";
import { shutDown } from "../../../init/machine/power.ts";
import { runTool } from "../../../init/machine/process.ts";
import { startReaper } from "../../../init/machine/reaper.ts";
import { readSecureBoot } from "../../../init/machine/secure-boot.ts";
import { openWatchdog } from "../../../init/machine/watchdog.ts";
import { bringLoopbackUp, listLinks } from "../../../init/net/links.ts";
import { readStateFile, writeFileAtomic } from "../../../init/state/file.ts";
import type { SealedBlob } from "../../../init/tpm/blob.ts";

const module_: { exports: unknown } = { exports: {} };
process.dlopen(module_, "/usr/lib/gimbal/gimbal.node");
const kernel = module_.exports as Kernel;
const console_ = openSync("/dev/console", "w");
const step = (name: string, value: unknown) => {
  writeSync(
    console_,
    `STEP ${name} ${JSON.stringify(value, (_, item) => (typeof item === "bigint" ? Number(item) : item))}\n`,
  );
};
/** The code of a refusal, or "ok". */
const codeOf = async (work: () => Promise<unknown>): Promise<string> => {
  try {
    await work();
    return "ok";
  } catch (error) {
    return error instanceof GimbalError ? error.code : `${reasonOf(error)}`;
  }
};

const blobOf = (key: Uint8Array): SealedBlob => ({
  version: 1,
  public: "cHVi",
  private: Buffer.from(key).toString("base64"), // a TPM that keeps no secret: this is a test of the disk
  parentName: `000b${"ab".repeat(32)}`,
  parentType: "ecc",
  releaseKey: "a2V5",
  bank: "sha256",
  pcrs: {},
});
let shown: RecoveryKey | undefined;
const deps: VolumeDeps = {
  runTool,
  tpm: "present",
  seal: async (key) => blobOf(key),
  unseal: async (blob) => new Uint8Array(Buffer.from(blob.private, "base64")),
  askRecoveryKey: async () => shown,
  showRecoveryKey: async (key) => {
    shown = key;
    step("shown", key.groups.length);
  },
  note: (text) => step("note", text),
};

async function main(): Promise<void> {
  const missing = mountSystem(kernel);
  const gone = replaceEnvironment();
  hardenProcess(kernel);
  makePivotable(kernel);
  const part = /gimbal\.step=([a-z-]+)/.exec(readCommandLine())?.[1] ?? "all";
  const ima = writeImaPolicy();
  const modules = loadModules(kernel);
  closeModuleDoor();
  const reaper = startReaper(kernel);
  const settings = hardenKernel();
  const watchdog = openWatchdog(kernel, { timeoutSeconds: 60 });
  bringLoopbackUp(kernel);
  if (part === "all")
    step("machine", {
      missing,
      gone,
      ima,
      failed: modules.failed,
      settings,
      watchdog: watchdog?.timeoutSeconds,
      efi: mountEfivars(kernel),
      secureBoot: readSecureBoot(),
      clock: raiseClock(kernel, 0),
      links: listLinks(kernel).filter(({ name }) => name === "lo"),
      dumpable: readFileSync("/proc/self/coredump_filter", "utf8").length > 0,
      pid: process.pid,
    });
  openKmsgLog().info("a line for the ring");
  const partition = await findPartition("gimbal-data", { waitMs: 5000 });
  step("partition", partition);
  const request = { partition, provisioned: false, storageKey: "tpm" } as const;

  const volume = await openDataVolume(deps, request);
  step("opened", volume.how);
  const mounted = await mountDataVolume(kernel, deps, volume);
  step("mounted", { fileSystem: mounted.fileSystem, options: mountLine("/data") });
  const read = await readStateFile("/data/counter", 100);
  const counter = read.is === "bytes" ? Number(Buffer.from(read.bytes).toString()) : 0;
  step("counter", counter);
  for (let next = counter + 1; ; next++) {
    await writeFileAtomic("/data/counter", Buffer.from(String(next)));
    if (part !== "write") break;
    if (next % 50 === 0) step("written", next);
  }
  if (part === "all") await images();
  await mounted[Symbol.asyncDispose]();
  await volume.close();
  step("closed", kernel.dmList());

  if (part === "all") {
    const again = await openDataVolume(deps, request);
    step("again", again.how);
    await again.close();
    if (shown) await resealVolume(deps, partition, recoveryPassphrase(shown));
    const resealed = await openDataVolume(deps, request);
    step("resealed", resealed.how);
    await resealed.close();
    const lost = await openDataVolume({ ...deps, tpm: "absent" }, request);
    step("recovered", lost.how);
    await lost.close();
    step("devices", { dm: kernel.dmList(), reaped: reaper.reaped });
  }
  await end();
}

async function end(): Promise<void> {
  const log = openKmsgLog();
  const steps = [{ name: "say so", run: async () => step("end", true), timeoutMs: 1000 }];
  await shutDown(kernel, "poweroff", steps, log);
}

const mountLine = (target: string) =>
  readFileSync("/proc/self/mounts", "utf8")
    .split("\n")
    .find((line) => line.split(" ")[1] === target);

/** Images that the host made with mkfs.erofs and veritysetup, and what happens to altered ones. */
async function images(): Promise<void> {
  const described: Omit<Image, "path" | "name"> = JSON.parse(readFileSync("/test/image.json", "utf8"));
  mkdirSync("/data/images");
  const copy = (name: string, change?: (fd: number) => void): Image => {
    const path = `/data/images/${name}.img`;
    copyFileSync("/test/image.img", path);
    if (change) {
      const fd = openSync(path, "r+");
      change(fd);
      closeSync(fd);
    }
    return { ...described, path, name };
  };
  const flip = (at: number) => (fd: number) => writeSync(fd, Uint8Array.of(0xff), 0, 1, at);
  const started = performance.now();
  const good = await openImage(kernel, copy("good"));
  const openedMs = performance.now() - started;
  const content = mountAndRead(good.newMount());
  const second = mountAndRead(good.newMount());
  step("image", {
    content,
    second: second === content,
    corrupted: good.isCorrupted(),
    device: good.devicePath,
  });
  step("time", { openMs: Math.round(openedMs) });
  const held = good.newMount();
  await good[Symbol.asyncDispose]();
  step("held", { content: mountAndRead(held) === content, dm: kernel.dmList().length });
  await settled();
  step("gone", { dm: kernel.dmList().filter((name) => name.includes("good")) });

  const wrongRoot = { ...described.verity, rootHash: "ab".repeat(32) };
  const truncated = copy("truncated");
  truncateSync(truncated.path, described.sizeBytes - 4096);
  const short = { ...copy("short"), sizeBytes: described.sizeBytes - 4096 };
  truncateSync(short.path, short.sizeBytes);
  const refusals = {
    "flipped superblock": await codeOf(() => openImage(kernel, copy("superblock", flip(1030)))),
    "flipped first block": await codeOf(() => openImage(kernel, copy("first", flip(100)))),
    "flipped tree": await codeOf(() =>
      openImage(kernel, copy("tree", flip(described.verity.hashOffsetBytes + 4096))),
    ),
    "wrong root": await codeOf(() => openImage(kernel, { ...copy("root"), verity: wrongRoot })),
    truncated: await codeOf(() => openImage(kernel, truncated)),
    "shorter than its tree": await codeOf(() => openImage(kernel, short)),
    "another file system": await codeOf(() => openImage(kernel, { ...copy("squash"), fsType: "squashfs" })),
    "signed by nobody the kernel knows": await codeOf(() =>
      openImage(kernel, { ...copy("signed"), signature: readFileSync("/test/image.p7s") }),
    ),
    "signature of rubbish": await codeOf(() =>
      openImage(kernel, { ...copy("rubbish"), signature: new Uint8Array(100) }),
    ),
    absent: await codeOf(() => openImage(kernel, { ...described, path: "/data/images/none", name: "none" })),
  };
  step("refusals", refusals);
  await settled();
  step("after-refusals", {
    dm: kernel.dmList().filter((name) => name !== "gimbal-data"),
    loops: attachedLoops(),
  });

  const middle = await openImage(
    kernel,
    copy("middle", flip(described.verity.dataBlocks * 4096 - 4096 * 20)),
  );
  const reading = await codeOf(async () => mountAndRead(middle.newMount()));
  step("middle", { reading, corrupted: middle.isCorrupted() });
  await middle[Symbol.asyncDispose]();
  await settled();
  step("end-of-images", {
    dm: kernel.dmList().filter((name) => name !== "gimbal-data"),
    loops: attachedLoops(),
  });
}

function mountAndRead(mount: number): string {
  const target = "/run/gimbal/look";
  mkdirSync(target, { recursive: true });
  kernel.moveMount(mount, AT_FDCWD, target);
  closeSync(mount);
  try {
    return (
      readFileSync(`${target}/big`).toString("latin1").slice(0, 5) +
      readFileSync(`${target}/hello`, "utf8").trim()
    );
  } finally {
    kernel.umount(target, 2);
  }
}

const attachedLoops = () =>
  readFileSync("/proc/partitions", "utf8")
    .split("\n")
    .filter((line) => / loop\d+$/.test(line) && !/ 0 loop/.test(line)).length;

/** Deferred removal and the end of a detached mount are the kernel's own work. */
const settled = () => new Promise((resolve) => setTimeout(resolve, 1500));

process.on("uncaughtException", (error) => {
  step("died", error.stack);
  void end();
});
process.on("unhandledRejection", (error) => {
  step("died", error instanceof Error ? error.stack : String(error));
  void end();
});
writeFileSync("/dev/null", "");
void main();
