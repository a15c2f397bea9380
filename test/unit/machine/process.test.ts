import { spawn } from "node:child_process";
import { mkdtempSync, openSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { isOwnChild, ownChild, runTool } from "../../../init/machine/process.ts";

const sh = (script: string, options: Partial<Parameters<typeof runTool>[2]> = {}) =>
  runTool("/bin/sh", ["-c", script], { timeoutMs: 10_000, ...options });
const text = (octets: Uint8Array) => new TextDecoder().decode(octets);

t.test("a helper that is absent, killed, too slow or too talkative is an error", async (t) => {
  await t.rejects(runTool("/none", [], { timeoutMs: 1000 }), { code: "tool-failed", message: /ENOENT/ });
  await t.rejects(sh("kill -9 $$"), { code: "tool-failed", message: /SIGKILL/ });
  await t.rejects(sh("echo last words >&2; exec sleep 60", { timeoutMs: 200 }), {
    code: "tool-failed",
    message: /more than 200 ms: "last words"/,
  });
  await t.rejects(sh("exec yes"), { code: "tool-failed" });
});

t.test("a status that is not zero is a result, with its output", async (t) => {
  t.match(await sh("echo out; echo err >&2; exit 3"), { status: 3, stderr: "err\n" });
  t.equal(text((await sh("echo out")).stdout), "out\n");
});

t.test(
  "the environment is clean, the key goes through standard input, and descriptors are handed on",
  async (t) => {
    Object.assign(process.env, { EVIL: "1" });
    const { stdout } = await sh("export -p; cat", { stdin: Buffer.from("secret"), env: { MORE: "x" } });
    t.notMatch(text(stdout), "EVIL");
    t.match(text(stdout), /MORE='?x/);
    t.match(text(stdout), /secret$/);
    const path = join(mkdtempSync(join(tmpdir(), "gimbal-tool-")), "file");
    writeFileSync(path, "from a descriptor");
    t.equal(text((await sh("cat <&3", { extraFds: [openSync(path, "r")] })).stdout), "from a descriptor");
  },
);

t.test("a helper that ends without reading its input is no error", async (t) => {
  t.match(await sh("exit 0", { stdin: new Uint8Array(1_000_000) }), { status: 0 });
});

t.test("a running helper is known as our own, an ended one is not", async (t) => {
  const child = spawn("/bin/sleep", ["0.1"]);
  ownChild(child);
  const pid = child.pid ?? -1;
  t.ok(isOwnChild(pid));
  await new Promise((resolve) => child.once("close", resolve));
  t.notOk(isOwnChild(pid));
});
