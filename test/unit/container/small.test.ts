/** Ids, capabilities, notices, settings, exits: small pure parts. */
import t from "tap";
import {
  capabilityMask,
  capabilityNames,
  defaultCapabilities,
  neverGiven,
  parseCapabilities,
} from "../../../init/container/capabilities.ts";
import { parseConfig } from "../../../init/container/config.ts";
import { exitReport } from "../../../init/container/guest.ts";
import { idBaseOf, idsPerContainer, lastSlot, nextSlot } from "../../../init/container/ids.ts";
import { parseNotice } from "../../../init/container/notify.ts";
import type { ManifestView } from "../../../init/container/ports.ts";
import { settingsOf } from "../../../init/container/settings.ts";

t.test("id ranges do not overlap, and none is used twice", (t) => {
  for (const slot of [-1, 0.5, Number.NaN, lastSlot + 1])
    t.throws(() => idBaseOf(slot), { code: "bad-argument" });
  t.equal(idBaseOf(0), 100_000);
  t.equal(idBaseOf(1), 100_000 + idsPerContainer);
  t.ok(idBaseOf(lastSlot) + idsPerContainer <= 2 ** 32 - 2);
  t.equal(nextSlot([]), 1, "0 is c0's");
  t.equal(nextSlot([1, 2, 5]), 6, "a gap is not filled");
  t.equal(nextSlot([lastSlot, 1]), 2, "but after the last one");
  const all = Array.from({ length: lastSlot }, (_, n) => n + 1);
  t.throws(() => nextSlot(all), { code: "no-id-range" });
  t.end();
});

t.test("what reaches the whole machine is in no default and cannot be asked for", (t) => {
  for (const list of Object.values(defaultCapabilities)) {
    t.same(
      list.filter((name) => neverGiven.includes(name)),
      [],
    );
  }
  for (const name of neverGiven)
    t.throws(() => parseCapabilities([name]), { code: "capability-refused" }, name);
  t.throws(() => parseCapabilities(["\u001b[31m"]), { message: /\\u001b/ });
  t.same(parseCapabilities(["CAP_CHOWN", "net_raw"]), ["CHOWN", "NET_RAW"]);
  t.equal(capabilityMask(["CHOWN", "SYS_ADMIN"]), 1n | (1n << 21n));
  t.equal(capabilityNames.length, 41);
  t.equal(capabilityNames[21], "SYS_ADMIN");
  t.equal(capabilityNames[40], "CHECKPOINT_RESTORE");
  t.end();
});

t.test("a notice is read line by line, and anything may come", (t) => {
  const read = (text: string) => parseNotice(new TextEncoder().encode(text));
  t.same(read("READY=1\nSTATUS=up\nX_SYSTEMD_SIGNALS_LEVEL=2"), {
    ready: true,
    status: "up",
    takesHaltSignal: true,
  });
  t.same(read("XREADY=1\nREADY=10\nX_SYSTEMD_SIGNALS_LEVEL=x"), {
    ready: false,
    status: undefined,
    takesHaltSignal: false,
  });
  t.equal(read(`STATUS=${"x".repeat(1000)}`).status?.length, 256);
  t.same(parseNotice(Uint8Array.of(0xff, 0xfe, 0)).ready, false);
  t.end();
});

t.test("reboot, power off, memory and our own kill are told apart", (t) => {
  const end = (code: number, status: number, oom = 0, by?: string) =>
    exitReport({ pid: 1, code, status }, oom, by, 0);
  t.match(end(1, 7), { why: "exited", status: 7 });
  t.match(end(2, 1), { why: "reboot", status: 0 });
  t.match(end(2, 2), { why: "poweroff", status: 0 });
  t.match(end(2, 9, 1), { why: "oom", status: 137 });
  t.match(end(2, 9, 1, "it was killed"), { why: "killed", sentence: "it was killed" });
  t.match(end(3, 11), { why: "killed", status: 139, sentence: /signal 11/ });
  t.end();
});

const manifest: ManifestView = {
  name: "debian",
  version: 1,
  mounts: [],
  initPath: "/sbin/init",
  initParam: ["--x"],
  initEnv: ["LANG=C", "PATH=/os"],
  profile: "full-os",
  notify: true,
  setuid: true,
  defaultMemoryMb: 300,
  minimumMemoryMb: 128,
  capabilities: ["SYS_NICE"],
  devices: ["c 10:200 rw"],
};
const config = (more: Record<string, unknown> = {}) =>
  parseConfig(new Map(Object.entries({ name: "web", guest_os: "debian", ...more })));
const who = { uuid: "11111111-2222-3333-4444-555555555555", isCore: false };

t.test("manifest and config make finite settings", (t) => {
  const settings = settingsOf(config(), manifest, who);
  t.match(settings, { profile: "full-os", noNewPrivs: false, maskProc: false, notify: true });
  t.match(settings.limits, { memoryBytes: 300 * 2 ** 20, pids: 4096, oomGroup: false });
  t.equal(settings.tmpfsBytes, 150 * 2 ** 20);
  t.ok(settings.capabilities.includes("SYS_NICE"));
  t.same(settings.init.argv, ["/sbin/init", "--x"]);
  t.ok(settings.init.env.includes("PATH=/os"));
  t.ok(settings.init.env.includes("container_uuid=11111111222233334444555555555555"));
  t.ok(settings.init.env.includes("NOTIFY_SOCKET=/run/host/notify"));
  const service = settingsOf(
    config({ ram_limit: 4096 }),
    { ...manifest, profile: "service", setuid: false },
    who,
  );
  t.match(service, { noNewPrivs: true, maskProc: true });
  t.match(service.limits, { memoryBytes: 4096 * 2 ** 20, pids: 512, oomGroup: true }, "no 32-bit limits");
  t.notOk(service.capabilities.includes("SYS_ADMIN"));
  t.end();
});

t.test("what a GuestOS needs at least is not given less", (t) => {
  t.throws(() => settingsOf(config({ ram_limit: 64 }), manifest, who), {
    code: "config-refused",
    message: /128 MB/,
  });
  t.throws(() => settingsOf(config(), { ...manifest, capabilities: ["SYS_MODULE"] }, who), {
    code: "capability-refused",
  });
  t.throws(() => settingsOf(config(), { ...manifest, stopSignal: "SIGWRONG" }, who), {
    code: "bad-argument",
  });
  t.equal(settingsOf(config(), { ...manifest, stopSignal: "SIGRTMIN+3" }, who).stopSignal, 37);
  t.equal(settingsOf(config(), { ...manifest, stopSignal: "SIGPWR" }, who).stopSignal, 30);
  t.end();
});

t.test("c0 has no machine-id of zeros", (t) => {
  const settings = settingsOf(config(), manifest, {
    uuid: "00000000-0000-0000-0000-000000000000",
    isCore: true,
  });
  t.notOk(settings.init.env.some((entry) => entry.startsWith("container_uuid=")));
  t.end();
});
