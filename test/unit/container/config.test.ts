import t from "tap";
import type { CborValue } from "../../../init/bytes/cbor.ts";
import { checkName, parseConfig } from "../../../init/container/config.ts";

const config = (more: Record<string, unknown> = {}) =>
  new Map(Object.entries({ name: "web", guest_os: "debian", ...more })) as Map<string, CborValue>;

t.test("a name with odd signs is refused with the rule (B65)", (t) => {
  const odd = [
    "",
    ".",
    "..",
    "a/1",
    "Best_#1",
    "a b",
    "A",
    "-a",
    "a-",
    "a\n",
    "\u001b[31m",
    "\u202eabc",
    "ä",
    "a\0",
    "x".repeat(33),
    "x".repeat(300),
    "00000000-0000-0000-0000-000000000000",
  ];
  for (const name of odd) {
    t.throws(() => parseConfig(config({ name })), { code: "config-refused" }, JSON.stringify(name));
  }
  t.throws(() => checkName("Best_#1"), { message: /1 to 32 of a-z/ });
  for (const name of ["a", "c0", "web-1", "x".repeat(32), "0"])
    t.doesNotThrow(() => parseConfig(config({ name })));
  t.end();
});

t.test("what is not a config is refused, whatever it is", (t) => {
  for (const value of [undefined, null, 1, "x", [], new Uint8Array(3), new Map(), {}, new Map([[1, 2]])]) {
    t.throws(() => parseConfig(value), { code: "config-refused" });
  }
  t.throws(
    () => parseConfig(config({ colour: 1 })),
    { code: "config-refused", message: /colour/ },
    "unknown field",
  );
  t.throws(() => parseConfig(config({ __proto__x: 1 })), { code: "config-refused" });
  t.throws(() => parseConfig(new Map([["__proto__", new Map([["isAdmin", true]])]])), {
    code: "config-refused",
  });
  t.end();
});

t.test("a field of another type or out of its range is refused by name", (t) => {
  for (const [field, values] of Object.entries({
    ram_limit: [-1, 0, 15, 1.5, "512", 2 ** 40, null],
    pids_limit: [0, 3, -5, 2 ** 31],
    cpu_weight: [0, 10_001],
    cpu_percent: [0],
    assign_cpus: ["", "a", "0-", "0,,1", "0;1", "0-1\n", 3],
    tmpfs_size: [0],
    log_size: [0, 65],
    stop_timeout: [0, 3601],
    init_env: [
      "A=1",
      ["A"],
      ["=x"],
      ["1A=x"],
      ["A\0=x"],
      ["A=x\0"],
      ["container=x"],
      ["NOTIFY_SOCKET=/x"],
      [1],
    ],
    dns_server: ["", "not an address", "1.2.3.4\nnameserver 5.6.7.8", "a".repeat(100)],
    allow_dev: [["c 1:3 x"], "c 1:3 r", [3]],
    add_capabilities: [["SYS_MODULE"], ["CAP_SYS_RAWIO"], ["NOTHING"], ["sys_time"]],
    seccomp_allow: [["nothing"], ["ioctl"], ["socket"]],
    seccomp_forbid: [["nothing"]],
    seccomp_profile: ["none", 1],
    allow_autostart: [1, "yes"],
    guest_os: ["", "../x", "a/b", "a b"],
    guestos_version: [-1, 1.5],
  })) {
    for (const value of values) {
      t.throws(
        () => parseConfig(config({ [field]: value })),
        { name: "GimbalError" },
        `${field}: ${JSON.stringify(value)}`,
      );
    }
  }
  t.end();
});

t.test("what is left out has a finite default", (t) => {
  const parsed = parseConfig(config());
  t.match(parsed, { autostart: false, minimumVersion: 0, logMb: 4, stopTimeoutMs: 45_000, cpuWeight: 100 });
  t.equal(parsed.memoryMb, undefined, "the manifest's word comes first");
  t.end();
});

t.test("what is given is taken", (t) => {
  const parsed = parseConfig(
    config({
      ram_limit: 4096,
      pids_limit: 100,
      assign_cpus: "0-1,3",
      init_env: ["A=1", "B="],
      allow_dev: ["c 10:200 rw"],
      add_capabilities: ["CAP_NET_RAW", "sys_nice"],
      seccomp_allow: ["clone", "mount"],
      stop_timeout: 5,
      dns_server: "2001:db8::1",
    }),
  );
  t.match(parsed, {
    memoryMb: 4096,
    pids: 100,
    cpus: "0-1,3",
    env: ["A=1", "B="],
    devices: [{ type: "c", major: 10, minor: 200, access: 6 }],
    addCapabilities: ["NET_RAW", "SYS_NICE"],
    seccomp: { allow: ["clone", "mount"], forbid: [] },
    stopTimeoutMs: 5_000,
  });
  t.end();
});
