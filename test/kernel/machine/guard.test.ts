/** The guard in a real PID 1 (of a pid namespace): signals, exit(), exceptions. The kernel's reboot is played. */
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import t from "tap";
import type { Kernel } from "../../../init/kernel.ts";
import { installGuard } from "../../../init/machine/guard.ts";
import type { Log } from "../../../init/machine/kmsg.ts";

t.setTimeout(240_000); // tap's own 30 s are for the whole file, and the machine may be busy
const say = (text: string) => console.log(text);

/** process.exit is what the guard refuses; this is the call behind it. */
const leave = () => (process as unknown as { reallyExit(status: number): void }).reallyExit(0);

async function inside(): Promise<void> {
  const log: Log = { error: (text) => say(text.split("\n")[0] ?? ""), warn: say, info: say, debug: say };
  const kernel = {
    sync: () => say("sync"),
    // It does not return on the device; here the namespace ends.
    reboot: (command: number) => {
      say(`reboot ${command.toString(16)}`);
      leave();
    },
  } as unknown as Kernel;
  installGuard({
    kernel,
    log,
    onFatal: async (error) => {
      say(`onFatal ${error instanceof Error ? error.message : error}`);
      if (process.argv[3] === "twice") throw new Error("again");
      if (process.argv[3] === "hang") await new Promise(() => undefined);
    },
    onCtrlAltDel: () => say("ctrl-alt-del"),
    onPowerFail: () => say("power"),
    fatalTimeoutMs: 500,
  });
  switch (process.argv[3]) {
    case "signals": {
      for (const signal of ["SIGUSR1", "SIGUSR2", "SIGHUP", "SIGINT", "SIGPWR", "SIGTERM"] as const) {
        process.kill(1, signal);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      const listening = readFileSync("/proc/net/tcp", "utf8")
        .split("\n")
        .filter((line) => / 0A /.test(line));
      say(`listening ${listening.filter((line) => line.includes(":240D ")).length}`); // 9229, the inspector's
      leave();
      break;
    }
    case "exit":
      setTimeout(() => process.exit(3), 10);
      break;
    case "reject":
      void Promise.reject(new Error("nobody took it"));
      break;
    default:
      setTimeout(() => {
        throw new Error("thrown");
      }, 10);
  }
}

/** Lines of the program as PID 1 of a pid namespace. */
async function run(what: string): Promise<string[]> {
  const args = ["--fork", "--pid", "--mount-proc", process.execPath, import.meta.filename, "inside", what];
  const child = spawn("unshare", args, { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  child.stdout.on("data", (chunk: Buffer) => {
    text += chunk.toString();
  });
  const timer = setTimeout(() => child.kill("SIGKILL"), 20_000);
  await new Promise((resolve) => child.once("close", resolve));
  clearTimeout(timer);
  return text.trim().split("\n");
}

if (process.argv[2] === "inside") await inside();
else if (process.getuid?.() !== 0) t.plan(0, "needs root");
else {
  t.test("no signal ends PID 1 or opens the inspector", async (t) => {
    t.same(await run("signals"), [
      "SIGUSR1 ignored",
      "SIGUSR2 ignored",
      "SIGHUP ignored",
      "ctrl-alt-del",
      "power",
      "power",
      "listening 0",
    ]);
  });
  t.test("an exception, a rejection and exit() end in an orderly restart", async (t) => {
    const restart = ["sync", "reboot 1234567"];
    t.same(await run("throw"), ["fatal: Error: thrown", "onFatal thrown", ...restart]);
    t.same(await run("reject"), ["fatal: Error: nobody took it", "onFatal nobody took it", ...restart]);
    t.same(await run("exit"), [
      "fatal: Error: process.exit in PID 1",
      "onFatal process.exit in PID 1",
      ...restart,
    ]);
    t.same(await run("twice"), ["fatal: Error: thrown", "onFatal thrown", "fatal: again", ...restart]);
    t.same(await run("hang"), ["fatal: Error: thrown", "onFatal thrown", ...restart], "after the time limit");
  });
  t.test("elsewhere than in PID 1 it does nothing", (t) => {
    const before = process.listenerCount("SIGUSR1");
    installGuard({} as Parameters<typeof installGuard>[0]);
    t.equal(process.listenerCount("SIGUSR1"), before);
    t.end();
  });
}
