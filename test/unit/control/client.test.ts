/** `control` as a process: what it prints, where, and how it ends. */
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import t from "tap";
import { commands } from "../../../init/control/commands.ts";
import { control, folder } from "./control-process.ts";
import { openDoor } from "./door.ts";

t.setTimeout(120_000); // seconds each where other work keeps the processors busy

t.test("a wrong command line ends with 2, a sentence on standard error and nothing else", async (t) => {
  const cases: readonly (readonly [readonly string[], RegExp])[] = [
    [[], /a command is missing/],
    [["lsit"], /there is no command "lsit", did you mean list\?/],
    [["Start", "x"], /did you mean start\?/],
    [["\u001b[2J"], /there is no command "\\u001b\[2J"; see/],
    [["start"], /<container> is missing; usage: control start <container>/],
    [["start", "a", "b"], /"b" is one word too many/],
    [["start", "--force", "a"], /start has no option "--force"/],
    [["start", "--json=1", "a"], /no option/],
    [["create", "web", "--ram"], /--ram needs a value/],
    [["create", "web", "--ram", "lots"], /--ram needs a whole number, not "lots"/],
    [["create", join(folder, "none.json")], /cannot read .*no such file/],
    [["attest", "--nonce", "xyz"], /octets in hex/],
    [["--nonsense", "list"], /no option/],
    [["--socket"], /needs a path/],
    [["run", "debian"], /is missing/],
    [["help", "no_such"], /no command/],
  ];
  for (const [words, sentence] of cases) {
    const ran = await control("/nonexistent", words);
    t.same([ran.status, ran.stdout], [2, ""], words.join(" "));
    t.match(ran.stderr, sentence);
    t.equal(ran.stderr.split("\n").length, 2, "one line");
  }
});

t.test("help comes without a device, for each command", async (t) => {
  const all = await control("/nonexistent", ["--help"]);
  t.equal(all.status, 0);
  for (const { name, summary } of commands)
    t.match(all.stdout.replaceAll(/\n {10,}/g, " "), new RegExp(`^  ${name} +${summary}$`, "m"));
  for (const words of [
    ["start", "--help"],
    ["help", "start"],
    ["start", "x", "-h"],
  ]) {
    const one = await control("/nonexistent", words);
    t.match([one.status, one.stdout, one.stderr], [0, /^usage: control start <container>/, ""]);
  }
  const run = await control("/nonexistent", ["run", "--help"]);
  t.match(run.stdout, /^usage: control run \[--user/);
});

t.test("without a device: 125 and a sentence; from what is no device as well", async (t) => {
  const none = await control("/nonexistent/socket", ["list"]);
  t.match(none, {
    status: 125,
    stdout: "",
    stderr: /^control: cannot connect to \/nonexistent\/socket: .*\n$/,
  });
  const path = join(folder, "odd.sock");
  const odd = createServer((socket) => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n")).listen(path);
  t.match(await control(path, ["list"]), { status: 125, stdout: "", stderr: /what came is no message/ });
  odd.close();
  const rude = createServer((socket) => socket.destroy()).listen(join(folder, "rude.sock"));
  t.match(await control(join(folder, "rude.sock"), ["run", "c0", "true"]), { status: 125, stderr: /closed/ });
  rude.close();
});

t.test("a refusal ends with 1; run's with 125; --json says it on standard output as well", async (t) => {
  await using door = await openDoor();
  const refused = await control(door.path, ["state", "none"]);
  t.match(refused, { status: 1, stdout: "", stderr: /^control: cannot find the container "none"/ });
  t.match(await control(door.path, ["run", "none", "true"]), { status: 125, stdout: "", stderr: /none/ });
  const json = await control(door.path, ["--json", "state", "none"]);
  t.equal(json.status, 1);
  t.match(JSON.parse(json.stdout), { error: { code: "container-unknown", sentence: /none/ } });
});

t.test("tables are aligned, and text of a guest cannot reach the terminal", async (t) => {
  await using door = await openDoor();
  const list = await control(door.path, ["list"]);
  t.equal(
    list.stdout,
    [
      "NAME    STATE    GUESTOS  UPTIME      UUID",
      "c0      RUNNING  debian   1 min 15 s  00000000-0000-0000-0000-000000000000",
      "debian  STOPPED  debian   1 min 15 s  00000000-0000-0000-0000-000000000000",
      "",
    ].join("\n"),
  );
  const guests = await control(door.path, ["list_guestos"]);
  t.match(guests.stdout, "a\\u001b[2Jb");
  t.notMatch(guests.stdout, "\u001b");
  const status = await control(door.path, ["status"]);
  t.match(status.stdout, /^uptime {7}3 min 20 s$/m);
  t.match(status.stdout, /^warnings {5}a development image\n {13}no clock$/m);
  t.match((await control(door.path, ["device_stats"])).stdout, /^disk_total_bytes {4}4.0 GB$/m);
  t.equal(
    (await control(door.path, ["version"])).stdout,
    "gimbal 0.1.0, release 1 for qemu-x86-64, development image\n",
  );
  t.equal((await control(door.path, ["stop", "c0"])).stdout, "c0: STOPPED (its init ended with status 0)\n");
});

t.test("--json prints JSON and nothing else, for each command, before or after it", async (t) => {
  await using door = await openDoor();
  const config = join(folder, "web.json");
  writeFileSync(config, '{"name": "web", "guest_os": "debian", "ram_limit": 128}');
  const certificate = join(folder, "ca.crt");
  writeFileSync(certificate, "-----BEGIN CERTIFICATE-----\n");
  const words: { readonly [name: string]: readonly string[] } = {
    create: [config],
    update_config: ["web", config],
    remove_guestos: ["hello"],
    run: ["c0", "echo", "hi"],
    ca_register: [certificate],
    remove: ["web"],
    status: [],
  };
  const onDevice = new Set(["set_provisioned", "remove"]);
  const order = [...commands].sort((a, b) => Number(onDevice.has(a.name)) - Number(onDevice.has(b.name)));
  for (const command of order) {
    const args = words[command.name] ?? (command.args.length > 0 ? ["debian"] : []);
    const ran = await control(door.path, ["--json", command.name, ...args]);
    t.equal(ran.status, 0, `${command.name}: ${ran.stderr}`);
    const value: unknown = JSON.parse(ran.stdout);
    const entry: unknown = Array.isArray(value) ? value[0] : value;
    const { result } = command;
    if (result.is === "nothing" || result.fields.length === 0) continue;
    const known = new Set(result.fields.map(({ key }) => key));
    t.same(
      Object.keys(entry as object).filter((key) => !known.has(key)),
      [],
      `${command.name}: each key is explained`,
    );
  }
});

t.test("create takes a config from flags, from a file and from standard input", async (t) => {
  await using door = await openDoor();
  const flags = ["create", "web", "--guestos", "debian", "--ram=256", "--autostart"];
  t.match(await control(door.path, flags), { status: 0, stdout: "web: STOPPED\n" });
  t.same(
    door.device.created,
    new Map<string, unknown>([
      ["name", "web"],
      ["guest_os", "debian"],
      ["ram_limit", 256],
      ["allow_autostart", true],
    ]),
  );
  const text = '{"name": "two", "guest_os": "debian", "allow_dev": ["c 1:3 rw"], "ram_limit": 1}';
  t.match(await control(door.path, ["create", "-", "--ram", "64"], text), {
    status: 0,
    stdout: "two: STOPPED\n",
  });
  t.same(
    door.device.created,
    new Map<string, unknown>([
      ["name", "two"],
      ["guest_os", "debian"],
      ["allow_dev", ["c 1:3 rw"]],
      ["ram_limit", 64],
    ]),
  );
  for (const bad of ["{", '{"a": 1.5}', "[1]", '{"a": 1e30}', "nonsense"]) {
    const ran = await control(door.path, ["create", "-"], bad);
    t.not(ran.status, 0, bad);
    t.match(ran.stderr, /^control: cannot/);
  }
});

t.test("docs/control.md is what the table says", (t) => {
  const page = readFileSync(join(import.meta.dirname, "../../../docs/control.md"), "utf8");
  const script = join(import.meta.dirname, "../../../init/control/reference.ts");
  const child = spawn(process.execPath, [script]);
  let out = "";
  child.stdout.on("data", (chunk: Buffer) => {
    out += chunk;
  });
  child.once("close", () => {
    t.equal(out, page, "run `make reference`");
    t.end();
  });
});
