/** openImage over a played kernel: what it asks for, and that nothing stays at whatever call it fails. */
import {
  closeSync,
  fstatSync,
  mkdtempSync,
  openSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import type { Image } from "../../../init/disk/image.ts";
import { openImage } from "../../../init/disk/verity.ts";
import type { Kernel } from "../../../init/kernel.ts";

const dir = mkdtempSync(join(tmpdir(), "gimbal-verity-"));
const dataBlocks = 32;
const sizeBytes = (dataBlocks + 2) * 4096;
const content = new Uint8Array(sizeBytes);
content.set([0xe2, 0xe1, 0xf5, 0xe0], 1024);
const path = join(dir, "root.img");
writeFileSync(path, content);
writeFileSync(join(dir, "dm-7"), content.subarray(0, dataBlocks * 4096));

const image = (change: Partial<Image> = {}): Image => ({
  path,
  sizeBytes,
  fsType: "erofs",
  name: "debian-1",
  verity: { rootHash: "ab".repeat(32), salt: "", hashOffsetBytes: dataBlocks * 4096, dataBlocks },
  ...change,
});

const errno = (code: string, syscall: string) =>
  Object.assign(new Error(`${syscall}: ${code}`), { code, syscall });

/** A kernel that keeps account; `failing` names the call that is refused, and with what. */
function played(failing: { call?: string; code?: string; at?: number } = {}) {
  const fds: number[] = [];
  const devices = new Set<string>();
  const keys = new Set<number>();
  const calls: string[] = [];
  const fd = () => {
    const made = openSync("/dev/null", "r");
    fds.push(made);
    return made;
  };
  const count = (call: string) => {
    calls.push(call);
    const nth = calls.filter((name) => name === call).length;
    if (failing.call === call && nth === (failing.at ?? 1)) throw errno(failing.code ?? "EIO", call);
  };
  const kernel = {
    loopAttach() {
      count("loopAttach");
      return { fd: fd(), path: "/dev/loop3" };
    },
    dmCreate(name: string, _uuid: string, readOnly: boolean, targets: readonly { parameters: string }[]) {
      count("dmCreate");
      calls.push(`${readOnly} ${targets[0]?.parameters}`);
      devices.add(name);
      return { major: 254, minor: 7 };
    },
    dmRemove(name: string, deferred: boolean) {
      count("dmRemove");
      if (!deferred) throw new Error("not deferred");
      if (!devices.delete(name)) throw errno("ENXIO", "ioctl");
    },
    dmStatus: () => ["0 256 verity V"],
    fsMount() {
      count("fsMount");
      return fd();
    },
    addKey() {
      count("addKey");
      keys.add(5);
      return 5;
    },
    revokeKey: () => count("revokeKey"),
    unlinkKey: (serial: number) => keys.delete(serial),
  } as unknown as Kernel;
  const left = () => ({ fds: fds.filter(isOpen).length, devices: devices.size, keys: keys.size });
  return { kernel, calls, left };
}

function isOpen(fd: number): boolean {
  try {
    fstatSync(fd);
    return true;
  } catch {
    return false;
  }
}

const nothing = { fds: 0, devices: 0, keys: 0 };
const signature = Uint8Array.of(1, 2, 3);

t.test("openImage undoes itself at whatever call it fails", async (t) => {
  for (const call of ["loopAttach", "addKey", "dmCreate", "fsMount"]) {
    const { kernel, left } = played({ call });
    await t.rejects(openImage(kernel, image({ signature }), dir), { code: "kernel-refused" }, call);
    t.same(left(), nothing, call);
  }
  const { kernel, left } = played();
  await t.rejects(openImage(kernel, image(), "/none"), { code: "kernel-refused" }, "no device node");
  t.same(left(), nothing);
});

t.test("a signature that the kernel does not take has its own code", async (t) => {
  for (const code of ["ENOKEY", "EKEYREJECTED", "EBADMSG"]) {
    const { kernel, left } = played({ call: "dmCreate", code });
    await t.rejects(openImage(kernel, image({ signature }), dir), { code: "verity-signature" }, code);
    t.same(left(), nothing);
  }
  const { kernel } = played({ call: "dmCreate", code: "ENOKEY" });
  await t.rejects(openImage(kernel, image(), dir), { code: "kernel-refused" }, "but not without one");
});

t.test(
  "an image that is absent, a link, a folder or of another size is refused before the kernel is asked",
  async (t) => {
    const { kernel, calls } = played();
    symlinkSync(path, join(dir, "link"));
    const short = join(dir, "short.img");
    writeFileSync(short, content);
    truncateSync(short, sizeBytes - 1);
    await t.rejects(openImage(kernel, image({ path: join(dir, "none") }), dir), { code: "image-truncated" });
    await t.rejects(openImage(kernel, image({ path: join(dir, "link") }), dir), { code: "kernel-refused" });
    await t.rejects(openImage(kernel, image({ path: dir }), dir), { code: "image-truncated" });
    await t.rejects(openImage(kernel, image({ path: short }), dir), { code: "image-truncated" });
    await t.rejects(openImage(kernel, image({ name: "a b" }), dir), { code: "bad-argument" });
    t.same(calls, []);
  },
);

t.test("a device that reads short or holds another file system is refused", async (t) => {
  const other = mkdtempSync(join(tmpdir(), "gimbal-verity-"));
  writeFileSync(join(other, "dm-7"), new Uint8Array(100));
  const { kernel, left } = played();
  await t.rejects(openImage(kernel, image(), other), { code: "verity-mismatch" });
  await t.rejects(openImage(kernel, image({ fsType: "squashfs" }), dir), { code: "image-malformed" });
  t.same(left(), nothing);
});

t.test("an open image gives mounts, and takes its own pin away at the end, once", async (t) => {
  const { kernel, left, calls } = played();
  const opened = await openImage(kernel, image({ signature, onCorruption: "restart" }), dir);
  t.match(
    calls[3],
    /^true 1 \/dev\/loop3 .* - 3 restart_on_corruption root_hash_sig_key_desc gimbal:gimbal-debian-1-\d+$/,
  );
  t.same(left(), { fds: 2, devices: 0, keys: 0 }, "loop and pin; the device goes with its last mount");
  const mount = opened.newMount();
  t.equal(opened.isCorrupted(), false);
  await opened[Symbol.asyncDispose]();
  await opened[Symbol.asyncDispose]();
  t.same(left(), { fds: 1, devices: 0, keys: 0 }, "the mount is its owner's");
  closeSync(mount);
});
