/**
 * The life of one device on the real chain: first boot, what its user does in c0, orderly power off, second boot of the same disk,
 * then refusals on copies of it. One device, few boots, many assertions.
 */
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import t from "tap";
import { buildForTest, changedCopy, repository, TestDevice } from "../harness.ts";

t.setTimeout(20 * 60_000);
execFileSync(process.execPath, [join(repository, "guestos/build.ts"), "x64"], {
  cwd: repository,
  stdio: "inherit",
});
await buildForTest();

/** What a failed boot must not show: each later stage. */
const laterStages = /trusted|GuestOS {8}|c0 {13}/;

const device = await TestDevice.create("smoke-life");
t.teardown(() => device[Symbol.asyncDispose]());

type Answer = { readonly status: number; readonly stdout: string; readonly stderr: string };

/** Commands in c0 over the control port, as `make run` with a pipe does it. */
class Core {
  readonly #run: (line: string) => Promise<Answer>;
  readonly powerOff: () => Promise<void>;

  constructor(connected: Awaited<ReturnType<Awaited<ReturnType<TestDevice["boot"]>>["device"]>>) {
    this.powerOff = () => connected.powerOff();
    this.#run = async (line) => {
      const [output, errors]: [Uint8Array[], Uint8Array[]] = [[], []];
      const { status } = await connected.run(
        line,
        (chunk) => output.push(chunk),
        (chunk) => errors.push(chunk),
      );
      return { status, stdout: Buffer.concat(output).toString(), stderr: Buffer.concat(errors).toString() };
    };
  }

  run(line: string): Promise<Answer> {
    return this.#run(line);
  }
}

t.test(
  "a new device makes its volume, shows the recovery key once, and its user can work in c0",
  async (t) => {
    await using boot = await device.boot();
    await boot.waitFor(/gimbal \d+\.\d+\.\d+, release \d+, board qemu-x86-64/);
    await boot.waitFor(/UEFI, Secure Boot on; kernel lockdown integrity, module signatures enforced/);
    await boot.waitFor(/RECOVERY KEY of this device/);
    await boot.waitFor(/(\d{6}-){3}\d{6}/);
    await boot.waitFor(/a new volume was made and its key sealed to this TPM/);
    const core = new Core(await boot.device());

    const list = await core.run("control list --json");
    t.equal(list.status, 0);
    t.match(JSON.parse(list.stdout), [{ name: "c0", state: "RUNNING", trust_level: "SIGNED" }]);
    t.match(
      (await core.run("control list_guestos")).stdout,
      /^NAME +VERSION +TRUST[\s\S]*\ndebian +\d+ +SIGNED/,
    );
    const status = JSON.parse((await core.run("control status --json")).stdout);
    t.match(status, {
      secure_boot: true,
      lockdown: "integrity",
      module_signatures: true,
      tpm: true,
      disk: "initialised",
    });

    const wrong = await core.run("control start nosuch");
    t.equal(wrong.status, 1);
    t.match(wrong.stderr, /^control: cannot find .*nosuch/);
    t.equal((await core.run("control strat debian")).status, 2, "a mistyped command");

    t.equal((await core.run("control create debian")).status, 0);
    t.equal((await core.run("control create debian")).status, 1, "its name is taken");
    t.equal((await core.run("control create hello")).status, 0);
    t.equal((await core.run("control start hello")).status, 0);
    t.equal((await core.run("control start debian")).status, 0);
    const booted = await core.run(
      'for i in $(seq 60); do control state debian | grep -q "state.*RUNNING" && break; sleep 1; done; control state debian --json',
    );
    t.match(JSON.parse(booted.stdout), { state: "RUNNING" });
    t.equal((await core.run("control run debian nopty systemctl is-system-running")).stdout, "running\n");
    t.match((await core.run("control run debian nopty journalctl -b --no-pager -n 3")).stdout, /systemd/);
    t.equal(
      (await core.run("control run debian nopty sh -c 'exit 7'")).status,
      7,
      "an exit status is its own",
    );
    t.equal((await core.run("control run debian nopty /nosuch")).status, 127);
    t.equal((await core.run("control run debian nopty sh -c 'echo kept > /home/kept && sync'")).status, 0);
    t.match((await core.run("control logs hello")).stdout, /hello from a container/);
    const inside = await core.run(
      'control run debian nopty sh -c \'cat /proc/self/uid_map; ls /dev | sort | tr "\\n" " "\'',
    );
    t.match(inside.stdout, /^ +0 +165536 +65536\n/, "the guest has ids of its own");
    t.notMatch(inside.stdout, /vda|tpm|mem\b/, "no device of the machine");
    t.equal(
      (await core.run("control run c0 nopty sh -c 'printf %s $$ > /usr/lib/gimbal/x'")).status !== 0,
      true,
    );

    const nonce = "ab".repeat(32);
    const attest = await core.run(`control attest --nonce ${nonce} --json | head -c 300`);
    t.match(attest.stdout, /"nonce": "?abab/);

    const stop = await core.run("control stop debian && control state debian --json");
    t.match(stop.stdout, /"state": "STOPPED"/);
    await core.powerOff();
    t.equal(await boot.ended(), "guest-shutdown");
    t.match(boot.console, /containers stopped[\s\S]*disk closed/);
  },
);

t.test("the second boot unseals without a question, and what was made is still there", async (t) => {
  await using boot = await device.boot();
  await boot.waitFor(/unsealed by the TPM/);
  t.notMatch(boot.console, /RECOVERY KEY/);
  const core = new Core(await boot.device());
  const list = JSON.parse((await core.run("control list --json")).stdout) as { name: string }[];
  t.same(list.map(({ name }) => name).sort(), ["c0", "debian", "hello"]);
  await core.run("control start debian");
  t.equal((await core.run("control run debian nopty cat /home/kept")).stdout, "kept\n");

  await core.powerOff();
  t.equal(await boot.ended(), "guest-shutdown");
});

t.test("a string that the firmware adds to the command line keeps the disk shut, and is named", async (t) => {
  await using copy = await device.clone("smoke-smbios");
  await using boot = await copy.boot({
    extra: ["-smbios", "type=11,value=io.systemd.stub.kernel-cmdline-extra=evil=1 NODE_OPTIONS=--inspect"],
  });
  await boot.waitFor(/command line is not the signed one: .*evil=1/);
  await boot.waitFor(/the disk does not open by itself: .*PCR 12/);
  await boot.waitFor(/recovery key: /);
  t.notMatch(boot.console, laterStages);
  t.notMatch(boot.console, /Debugger listening/);
});

t.test("another TPM keeps the disk shut with the right sentence", async (t) => {
  await using copy = await device.clone("smoke-tpm");
  await copy.replaceTpm();
  await using boot = await copy.boot();
  await boot.waitFor(/the disk does not open by itself: .*(cleared|another)/);
  t.notMatch(boot.console, laterStages);
});

t.test("a kernel image with one bit flipped is not started by the firmware", async (t) => {
  await using copy = await device.clone("smoke-flip");
  const flipped = await changedCopy(copy.built.ukiPath, join(copy.folder, "flipped.efi"), (bytes) => {
    const middle = bytes.length >> 1;
    bytes[middle] = (bytes[middle] ?? 0) ^ 1;
    return bytes;
  });
  await copy.replaceBoot({ ukiPath: flipped });
  await using boot = await copy.boot();
  await boot.waitFor(/failed to (load|start) Boot.*(Access Denied|Security Violation)/, 60_000);
  t.notMatch(boot.console, /gimbal \d/);
});
