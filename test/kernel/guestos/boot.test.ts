/** The example guests on the real engine and this machine's kernel: each boots, is healthy inside, and goes down in order. */
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import type { CborValue } from "../../../init/bytes/cbor.ts";
import type { Engine } from "../../../init/container/engine.ts";
import { loadKernel } from "../load.ts";
import { buildGuests, run, testEngine } from "./engine.ts";

buildGuests();
const kernel = loadKernel();

const config = (name: string): CborValue =>
  new Map([
    ["name", name],
    ["guest_os", name],
  ]);

async function until(what: string, is: () => boolean, limitMs = 60_000): Promise<void> {
  const end = Date.now() + limitMs;
  while (!is()) {
    if (Date.now() > end) throw new Error(`not within ${limitMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Starts it and waits for READY=1; on failure its console is shown. */
async function boot(t: Test, engine: Engine, name: string): Promise<void> {
  await engine.start(name);
  try {
    await until(`${name} is RUNNING`, () => engine.status(name).state === "RUNNING");
  } catch (error) {
    t.comment(Buffer.from(engine.logs(name).bytes()).toString());
    throw error;
  }
}

async function prints(t: Test, engine: Engine, name: string, command: string, wanted: RegExp | string) {
  const { status, output } = await run(engine, name, ["/bin/sh", "-c", command]);
  t.equal(status, 0, `${command}: status`);
  if (typeof wanted === "string") t.equal(output, wanted, command);
  else t.match(output, wanted, command);
}

t.test("debian reaches running without a failed unit, and is a usual Debian inside", async (t) => {
  await using device = await testEngine(kernel);
  const { engine } = device;
  await engine.create(config("debian"));
  await boot(t, engine, "debian");
  const has = (command: string, wanted: RegExp | string) => prints(t, engine, "debian", command, wanted);
  await has("systemctl is-system-running", "running\n");
  await has("systemctl --failed --plain --no-legend", "");
  await has("journalctl --no-pager -o cat -b | grep 'Startup finished'", /Startup finished in/);
  await has(
    "systemctl is-active cron dbus systemd-logind systemd-journald",
    "active\nactive\nactive\nactive\n",
  );
  // cgroup delegation: systemd makes groups of its own and puts services in them
  await has(
    "systemd-run --quiet --wait --pipe cat /proc/self/cgroup",
    /^0::\/system\.slice\/run-[\w-]+\.service$/m,
  );
  await has(
    "systemd-run --quiet --wait --pipe -p DynamicUser=yes -p PrivateTmp=yes -p ProtectSystem=strict -p PrivateDevices=yes id -u",
    /^6[1-5]\d\d\d\n$/,
  );
  await has(
    "systemd-run --quiet --wait --pipe -p PrivateNetwork=yes -p PrivateUsers=yes -p ProtectHome=yes true",
    "",
  );
  // an own user manager, in the user slice
  await has(
    "useradd -m tester && loginctl enable-linger tester && for i in 1 2 3 4 5 6 7 8 9; do [ -S /run/user/1000/bus ] && break; sleep 0.3; done; su - tester -c 'XDG_RUNTIME_DIR=/run/user/1000 systemctl --user is-system-running --wait'",
    "running\n",
  );
  await has("findmnt -no FSTYPE,OPTIONS / | cut -c1-10; findmnt -no TARGET /home", /^overlay +rw\n\/home\n$/);
  await has("cat /etc/machine-id", `${engine.status("debian").uuid.replaceAll("-", "")}\n`);
  await has("which vi less ps ip apt nano | wc -l", "6\n");
  t.match(await engine.stop("debian"), { why: "poweroff", status: 0 });
});

t.test("what debian has in /home is there again after a restart, the rest is as it was signed", async (t) => {
  await using device = await testEngine(kernel);
  const { engine } = device;
  await engine.create(config("debian"));
  await boot(t, engine, "debian");
  await prints(t, engine, "debian", "echo kept >/home/file; echo gone >/srv/file; rm /usr/bin/nano", "");
  await engine.stop("debian");
  await boot(t, engine, "debian");
  await prints(t, engine, "debian", "cat /home/file; ls /srv; ls /usr/bin/nano", "kept\n/usr/bin/nano\n");
  await engine.stop("debian");
});

t.test(
  "c0 logs dev in on the console, learns the terminal's size and calls the device's control",
  async (t) => {
    await using device = await testEngine(kernel, (scratch) => {
      const client = join(scratch, "client");
      mkdirSync(client);
      writeFileSync(
        join(client, "control"),
        '#!/bin/sh\necho "[$* as $(id -un) in $(id -Gn), $LD_LIBRARY_PATH]"\n',
      );
      chmodSync(join(client, "control"), 0o755);
      return [{ source: client, target: "/usr/lib/gimbal", kind: "directory", executable: true }];
    });
    const { engine } = device;
    await engine.createCore(config("c0"));
    let seen = "";
    let answered = 0;
    const terminal = engine.attachConsole("c0", (bytes) => {
      seen += Buffer.from(bytes).toString();
      // the cursor position report that the login asks for, once per question
      const asked = seen.split("\x1b[6n").length - 1;
      for (; answered < asked; answered++) void terminal.write(Buffer.from("\x1b[37;111R"));
    });
    const type = async (line: string, wanted: RegExp) => {
      seen = "";
      answered = 0;
      await terminal.write(Buffer.from(`${line}\r`));
      await until(`${wanted} after ${line}, not ${JSON.stringify(seen)}`, () => wanted.test(seen), 10_000);
    };
    await boot(t, engine, "c0");
    await until("a prompt", () => /dev@c0/.test(seen.replace(/^.*core container/s, "")));
    t.match(seen, /control --help/, "the message of the day");
    t.notMatch(seen, /Started|Reached target/, "nothing of systemd on the console");
    await type("stty size; echo $TERM $LANG; tty", /37 111\r\nxterm-256color C\.UTF-8\r\n\/dev\/console\r\n/);
    await type("control list", /\[list as dev in dev gimbal systemd-journal, \/usr\/lib\/gimbal\/lib\]/);
    await type("poweroff", /\[poweroff as dev/);
    await type("reboot", /\[reboot as dev/);
    await type("exit", /core container.*dev@c0/s);
    await type("touch ~/x && echo $HOME $USER $SHELL", /\/home\/dev dev \/bin\/bash/);
    const has = (command: string, wanted: RegExp | string) => prints(t, engine, "c0", command, wanted);
    await has("systemctl is-system-running", "running\n");
    await has("systemctl --failed --plain --no-legend", "");
    await has("find / -xdev -perm /6000 -type f", "");
    await has("systemctl is-enabled ssh.service ssh.socket || true", "disabled\ndisabled\n");
    await has("ss -Hlntu", "");
    await has("which vi less ps ip ssh | wc -l", "5\n");
    await has("networkctl is-online 2>/dev/null || systemctl is-active systemd-networkd", "active\n");
    // its sshd works once somebody wants it, with host keys made now
    await has(
      "systemctl start ssh && ls /etc/ssh/ssh_host_ed25519_key && ss -Hlnt | wc -l",
      /ed25519_key\n[12]\n/,
    );
    t.match(await engine.stop("c0"), { why: "poweroff", status: 0 });
  },
);

t.test("hello prints its line and ends; told to idle, it ends when asked", async (t) => {
  await using device = await testEngine(kernel);
  const { engine } = device;
  await engine.create(config("hello"));
  await engine.start("hello");
  await until("hello has ended", () => engine.status("hello").state === "STOPPED");
  t.match(engine.status("hello").lastExit, { why: "exited", status: 0 });
  t.match(Buffer.from(engine.logs("hello").bytes()).toString(), /hello from a container/);
  await engine.create(
    new Map<string, CborValue>([
      ["name", "idle"],
      ["guest_os", "hello"],
      ["init_env", ["HELLO=idle"]],
    ]),
  );
  await engine.start("idle");
  await until("it has printed", () => engine.logs("idle").bytes().length > 0);
  t.match(engine.status("idle").state, /RUNNING/);
  t.match(await engine.stop("idle"), { why: "exited", status: 0 });
});
