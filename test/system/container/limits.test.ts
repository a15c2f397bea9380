/**
 * The container engine on the device's kernel with all its cgroup controllers, which the build host lacks. A direct kernel boot (no
 * firmware) of the built initramfs, in which inside.ts takes the place of init.
 */
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { usableAccelerator } from "../../../board/accelerator.ts";
import { command } from "../../../initramfs/command.ts";
import { directory, file, writeCpio } from "../../../initramfs/cpio.ts";
import { buildExecutable } from "../../../initramfs/executable.ts";
import { buildForTest, repository } from "../harness.ts";

t.setTimeout(30 * 60_000);
const bootMs = 240_000;
const work = mkdtempSync(join(tmpdir(), "gimbal-limits-"));
t.teardown(() => rmSync(work, { recursive: true, force: true }));
const built = await buildForTest();

function makeImage(): string {
  const root = join(work, "root");
  for (const folder of ["proc", "sys", "dev", "run", "etc", "tmp"])
    mkdirSync(join(root, folder), { recursive: true });
  const source = join(repository, "test/kernel/container/probe.c");
  execFileSync("gcc", ["-static", "-O1", "-w", source, "-o", join(root, "probe")]);
  const image = join(work, "root.img");
  execFileSync("mkfs.erofs", ["--quiet", image, root], { stdio: "pipe" });
  return image;
}

async function initramfsWithTest(): Promise<string> {
  const executable = await buildExecutable({ entry: join(import.meta.dirname, "inside.ts") });
  const entries = [
    file("usr/lib/gimbal/gimbal", { path: executable }, 0o755),
    directory("test"),
    file("test/root.img", { path: makeImage() }),
  ];
  const archive = join(work, "test.cpio");
  await writeFile(archive, writeCpio(entries, 0, 900_000));
  await command("zstd", ["-q", "-1", "--rm", archive], {});
  const path = join(work, "initramfs");
  await writeFile(
    path,
    Buffer.concat([await readFile(built.initramfsPath), await readFile(`${archive}.zst`)]),
  );
  return path;
}

async function boot(): Promise<{ steps: Record<string, unknown>; text: string }> {
  const accelerator = await usableAccelerator(built.kernelPath, built.firmwarePath);
  const cmdline = "console=ttyS0 panic=-1 quiet loglevel=3 lockdown=integrity module.sig_enforce=1";
  const accel = accelerator === "kvm" ? "kvm" : "tcg,thread=multi";
  const child = spawn(
    "qemu-system-x86_64",
    [
      ...["-accel", accel, "-machine", "q35", "-cpu", "max", "-smp", "2", "-m", "1024", "-display", "none"],
      ...["-serial", "stdio", "-monitor", "none", "-no-reboot", "-nic", "none"],
      ...["-kernel", built.kernelPath, "-initrd", await initramfsWithTest(), "-append", cmdline],
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  let text = "";
  child.stdout.on("data", (chunk: Buffer) => {
    text += chunk.toString("latin1");
  });
  const limit = setTimeout(() => child.kill("SIGKILL"), bootMs);
  await new Promise((resolve) => child.once("close", resolve));
  clearTimeout(limit);
  const logs = join(repository, "build/system/limits");
  mkdirSync(logs, { recursive: true });
  writeFileSync(join(logs, "boot.log"), text);
  const lines = [...text.matchAll(/^STEP (\S+) (.*)\r?$/gm)];
  return {
    steps: Object.fromEntries(lines.map(([, name, value]) => [name, JSON.parse(value ?? "null")])),
    text,
  };
}

t.test("limits hold on the device's kernel, and what breaks them is told apart", async (t) => {
  const { steps, text } = await boot();
  if (steps["end"] !== true) t.comment(text);
  t.match(steps["tree"], { own: "0::/init", minimum: 64 * 2 ** 20, shared: 2 ** 31 - 1, failedModules: [] });
  const tree = steps["tree"] as { cap: number; memoryBytes: number; controllers: string[] };
  t.ok(tree.cap < tree.memoryBytes, "all guests together leave something");
  for (const name of ["memory", "pids", "cpu", "io", "cpuset"]) t.ok(tree.controllers.includes(name), name);
  t.match(steps["limits"], {
    memory: 32 * 2 ** 20,
    pids: "20",
    cpu: "50000 100000",
    weight: "50",
    cpus: "0",
    oomGroup: "1",
    swap: "0",
    guest: 13,
    missing: [],
    resources: [
      "Max core file size 0 unlimited bytes",
      "Max processes unlimited unlimited processes",
      "Max open files 1024 524288 files",
    ],
  });
  const { forks } = steps["limits"] as { forks: number };
  t.ok(forks > 10 && forks < 20, `${forks} forks below pids_limit 20`);
  t.match(steps["eater"], {
    state: "STOPPED",
    exit: { why: "oom", status: 137 },
    heard: ["eater STARTING", "eater RUNNING", "eater oom", "eater SHUTTING_DOWN", "eater STOPPED"],
  });
  t.match(steps["child"], { state: "RUNNING", heard: ["parent STARTING", "parent RUNNING", "parent oom"] });
  t.match(steps["delegate"], { statuses: [3], missing: 13, end: { why: "exited", status: 7 } });
  t.match(steps["bomb"], { why: "killed" });
  const bomb = steps["bomb"] as { tookMs: number };
  t.ok(bomb.tookMs < 20_000, `${bomb.tookMs} ms`);
  t.same(steps["rest"], { cgroups: 0, run: [], reports: [] });
  t.equal(steps["end"], true);
  t.comment(JSON.stringify([steps["bomb"], steps["idle"]]));
});
