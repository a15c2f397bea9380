/** Descriptors in the event loop, datagrams with credentials, processes by descriptor. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { closeSync, mkdtempSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { CLD_EXITED, CLD_KILLED, UV_READABLE, UV_WRITABLE } from "../../../init/linux.ts";
import { loadKernel } from "../load.ts";

const kernel = loadKernel();
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Runs TypeScript in a process of its own. */
function runScript(script: string) {
  const load = `
    import { loadKernel } from "./test/kernel/load.ts";
    const kernel = loadKernel();
  `;
  return spawnSync(process.execPath, ["--input-type=module-typescript", "-e", load + script], {
    encoding: "utf8",
    timeout: 60_000,
  });
}

t.test("a callback that throws is an uncaught exception, not the end of the process", (t) => {
  const { stdout, status } = runScript(`
    process.on("uncaughtException", (error) => console.log("caught", error.message));
    const { writeSync } = await import("node:fs");
    const [reader, writer] = kernel.pipe();
    const watch = kernel.watchFd(reader, 1, () => { watch.close(); throw new Error("boom"); });
    writeSync(writer, "x");
    setTimeout(() => console.log("lives"), 50);
  `);
  t.equal(stdout, "caught boom\nlives\n");
  t.equal(status, 0);
  t.end();
});

t.test("an open watch keeps the process, one after unref does not", (t) => {
  const script = (unref: string) => `
    const [reader] = kernel.pipe();
    const watch = kernel.watchFd(reader, 1, () => {});
    ${unref}
    setTimeout(() => process.exit(7), 200).unref();
  `;
  t.equal(runScript(script("")).status, 7);
  t.equal(runScript(script("watch.unref();")).status, 0);
  t.equal(runScript(script("watch.close(); watch.close(); watch.unref();")).status, 0);
  t.end();
});

t.test("a watch calls back until it is closed, also when closed in its callback", async (t) => {
  const [reader, writer] = kernel.pipe();
  let calls = 0;
  const watch = kernel.watchFd(reader, UV_READABLE, (error, events) => {
    t.equal(error, 0);
    t.equal(events & UV_READABLE, UV_READABLE);
    if (++calls === 3) watch.close();
  });
  writeSync(writer, "x"); // never read: it stays readable
  await pause(50);
  t.equal(calls, 3);
  closeSync(reader);
  closeSync(writer);
});

t.test("500 watches come and go", async (t) => {
  for (let round = 0; round < 5; round++) {
    const pipes = Array.from({ length: 100 }, () => kernel.pipe());
    let calls = 0;
    for (const [reader] of pipes) {
      const watch = kernel.watchFd(reader, UV_READABLE, () => {
        calls++;
        watch.close();
      });
    }
    for (const [, writer] of pipes) writeSync(writer, "x");
    await pause(20);
    t.equal(calls, 100);
    for (const fd of pipes.flat()) closeSync(fd);
  }
});

t.test("a process is watched, signalled and waited for by its pidfd", async (t) => {
  const child: ChildProcess = spawn("/bin/sleep", ["100"]);
  const pidfd = kernel.pidfdOpen(child.pid ?? 0);
  t.equal(kernel.pidfdWait(pidfd), undefined);
  kernel.pidfdSignal(pidfd, 15);
  await once(child, "exit");
  t.throws(() => kernel.pidfdSignal(pidfd, 0), { code: "ESRCH" });
  t.throws(() => kernel.pidfdWait(pidfd), { code: "ECHILD" }, "child_process has taken its exit");
  closeSync(pidfd);
});

t.test("exited gives the status of a child that nobody else waits for", (t) => {
  const { stdout } = runScript(`
    const { exited, spawn } = await import("./init/container/spawn.ts");
    const { openShim } = await import("./test/kernel/load.ts");
    const run = (script) => spawn(kernel, openShim(), { plan: [{ op: "reset" }, { op: "exec", path: "/bin/sh", argv: ["sh", "-c", script], env: [] }], slots: [], namespaces: 0, timeoutMs: 5000 });
    for (const script of ["exit 4", "kill -15 $$"]) { const p = await run(script); const { code, status } = await p.exited; console.log(code, status); }
  `);
  t.equal(stdout, `${CLD_EXITED} 4\n${CLD_KILLED} 15\n`);
  t.end();
});

t.test("a datagram comes with its sender's credentials, and descriptors in it are closed", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "gimbal-notify-"));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const path = join(directory, "notify");
  const fd = kernel.bindDatagram(path);
  t.equal(kernel.receiveDatagram(fd, 100), undefined);
  const sender = join(directory, "send.py");
  writeFileSync(
    sender,
    `import os, socket, sys, array
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
fds = [os.open("/dev/null", 0) for _ in range(5)]
s.sendmsg([b"READY=1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))], 0, sys.argv[1])
s.sendto(b"x" * 300, sys.argv[1])
print(os.getpid())`,
  );
  const { readdirSync } = await import("node:fs");
  const before = readdirSync("/proc/self/fd").length;
  const pid = Number(execFileSync("python3", [sender, path], { encoding: "utf8" }));
  const first = kernel.receiveDatagram(fd, 100);
  t.match(first, { pid, uid: 0, gid: 0 });
  t.equal(Buffer.from(first?.data ?? []).toString(), "READY=1");
  t.equal(readdirSync("/proc/self/fd").length, before, "no descriptor came in");
  t.equal(kernel.receiveDatagram(fd, 100)?.data.length, 100, "cut to maxBytes");
  t.equal(kernel.receiveDatagram(fd, 100), undefined);
  t.throws(() => kernel.bindDatagram(path), { code: "EADDRINUSE" });
  t.throws(() => kernel.bindDatagram("x".repeat(200)), { code: "ENAMETOOLONG" });
  closeSync(fd);
});

t.test("one descriptor can be watched twice: for reading and, at the same time, for writing", async (t) => {
  const { master, slave } = kernel.openPty();
  const both = await new Promise<readonly string[]>((resolve) => {
    const seen: string[] = [];
    const note = (what: string) => {
      seen.push(what);
      if (!seen.includes("read")) writeSync(slave, "x\n");
      if (seen.includes("read") && seen.includes("write")) {
        reading.close();
        writing.close();
        resolve(seen);
      }
    };
    const reading = kernel.watchFd(master, UV_READABLE, () => note("read"));
    const writing = kernel.watchFd(master, UV_WRITABLE, () => note("write"));
  });
  t.ok(both.includes("read") && both.includes("write"));
  closeSync(master);
  closeSync(slave);
});
