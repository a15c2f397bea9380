/** `control run`, `logs` and `attest` as processes: every octet and the right status, whatever reads and feeds them. */
import { spawn } from "node:child_process";
import t from "tap";
import { control, entry, start } from "./control-process.ts";
import { openDoor } from "./door.ts";
import { until } from "./fake-device.ts";

t.setTimeout(120_000); // seconds each where other work keeps the processors busy

t.test("run: status, both outputs and binary input as the command has them", async (t) => {
  await using door = await openDoor();
  const ran = await control(door.path, ["run", "c0", "sh", "-c", "echo out; echo err >&2; exit 32"]);
  t.same(ran, { status: 32, stdout: "out\n", stderr: "err\n" });
  t.equal((await control(door.path, ["run", "c0", "nopty", "sh", "-c", "kill -9 $$"])).status, 137);
  t.match(await control(door.path, ["run", "c0", "no-such"]), {
    status: 127,
    stderr: /^control: cannot run/,
  });
  t.match(await control(door.path, ["run", "c0", "/etc"]), { status: 126 });
  const octets = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
  const hex = octets.toString("hex");
  const dump = await control(door.path, ["run", "c0", "nopty", "od", "-An", "-v", "-tx1"], octets);
  t.equal(dump.stdout.replaceAll(/\s/g, ""), hex);
  t.equal((await control(door.path, ["run", "c0", "--", "echo", "--json"])).stdout, "--json\n");
  t.equal(
    (
      await control(door.path, [
        "run",
        "--user",
        "1:2",
        "--env=A=1",
        "--env",
        "B=2",
        "c0",
        "sh",
        "-c",
        "echo $A$B",
      ])
    ).stdout,
    "12\n",
  );
  t.match(door.device.requests.at(-1), { user: 1, group: 2 });
  const json = await control(door.path, [
    "run",
    "--json",
    "c0",
    "sh",
    "-c",
    "echo out; echo err >&2; exit 3",
  ]);
  t.same([json.status, JSON.parse(json.stdout)], [3, { status: 3, stdout: "out\n", stderr: "err\n" }]);
  t.equal(
    (await control(door.path, ["run", "--user", "root", "c0", "true"])).status,
    125,
    "names are the guest's",
  );
});

t.test("run ... | wc -c counts 500,000 each time, and 64 MiB at a slow reader (B66)", async (t) => {
  await using door = await openDoor();
  const pipe = (command: string) =>
    new Promise<string>((resolve) => {
      const shell = spawn("sh", ["-c", command], {
        env: { PATH: process.env["PATH"], GIMBAL_SOCKET: door.path, NODE: process.execPath, ENTRY: entry },
        stdio: ["ignore", "pipe", "inherit"],
      });
      let out = "";
      shell.stdout.on("data", (chunk: Buffer) => {
        out += chunk;
      });
      shell.once("close", () => resolve(out.trim()));
    });
  const dd = '"$NODE" "$ENTRY" run c0 nopty dd if=/dev/zero bs=1 count=500000 status=none | wc -c';
  for (let i = 0; i < 5; i++) t.equal(await pipe(dd), "500000");
  const slow =
    '"$NODE" "$ENTRY" run c0 nopty head -c 67108864 /dev/zero | (sleep 0.3; dd bs=1000 status=none) | wc -c';
  t.equal(await pipe(slow), "67108864");
  const early = '"$NODE" "$ENTRY" run c0 nopty yes | head -n 2; echo ended';
  t.equal(await pipe(early), "y\ny\nended");
  await until(() => door.device.sessions.size === 0, "the end of yes");
  const status = '{ "$NODE" "$ENTRY" run c0 nopty yes; echo $? >&3; } | head -n 1 >/dev/null';
  t.equal(await pipe(`exec 3>&1; ${status}`), "141");
});

t.test("whoever closes standard output and error gets a status, not a stack", async (t) => {
  const shell = (command: string) =>
    new Promise((resolve) =>
      spawn("sh", ["-c", `${process.execPath} ${entry} ${command}`], { stdio: "ignore" }).once(
        "close",
        resolve,
      ),
    );
  t.equal(await shell("--help >&- 2>&-"), 0);
  t.equal(await shell("nonsense 2>&-"), 2);
  t.equal(await shell("--help >/dev/full"), 1);
  t.equal(await shell("nonsense 2>/dev/full"), 141);
});

t.test("run: a client that is killed takes its command along", async (t) => {
  await using door = await openDoor();
  for (const signal of ["SIGTERM", "SIGKILL", "SIGINT"] as const) {
    const child = start(door.path, ["run", "c0", "sleep", "60"]);
    await until(() => door.device.sessions.size === 1, "the command");
    child.kill(signal);
    await until(() => door.device.sessions.size === 0, `its end by ${signal}`);
  }
  const open = start(door.path, ["run", "c0", "true"]); // standard input stays open
  t.equal(await new Promise((resolve) => open.once("close", resolve)), 0, "it ends all the same");
});

t.test("logs prints the octets; -f goes on; --json gives objects", async (t) => {
  await using door = await openDoor();
  const whole = await control(door.path, ["logs", "debian"]);
  t.same(whole, {
    status: 0,
    stdout: "first\nsecond\n",
    stderr: "control: 3 older lines are no longer kept\n",
  });
  t.same(JSON.parse((await control(door.path, ["logs", "debian", "--json"])).stdout), {
    stdout: "first\nsecond\n",
    dropped_lines: 3,
  });
  const child = start(door.path, ["logs", "-f", "debian"]);
  let out = "";
  child.stdout.on("data", (chunk: Buffer) => {
    out += chunk;
  });
  await until(() => out === "first\nsecond\n", "the log");
  for (const follower of door.device.followers) follower(Buffer.from("third\n"));
  await until(() => out.endsWith("third\n"), "what came");
  child.kill("SIGINT");
  await until(() => door.device.followers.size === 0, "its end");
});

t.test("attest writes the evidence's octets into a pipe, and JSON with --json", async (t) => {
  await using door = await openDoor();
  door.device.evidence = new Uint8Array(Buffer.from("evidence"));
  const nonce = "ab".repeat(32);
  t.same(await control(door.path, ["attest", "--nonce", nonce]), {
    status: 0,
    stdout: "evidence",
    stderr: "",
  });
  const json = await control(door.path, ["attest", "--nonce", nonce, "--json"]);
  t.match(JSON.parse(json.stdout), { nonce, evidence: Buffer.from("evidence").toString("base64") });
  t.match(await control(door.path, ["attest"]), { status: 0, stderr: /random/ });
  t.match(await control(door.path, ["attest", "--nonce", "ab"]), {
    status: 1,
    stderr: /fewer than 32 octets/,
  });
});
