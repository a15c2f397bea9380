/** `control run`: output to the last octet, exact status, terminals, and an end for all that was begun. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import type { ExecSession } from "../../../init/container/exec.ts";
import {
  type Bench,
  makeBench,
  manifest,
  mount,
  nothingLeft,
  run,
  runArgv,
  says,
  settled,
} from "./fixture.ts";

const bench: Bench = await makeBench();
t.teardown(() => bench[Symbol.asyncDispose]());
const mounts = [mount("SHARED_RW", "/")];
const name = await bench.create(manifest({ args: ["term"], mounts }));
await bench.engine.start(name);
await says(bench, name, "ready");

async function textOf(session: ExecSession): Promise<string> {
  let text = "";
  for await (const { bytes } of session.output) text += Buffer.from(bytes).toString();
  return text;
}

t.test("a command that is not there or cannot run is 127 or 126, and nothing is printed (B67)", async (t) => {
  const missing = await runArgv(bench, name, ["/no/such"]);
  t.match(missing, { status: 127, out: "", err: "", sentence: /does not exist/ });
  t.match(await runArgv(bench, name, ["nothing-in-path"]), { status: 127 });
  t.match(await runArgv(bench, name, ["/etc"]), { status: 126, out: "", err: "", sentence: /EACCES/ });
  await run(bench, name, "write", "/tmp/script", "no program");
  t.match(await runArgv(bench, name, ["/tmp/script"]), { status: 126 });
  await t.rejects(bench.engine.exec(name, { argv: [] }), { code: "bad-argument" });
  await t.rejects(bench.engine.exec(name, { argv: ["a\0b"] }), { code: "bad-argument" });
  await t.rejects(bench.engine.exec(name, { argv: ["/probe"], directory: "/no/where" }), {
    code: "exec-failed",
  });
});

t.test("the exit status is the command's own", async (t) => {
  for (const status of [0, 1, 32, 255])
    t.equal((await run(bench, name, "exit", String(status))).status, status);
  t.equal((await run(bench, name, "kill", "9")).status, 137);
  t.equal((await run(bench, name, "kill", "15")).status, 143);
  t.match(await run(bench, name, "both", "5"), { status: 5, out: "out", err: "err" });
});

t.test("no octet is lost, however short or long (B66, B27)", async (t) => {
  for (let n = 0; n < 100; n++) {
    const { out } = await run(bench, name, "hello");
    if (out !== "hello from the guest\n") t.fail(`run ${n}: ${out}`);
  }
  for (let n = 0; n < 100; n++) {
    await using session = await bench.engine.exec(name, {
      argv: ["/probe", "hello"],
      terminal: { rows: 50, columns: 200 },
    });
    const text = await textOf(session);
    if (text !== "hello from the guest\r\n") t.fail(`terminal, run ${n}: ${text}`);
  }
  const { out, status } = await run(bench, name, "flood", "5000000");
  t.equal(out.length, 5_000_000);
  t.equal(status, 0);
});

t.test("a slow reader gets everything, and nothing is read ahead", async (t) => {
  await using session = await bench.engine.exec(name, { argv: ["/probe", "flood", "1000000"] });
  let length = 0;
  for await (const { bytes } of session.output) {
    length += bytes.length;
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  t.equal(length, 1_000_000);
  t.match(await session.ended, { status: 0 });
});

t.test("input of any octets goes in, and its end is seen", async (t) => {
  await using session = await bench.engine.exec(name, { argv: ["/probe", "cat"] });
  const sent = Buffer.alloc(300_000, Buffer.from([0, 1, 2, 255, 10, 13]));
  const writing = session.write(sent).then((taken) => {
    session.endInput();
    return taken;
  });
  const got: Uint8Array[] = [];
  for await (const { bytes } of session.output) got.push(bytes);
  t.ok(await writing);
  t.ok(Buffer.concat(got).equals(sent));
  t.match(await session.ended, { status: 0 });
  const nobody = await bench.engine.exec(name, { argv: ["/probe", "exit", "0"] });
  await textOf(nobody);
  t.notOk(await nobody.write(sent), "nobody reads any more");
  await nobody[Symbol.asyncDispose]();
});

t.test("a terminal has its size from the first line on, and follows a change", async (t) => {
  await using session = await bench.engine.exec(name, {
    argv: ["/probe", "size"],
    terminal: { rows: 50, columns: 200 },
  });
  t.match(await textOf(session), /^50 200 \/dev\/pts\/\d+ tty/);
  await using changing = await bench.engine.exec(name, {
    argv: ["/probe", "sizes"],
    terminal: { rows: 24, columns: 80 },
  });
  let text = "";
  for await (const { bytes } of changing.output) {
    text += Buffer.from(bytes).toString();
    if (text === "24 80\r\n") changing.resize({ rows: 10, columns: 20 });
  }
  t.equal(text, "24 80\r\n10 20\r\n");
});

t.test("a terminal passes what is typed: an interrupt and the end of input", async (t) => {
  await using session = await bench.engine.exec(name, {
    argv: ["/probe", "cat"],
    terminal: { rows: 24, columns: 80 },
  });
  await session.write(Buffer.from("typed\n"));
  let text = "";
  for await (const { bytes } of session.output) {
    text += Buffer.from(bytes).toString();
    if (text === "typed\r\ntyped\r\n") session.endInput();
  }
  t.equal(text, "typed\r\ntyped\r\n");
  t.match(await session.ended, { status: 0 });
  await using interrupted = await bench.engine.exec(name, {
    argv: ["/probe", "wait"],
    terminal: { rows: 24, columns: 80 },
  });
  await interrupted.write(Buffer.from([3]));
  await textOf(interrupted);
  t.match(await interrupted.ended, { status: 130 });
});

t.test("more is typed than a terminal takes: it waits, and the session ends all the same", async (t) => {
  const session = await bench.engine.exec(name, {
    argv: ["/probe", "wait"],
    terminal: { rows: 24, columns: 80 },
  });
  const writing = session.write(Buffer.alloc(200_000, "x\n"));
  await new Promise((resolve) => setTimeout(resolve, 100));
  await session[Symbol.asyncDispose]();
  t.notOk(await writing);
});

t.test("a signal reaches the command", async (t) => {
  await using session = await bench.engine.exec(name, { argv: ["/probe", "term"] });
  for await (const { bytes } of session.output) {
    if (Buffer.from(bytes).toString().includes("ready")) session.signal(15);
  }
  t.match(await session.ended, { status: 7 });
});

t.test("a command runs as the ids it was given, with nothing left of root", async (t) => {
  await using session = await bench.engine.exec(name, { argv: ["/probe", "status"], uid: 1000, gid: 100 });
  const text = await textOf(session);
  t.match(text, /^uid 1000$/m);
  t.match(text, /^gid 100$/m);
  t.match(text, /^groups 0$/m);
  t.match(text, /^CapEff:\s+0+$/m);
});

t.test("several at once do not mix", async (t) => {
  const words = ["a", "b", "c", "d", "e"];
  const texts = await Promise.all(
    words.map((word) => runArgv(bench, name, ["/probe", "cat"], word.repeat(50_000))),
  );
  t.same(
    texts.map(({ out }) => out),
    words.map((word) => word.repeat(50_000)),
  );
});

t.test("what a command leaves running does not keep its client, and ends with it", async (t) => {
  const { uuid } = bench.engine.status(name);
  const cgroup = join(bench.cgroup, uuid);
  const begun = Date.now();
  const session = await bench.engine.exec(name, { argv: ["/probe", "child", "4"] });
  t.equal(await textOf(session), "left one\n");
  t.match(await session.ended, { status: 4 });
  t.ok(Date.now() - begun < 3_000);
  t.equal(
    readdirSync(cgroup).filter((entry) => entry.startsWith("gimbal-exec")).length,
    1,
    "it is still there",
  );
  await session[Symbol.asyncDispose]();
  t.equal(readdirSync(cgroup).filter((entry) => entry.startsWith("gimbal-exec")).length, 0);
});

t.test("a client that goes in the middle ends the command", async (t) => {
  const before = await settled(bench);
  for (const argv of [
    ["/probe", "wait"],
    ["/probe", "flood", "100000000"],
    ["/probe", "ignore"],
  ]) {
    const session = await bench.engine.exec(name, { argv });
    const reading = (async () => {
      for await (const _ of session.output) await new Promise((resolve) => setTimeout(resolve, 1));
    })();
    await new Promise((resolve) => setTimeout(resolve, 20));
    t.ok(existsSync(`/proc/${session.pid}`));
    await session[Symbol.asyncDispose]();
    t.notOk(existsSync(`/proc/${session.pid}`));
    await reading;
    await t.rejects(session.ended);
  }
  await nothingLeft(t, bench, before);
});

t.test("a hundred commands leave nothing", async (t) => {
  const before = await settled(bench);
  for (let n = 0; n < 100; n++) await run(bench, name, "exit", "0");
  for (let n = 0; n < 20; n++) await runArgv(bench, name, ["/no/such"]);
  await nothingLeft(t, bench, before);
});
