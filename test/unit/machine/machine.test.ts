import { chmodSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import t from "tap";
import { GimbalError } from "../../../init/errors.ts";
import type { Kernel } from "../../../init/kernel.ts";
import { raiseClock } from "../../../init/machine/clock.ts";
import {
  compareCommandLine,
  replaceEnvironment,
  splitCommandLine,
} from "../../../init/machine/command-line.ts";
import { openBootScreen } from "../../../init/machine/console.ts";
import { hardenKernel, hardenProcess, kernelSettings } from "../../../init/machine/hardening.ts";
import { writeImaPolicy } from "../../../init/machine/ima-policy.ts";
import { escapeLine, kmsgLog, type Log } from "../../../init/machine/kmsg.ts";
import { closeModuleDoor, loadModules, parseModuleList } from "../../../init/machine/modules.ts";
import { mountEfivars, mountSystem } from "../../../init/machine/mounts.ts";
import { powerNow, shutDown } from "../../../init/machine/power.ts";
import { parseEfiBoolean, parseLockdown, readSecureBoot } from "../../../init/machine/secure-boot.ts";
import { openWatchdog } from "../../../init/machine/watchdog.ts";

const folder = () => mkdtempSync(join(tmpdir(), "gimbal-machine-"));
const errno = (code: string, syscall = "call") =>
  Object.assign(new Error(`${syscall}: ${code}`), { code, syscall });
/** A kernel of which only these calls exist. */
const kernelWith = (calls: Partial<Kernel>) => calls as Kernel;

t.test("the command line: what is not in the signed copy is named, word by word", (t) => {
  const signed = 'lockdown=integrity dyndbg="file x +p" ro ro';
  t.same(compareCommandLine(signed, signed), { extra: [], missing: [], changed: false });
  t.same(compareCommandLine(`${signed} evil=1 NODE_OPTIONS=--jitless ro`, signed), {
    extra: ["evil=1", "NODE_OPTIONS=--jitless", "ro"],
    missing: [],
    changed: true,
  });
  t.same(compareCommandLine("ro lockdown=none", "ro lockdown=integrity").missing, ["lockdown=integrity"]);
  t.same(compareCommandLine("b a", "a b"), { extra: [], missing: [], changed: true }, "the order counts");
  t.same(splitCommandLine('a="b c" d  e="f'), ['a="b c"', "d", 'e="f']);
  t.end();
});

t.test("nothing of the kernel's environment stays", (t) => {
  const environment = { NODE_OPTIONS: "--inspect", LD_PRELOAD: "x", PATH: "/evil", TERM: "linux", HOME: "/" };
  t.same(replaceEnvironment(environment), ["NODE_OPTIONS", "LD_PRELOAD"]);
  t.same(environment as object, { PATH: "/usr/sbin:/usr/bin", HOME: "/", LC_ALL: "C" });
  t.end();
});

t.test("modules: one that is refused is named with the reason, the others are loaded in order", (t) => {
  const dir = folder();
  const list = join(dir, "modules");
  for (const name of ["a.ko.xz", "b.ko", "c.ko.xz", "d.ko"]) writeFileSync(join(dir, name), "");
  const lines = [`${dir}/a.ko.xz`, "# a remark", "", `${dir}/b.ko  n=1 m=2`, `${dir}/c.ko.xz`, `${dir}/d.ko`];
  writeFileSync(list, `${[...lines, `${dir}/none.ko`].join("\n")}\n`);
  const calls: [string, number][] = [];
  const answers = [undefined, errno("EEXIST"), errno("EKEYREJECTED"), errno("ENODEV")];
  const kernel = kernelWith({
    finitModule(_fd, parameters, flags) {
      calls.push([parameters, flags]);
      const error = answers.shift();
      if (error) throw error;
    },
  });
  const { loaded, failed } = loadModules(kernel, list);
  t.same(calls, [
    ["", 4],
    ["n=1 m=2", 0],
    ["", 4],
    ["", 0],
  ]);
  t.same(loaded, [`${dir}/a.ko.xz`, `${dir}/b.ko`]);
  t.match(failed, [
    { path: `${dir}/c.ko.xz`, why: /signature/ },
    { path: `${dir}/d.ko`, why: /no device/ },
    { path: `${dir}/none.ko`, why: /ENOENT/ },
  ]);
  t.same(parseModuleList(" x\ty z \n"), [{ path: "x", parameters: "y z" }]);
  writeFileSync(join(dir, "modprobe"), "/sbin/modprobe");
  closeModuleDoor(join(dir, "modprobe"));
  t.equal(readFileSync(join(dir, "modprobe"), "utf8"), "/bin/false");
  t.end();
});

t.test("mounts: what is mounted already is left, a missing must is an error, a missing may is named", (t) => {
  const failing = (type: string, code: string) =>
    kernelWith({
      mount(_source, _target, fsType) {
        if (fsType === type) throw errno(code, "mount");
      },
    });
  t.same(mountSystem(failing("devtmpfs", "EBUSY"), folder()), []);
  t.same(mountSystem(failing("securityfs", "ENODEV"), folder()), ["/sys/kernel/security"]);
  t.throws(() => mountSystem(failing("cgroup2", "ENODEV"), folder()), {
    code: "kernel-refused",
    message: /ENODEV/,
  });
  t.equal(mountEfivars(failing("efivarfs", "ENODEV"), "/"), false);
  t.equal(mountEfivars(failing("efivarfs", "EBUSY"), "/"), true);
  t.equal(mountEfivars(failing("x", ""), join(folder(), "none")), false);
  t.end();
});

/** A screen whose text is kept, with a clock that moves only by hand. */
function screen(tty: boolean) {
  const it = { text: "", time: 0 };
  const shown = openBootScreen({
    tty,
    now: () => it.time,
    write: (text) => {
      it.text += text;
    },
  });
  return { it, shown };
}

t.test("the boot screen is plain without a terminal: one line per stage, warnings with what to do", (t) => {
  const { it, shown } = screen(false);
  const stage = shown.stage("disk");
  it.time = 1500;
  stage.done("unsealed");
  stage.fail(new Error("ignored"));
  shown.stage("TPM").warn("absent", "look at the firmware");
  shown
    .stage("c0")
    .fail(new GimbalError("not-found", { tried: "start", on: "c0", why: "none", todo: "install it" }));
  shown.say("hello");
  shown.banner(["a", "longer"]);
  t.equal(
    it.text,
    [
      "   1.50   ok  disk           unsealed (1.50 s)",
      "   1.50  WARN TPM            absent (0.00 s)",
      "              -> look at the firmware",
      "   1.50  FAIL c0             cannot start c0: none (0.00 s)",
      "              -> install it",
      "   1.50       hello",
      "",
      "  +----------+",
      "  |  a       |",
      "  |  longer  |",
      "  +----------+",
      "",
      "",
    ].join("\n"),
  );
  t.end();
});

t.test("text from outside does not steer the terminal", (t) => {
  const { it, shown } = screen(true);
  shown.stage("x\x1b]0;evil\x07").done("a\x1b[2Jb\r\nc\u009b1m\u202e");
  shown.warn("w\x1bc", "t\x1bc");
  shown.banner(["\x1b[31m"]);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: what gimbal itself writes
  const foreign = it.text.replaceAll(/\r?\x1b\[(K|0m|2m|32m|1;33m|1;31m)/g, "");
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  t.notMatch(foreign, /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202e]/);
  t.match(it.text, "\\x1b");
  t.equal(escapeLine("a\tb\u0000"), "a\\x09b\\x00");
  t.end();
});

t.test("the kernel log takes levels, splits lines, and limits what is not urgent", (t) => {
  const lines: string[] = [];
  let time = 0;
  const log = kmsgLog({ write: (line) => lines.push(line), now: () => time });
  log.error("one\ntwo\x1b[0m\n\n");
  t.same(lines, ["<27>gimbal: one\n", "<27>gimbal: two\\x1b[0m\n"]);
  lines.length = 0;
  for (let count = 0; count < 1000; count++) log.info("noise");
  t.equal(lines.length, 100);
  log.error("urgent");
  t.equal(lines.at(-1), "<27>gimbal: urgent\n");
  time = 2000;
  log.info("later");
  t.same(lines.slice(-2), ["<28>gimbal: 900 lines were not logged\n", "<30>gimbal: later\n"]);
  lines.length = 0;
  log.warn("x".repeat(10_000));
  t.ok(lines.length > 10 && lines.every((line) => line.length < 1000));
  t.end();
});

const silent: Log = { error() {}, warn() {}, info() {}, debug() {} };

t.test(
  "a shutdown goes on when a step fails or hangs, and does nothing to a machine it is not PID 1 of",
  async (t) => {
    const done: string[] = [];
    const errors: string[] = [];
    const never = kernelWith({
      reboot: () => t.fail("reboot(2) on the build host"),
      sync: () => t.fail("sync"),
    });
    const step = (name: string, run: () => Promise<void>) => ({ name, run, timeoutMs: 50 });
    const failed = await shutDown(
      never,
      "poweroff",
      [
        step("fails", async () => {
          throw new Error("no");
        }),
        step("hangs", () => new Promise(() => {})),
        step("works", async () => {
          done.push("works");
        }),
      ],
      { ...silent, error: (text) => errors.push(text) },
    );
    t.same(failed, ["fails", "hangs"]);
    t.same(done, ["works"]);
    t.match(errors, [/fails: no/, /hangs: .*more than 50 ms/]);
    powerNow(never, "reboot");
  },
);

t.test("the watchdog is fed, takes the hardware's time, and is disarmed by the magic letter", async (t) => {
  const path = join(folder(), "watchdog0");
  t.equal(openWatchdog(kernelWith({}), { path: join(folder(), "none/x") }), undefined);
  const watchdog = openWatchdog(kernelWith({ setWatchdogTimeout: () => 0.04 }), { path });
  t.equal(watchdog?.timeoutSeconds, 0.04);
  await new Promise((resolve) => setTimeout(resolve, 100));
  watchdog?.stop();
  watchdog?.stop();
  const fed = readFileSync(path, "latin1");
  t.match(fed, /^\0{3,}V$/);
  const fixed = kernelWith({
    setWatchdogTimeout() {
      throw errno("EOPNOTSUPP");
    },
  });
  const assumed = openWatchdog(fixed, { path });
  t.equal(assumed?.timeoutSeconds, 10, "a driver with a fixed time is fed for a short one");
  assumed?.stop();
});

t.test("hardening touches this process only in part unless it is PID 1", (t) => {
  const calls: string[] = [];
  hardenProcess(
    kernelWith({
      setDumpable: (on) => calls.push(`dumpable ${on}`),
      setResourceLimit: (pid, resource, soft, hard) => calls.push(`${pid} ${resource} ${soft} ${hard}`),
      reboot: () => t.fail("reboot(2) on the build host"),
    }),
  );
  t.same(calls, ["dumpable false", "0 4 0 0"]);
  const root = folder();
  for (const [name] of kernelSettings.slice(1)) {
    mkdirSync(dirname(join(root, name)), { recursive: true });
    writeFileSync(join(root, name), "old");
  }
  const refused = hardenKernel(kernelSettings, root);
  t.match(refused, [/^kernel\/panic: .*ENOENT/]);
  t.equal(readFileSync(join(root, "kernel/sysrq"), "utf8").slice(0, 1), "0");
  t.end();
});

t.test("Secure Boot, lockdown and module signatures: what cannot be read counts as unsafe", (t) => {
  t.same(readSecureBoot(folder()), {
    firmware: "none",
    secureBoot: false,
    setupMode: false,
    lockdown: "absent",
    moduleSignatures: false,
  });
  const sys = folder();
  const put = (path: string, content: string | Uint8Array) => {
    mkdirSync(dirname(join(sys, path)), { recursive: true });
    writeFileSync(join(sys, path), content);
  };
  const guid = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
  put(`firmware/efi/efivars/SecureBoot-${guid}`, Uint8Array.of(6, 0, 0, 0, 1));
  put(`firmware/efi/efivars/SetupMode-${guid}`, Uint8Array.of(6, 0, 0, 0, 0));
  put("kernel/security/lockdown", "none [integrity] confidentiality\n");
  put("module/module/parameters/sig_enforce", "Y\n");
  t.same(readSecureBoot(sys), {
    firmware: "uefi",
    secureBoot: true,
    setupMode: false,
    lockdown: "integrity",
    moduleSignatures: true,
  });
  for (const octets of [[], [6, 0, 0, 0], [6, 0, 0, 0, 1, 0]])
    t.equal(parseEfiBoolean(Uint8Array.from(octets)), undefined);
  t.equal(parseEfiBoolean(Uint8Array.of(6, 0, 0, 0, 2)), false);
  t.equal(parseLockdown("[none] integrity"), "none");
  t.equal(parseLockdown("[evil]"), "absent");
  t.end();
});

t.test("the IMA policy is handed over whole, or the refusal is told", (t) => {
  const path = join(folder(), "policy");
  t.same(writeImaPolicy(["a", "b"], path), { is: "absent" });
  writeFileSync(path, "");
  t.same(writeImaPolicy(["a", "b"], path), { is: "written" });
  t.equal(readFileSync(path, "utf8"), "a\nb\n");
  chmodSync(path, 0o400);
  t.match(writeImaPolicy(["a"], folder()), { is: "refused", why: /EISDIR/ });
  t.end();
});

t.test("a clock before the build's time is raised, a later one is left", (t) => {
  const set: bigint[] = [];
  const kernel = kernelWith({ setClock: (seconds) => set.push(seconds) });
  t.same(
    raiseClock(kernel, 1_700_000_000, () => 0),
    { raised: true, fromSeconds: 0 },
  );
  t.same(
    raiseClock(kernel, 1_700_000_000, () => 1_800_000_000_000),
    { raised: false, fromSeconds: 1_800_000_000 },
  );
  t.same(set, [1_700_000_000n]);
  t.end();
});
