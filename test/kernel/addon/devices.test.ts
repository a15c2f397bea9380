/** Loop devices, device-mapper, modules, keys, programs, terminals, links. Needs root. */
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { loadKernel } from "../load.ts";

const kernel = loadKernel();
const directory = mkdtempSync(join(tmpdir(), "gimbal-devices-"));
t.teardown(() => rmSync(directory, { recursive: true }));

t.test(
  "a file becomes a read-only loop device, and is let go again",
  { skip: existsSync("/dev/loop-control") ? false : "no loop devices here" },
  (t) => {
    const file = join(directory, "image");
    writeFileSync(file, "gimbal");
    truncateSync(file, 1 << 20);
    const fd = openSync(file, "r");
    const loop = kernel.loopAttach(fd, { readOnly: true, autoclear: false, directIo: false });
    t.match(loop.path, /^\/dev\/loop\d+$/);
    t.equal(kernel.blockDeviceSize(loop.fd), 1n << 20n);
    const start = Buffer.alloc(6);
    const device = openSync(loop.path, "r");
    readSync(device, start);
    t.equal(start.toString(), "gimbal");
    closeSync(device);
    const writer = openSync(loop.path, "r+");
    t.throws(() => writeSync(writer, start), { code: "EPERM" });
    closeSync(writer);
    const second = kernel.loopAttach(fd, { readOnly: true, autoclear: true, directIo: false });
    t.not(second.path, loop.path);
    closeSync(second.fd); // autoclear
    kernel.loopDetach(loop.fd);
    closeSync(loop.fd);
    const name = loop.path.slice(5);
    t.notOk(existsSync(`/sys/block/${name}/loop/backing_file`));
    t.throws(() => kernel.loopDetach(fd), { code: "ENOTTY" });
    t.throws(() => kernel.blockDeviceSize(fd), { code: "ENOTTY" });
    closeSync(fd);
    t.end();
  },
);

const hasDm = /\bdevice-mapper\b/.test(
  readFileSync("/proc/misc", "utf8") + readFileSync("/proc/devices", "utf8"),
);

t.test("device-mapper refuses in the kernel's words, or is not there", (t) => {
  const target = { start: 0n, length: 8n, type: "no-such-target", parameters: "" };
  t.throws(() => kernel.dmCreate("gimbal-test", "", true, [target]), /^open .*control|DM_TABLE_LOAD/);
  if (hasDm) t.notOk(kernel.dmList().includes("gimbal-test"), "what failed half-way is gone");
  t.throws(() => kernel.dmCreate("", "", true, [target]), TypeError);
  t.throws(() => kernel.dmCreate("x".repeat(128), "", true, [target]), TypeError);
  t.throws(() => kernel.dmCreate("x", "", true, [{ ...target, type: "y".repeat(16) }]), TypeError);
  t.throws(() => kernel.dmCreate("x", "", true, [{ ...target, start: 1n << 64n }]), TypeError);
  t.throws(() => kernel.dmCreate("x", "", true, [{ ...target, start: 0 }] as never), TypeError);
  t.end();
});

t.test("a file that is no module is refused", (t) => {
  const fd = kernel.memfd("module", new TextEncoder().encode("no module"));
  t.throws(() => kernel.finitModule(fd, "", 0), /^Error: finit_module|finit_module/);
  closeSync(fd);
  t.end();
});

t.test("a key is added, and gone after it was revoked or unlinked", (t) => {
  const octets = Uint8Array.from({ length: 64 }, (_, index) => index);
  const KEY_SPEC_PROCESS_KEYRING = -2;
  const serial = kernel.addKey("user", "gimbal:test", octets, KEY_SPEC_PROCESS_KEYRING);
  t.ok(serial > 0);
  t.match(readFileSync("/proc/keys", "utf8"), /gimbal:test: 64/);
  kernel.revokeKey(serial);
  t.throws(() => kernel.revokeKey(serial), { code: "EKEYREVOKED" });
  kernel.unlinkKey(serial, KEY_SPEC_PROCESS_KEYRING);
  t.throws(() => kernel.addKey("no-such-type", "x", octets, KEY_SPEC_PROCESS_KEYRING), { code: "ENODEV" });
  t.end();
});

t.test("a device program is loaded, a malformed one refused with the verifier's words", (t) => {
  // r0 = 1; exit
  const allow = Uint8Array.of(0xb7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0);
  closeSync(kernel.loadDeviceProgram(allow));
  t.throws(() => kernel.loadDeviceProgram(allow.subarray(8)), {
    code: /EACCES|EINVAL/,
    detail: /R0 !read_ok/,
  });
  t.throws(() => kernel.loadDeviceProgram(allow.subarray(1)), TypeError);
  t.throws(() => kernel.loadDeviceProgram(new Uint8Array()), TypeError);
  t.end();
});

t.test("a terminal has two ends and a size", (t) => {
  const { master, slave } = kernel.openPty();
  kernel.setWindowSize(master, { rows: 24, columns: 80 });
  t.same(kernel.windowSize(slave), { rows: 24, columns: 80 });
  writeSync(slave, "out\n");
  const buffer = Buffer.alloc(10);
  t.equal(buffer.toString("utf8", 0, readSync(master, buffer)), "out\r\n");
  t.throws(() => kernel.setWindowSize(master, { rows: -1, columns: 1 }), TypeError);
  closeSync(slave);
  closeSync(master);
  const ptmx = openSync("/dev/ptmx", 0o10000000); // O_PATH
  const second = kernel.openPty(ptmx);
  t.ok(second.master >= 0);
  for (const fd of [ptmx, second.master, second.slave]) closeSync(fd);
  t.end();
});

t.test("netlink answers in its own and in another network namespace", (t) => {
  const request = new DataView(new ArrayBuffer(32)); // RTM_GETLINK, dump
  request.setUint32(0, 32, true);
  request.setUint16(4, 18, true);
  request.setUint16(6, 0x301, true);
  request.setUint32(8, 1, true);
  const octets = new Uint8Array(request.buffer);
  const own = openSync("/proc/self/ns/net", "r");
  const before = readFileSync("/proc/thread-self/net/dev", "utf8").split("\n").length;
  for (const netns of [-1, own]) {
    const answers = kernel.netlink(netns, 0, octets);
    t.ok(answers.length >= 1);
    t.match(Buffer.concat([...answers]).toString("latin1"), /lo\0/);
  }
  t.equal(
    readFileSync("/proc/thread-self/net/dev", "utf8").split("\n").length,
    before,
    "this thread is at home",
  );
  closeSync(own);
  // Two requests in one datagram: both answers come.
  const link = new DataView(new ArrayBuffer(64));
  for (const at of [0, 32]) {
    link.setUint32(at, 32, true);
    link.setUint16(at + 4, 16, true); // RTM_NEWLINK of no link: refused
    link.setUint16(at + 6, 5, true);
    link.setUint32(at + 8, at + 1, true);
    link.setInt32(at + 20, 99_999, true);
  }
  const both = Buffer.concat([...kernel.netlink(-1, 0, new Uint8Array(link.buffer))]);
  t.ok(both.length >= 2 * 36, `${both.length} octets`);
  t.end();
});
