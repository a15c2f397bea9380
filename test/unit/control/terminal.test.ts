/** `control run` on a terminal: raw while it runs, restored however it ends. script(1) makes the terminal. */
import { spawn, spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { entry, folder } from "./control-process.ts";
import { openDoor } from "./door.ts";
import { until } from "./fake-device.ts";

t.setTimeout(120_000);

const skip = spawnSync("script", ["--version"]).status === 0 ? false : "script(1) is not here";

/** A shell script on a terminal of 50 rows and 200 columns; `type` sends keys. */
function onTerminal(socketPath: string, lines: readonly string[]) {
  const file = join(folder, "session.sh");
  writeFileSync(file, ["stty rows 50 columns 200", ...lines].join("\n"));
  const child = spawn("script", ["-qec", `sh ${file}`, "/dev/null"], {
    env: {
      PATH: process.env["PATH"],
      GIMBAL_SOCKET: socketPath,
      TERM: "vt220",
      CONTROL: `${process.execPath} ${entry}`,
      DIR: folder,
    },
  });
  const session = { screen: "", type: (keys: string) => child.stdin.write(keys), ended: Promise.resolve(-1) };
  child.stdout.on("data", (chunk: Buffer) => {
    session.screen += chunk;
  });
  child.stderr.on("data", (chunk: Buffer) => {
    session.screen += chunk;
  });
  session.ended = new Promise((resolve) => child.once("close", (status) => resolve(status ?? -1)));
  return session;
}

const fileText = (name: string) => readFileSync(join(folder, name), "utf8");

t.test(
  "run on a terminal: size from the first line on, keys and Ctrl-C pass, status, restored",
  { skip },
  async (t) => {
    await using door = await openDoor();
    const session = onTerminal(door.path, [
      "stty -a > $DIR/before",
      "$CONTROL run c0 vi",
      "echo status $?",
      "stty -a > $DIR/after",
    ]);
    await until(() => session.screen.includes("TERM=vt220"), "the first line");
    t.match(session.screen, /^50x200 TERM=vt220\r\n/);
    session.type("\u0003");
    await until(() => session.screen.includes("<^C>"), "Ctrl-C at the command");
    session.type("x");
    session.type("q");
    t.equal(await session.ended, 0);
    t.match(session.screen, /q.*status 7/s);
    t.equal(fileText("after"), fileText("before"));
  },
);

t.test("run on a terminal: a new size is followed", { skip }, async (t) => {
  await using door = await openDoor();
  const session = onTerminal(door.path, [
    "TTY=$(tty)",
    "(sleep 1; stty -F $TTY rows 30 columns 90) &",
    "$CONTROL run c0 vi",
    "echo status $?",
  ]);
  await until(() => session.screen.includes("resized 30x90"), "the new size");
  session.type("q");
  await session.ended;
  t.match(session.screen, /status 7/);
});

for (const signal of ["TERM", "HUP", "INT", "QUIT"]) {
  t.test(`run on a terminal: ended by SIG${signal} it leaves the terminal as it was`, { skip }, async (t) => {
    await using door = await openDoor();
    const session = onTerminal(door.path, [
      "stty -a > $DIR/before",
      `sh -c 'echo $$ > $DIR/pid; exec $CONTROL run c0 vi'`,
      "echo status $?",
      "stty -a > $DIR/after",
    ]);
    await until(() => session.screen.includes("50x200"), "its start");
    process.kill(Number(fileText("pid")), `SIG${signal}`);
    t.equal(await session.ended, 0);
    t.equal(fileText("after"), fileText("before"));
    const number = { TERM: 143, HUP: 129, INT: 130, QUIT: 131 }[signal];
    t.match(session.screen, new RegExp(`status ${number}`));
    await until(() => door.device.sessions.size === 0, "the command's end");
  });
}

t.test(
  "run on a terminal: when the device goes, the terminal is restored and the status is 125",
  { skip },
  async (t) => {
    await using door = await openDoor();
    const session = onTerminal(door.path, [
      "stty -a > $DIR/before",
      "$CONTROL run c0 vi",
      "echo status $?",
      "stty -a > $DIR/after",
    ]);
    await until(() => session.screen.includes("50x200"), "its start");
    door.server.closeAll();
    t.equal(await session.ended, 0);
    t.equal(fileText("after"), fileText("before"));
    t.match(session.screen, /control: cannot go on .*status 125/s);
  },
);

t.test("run on a terminal: a refused command, and a short one, restore it as well", { skip }, async (t) => {
  await using door = await openDoor();
  const session = onTerminal(door.path, [
    "stty -a > $DIR/before",
    "$CONTROL run none vi; echo status $?",
    "$CONTROL run c0 echo hi; echo status $?",
    "stty -a > $DIR/after",
  ]);
  t.equal(await session.ended, 0);
  t.equal(fileText("after"), fileText("before"));
  t.match(session.screen, /status 125\r\nhi\r\nstatus 0/);
});

t.test(
  "nopty on a terminal: output stays apart; Ctrl-C ends the client and its command",
  { skip },
  async (t) => {
    await using door = await openDoor();
    const session = onTerminal(door.path, [
      "$CONTROL run c0 nopty sh -c 'echo out; echo err >&2' 2> $DIR/errors",
      "trap : INT",
      "$CONTROL run c0 nopty sh -c 'echo ready; exec sleep 60'",
      "echo status $?",
    ]);
    await until(() => session.screen.includes("ready"), "its start");
    t.match(session.screen, "out\r\n");
    t.equal(fileText("errors"), "err\n");
    session.type("\u0003");
    await session.ended;
    t.match(session.screen, /status 130/);
    await until(() => door.device.sessions.size === 0, "the command's end");
  },
);

t.test("tables fit the terminal; logs cannot move or retitle it", { skip }, async (t) => {
  await using door = await openDoor();
  door.device.logBytes = Buffer.from(
    "\u001b[32mgreen\u001b[0m \u001b]0;title\u0007 \u001b[2J\u001b[6n\u0090 é\n",
  );
  const session = onTerminal(door.path, [
    "stty columns 50",
    "$CONTROL list",
    "$CONTROL logs debian",
    "$CONTROL attest",
  ]);
  t.equal(await session.ended, 0);
  const lines = session.screen.split("\r\n");
  t.ok(
    lines.slice(0, 3).every((line) => line.length <= 50),
    session.screen,
  );
  t.match(lines[1], /^c0 {6}RUNNING {2}.*\u2026$/);
  t.match(
    session.screen,
    "\u001b[32mgreen\u001b[0m \\u001b]0;title\\u0007 \\u001b[2J\\u001b[6n\\u0090 é\r\n",
  );
  t.match(session.screen, /evidence_bytes {2}3.0 MB/);
});
