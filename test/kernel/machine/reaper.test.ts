/** Orphans and helpers that end at once, in a process that adopts orphans: a pid namespace with this program as its PID 1. */
import { spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import t from "tap";
import { isOwnChild, ownChild, runTool } from "../../../init/machine/process.ts";
import { startReaper } from "../../../init/machine/reaper.ts";
import { loadKernel } from "../load.ts";

t.setTimeout(240_000); // tap's own 30 s are for the whole file, and the machine may be busy
const orphans = 2000;
const helpers = 60;

/** The same file again, as PID 1 of a pid namespace with its own /proc. */
async function insideNamespace(): Promise<string> {
  const args = ["--fork", "--pid", "--mount-proc", process.execPath, import.meta.filename, "inside"];
  const child = spawn("unshare", args, { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  child.stdout.on("data", (chunk: Buffer) => {
    text += chunk.toString();
  });
  await new Promise((resolve) => child.once("close", resolve));
  return text;
}

function states(): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const pid of readdirSync("/proc").filter((name) => /^[0-9]+$/.test(name))) {
    try {
      const state = /\) ([A-Z])/.exec(readFileSync(`/proc/${pid}/stat`, "utf8"))?.[1] ?? "?";
      counts[state] = (counts[state] ?? 0) + 1;
    } catch {
      // it ended meanwhile
    }
  }
  return counts;
}

async function inside(): Promise<void> {
  const kernel = loadKernel();
  const reaper = startReaper(kernel);
  // Each shell leaves its children behind: they become ours when it ends, and end in all the same instant.
  const flood = `for i in $(seq ${orphans / 10}); do sleep 1 & done`;
  const floods = Array.from({ length: 10 }, () => runTool("/bin/sh", ["-c", flood], { timeoutMs: 60_000 }));
  const statuses = Array.from({ length: helpers }, (_, index) =>
    runTool("/bin/sh", ["-c", `sleep 1; exit ${index}`], { timeoutMs: 60_000 }).then(({ status }) => status),
  );
  // Helpers that are killed while their grandchildren live.
  const killed = Array.from({ length: 20 }, () => {
    const child = spawn("/bin/sh", ["-c", "sleep 1 & sleep 30"], { stdio: "ignore" });
    ownChild(child);
    setTimeout(() => child.kill("SIGKILL"), 300);
    return new Promise<string | null>((resolve) => child.once("exit", (_, signal) => resolve(signal)));
  });
  const result = {
    statuses: await Promise.all(statuses),
    killed: await Promise.all(killed),
    floods: (await Promise.all(floods)).map(({ status }) => status),
  };
  await new Promise((resolve) => setTimeout(resolve, 3000));
  console.log(
    JSON.stringify({
      ...result,
      states: states(),
      reaped: reaper.reaped,
      pid: process.pid,
      own: isOwnChild(2),
    }),
  );
  reaper[Symbol.dispose]();
  process.exit(0);
}

if (process.argv[2] === "inside") await inside();
else if (process.getuid?.() !== 0) t.plan(0, "needs root");
else
  t.test("a flood of orphans is reaped, and each helper keeps its own exit status", async (t) => {
    const line = (await insideNamespace()).trim().split("\n").at(-1) ?? "";
    const seen: unknown = JSON.parse(line);
    t.match(seen, {
      pid: 1,
      statuses: Array.from({ length: helpers }, (_, index) => index),
      killed: Array.from({ length: 20 }, () => "SIGKILL"),
      floods: Array.from({ length: 10 }, () => 0),
      own: false,
    });
    const { states, reaped } = seen as { states: object; reaped: number };
    t.notOk("Z" in states, "no zombies");
    t.ok(reaped >= orphans, `${reaped} orphans`);
  });
