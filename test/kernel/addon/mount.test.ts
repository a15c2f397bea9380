/** Mounts by descriptor, and files relative to them. Needs root. */
import { closeSync, fstatSync, mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import {
  AT_FDCWD,
  AT_REMOVEDIR,
  AT_SYMLINK_NOFOLLOW,
  MNT_DETACH,
  MOUNT_ATTR_RDONLY,
  O_PATH,
  OPEN_TREE_CLONE,
  RESOLVE_BENEATH,
  RESOLVE_IN_ROOT,
  RESOLVE_NO_SYMLINKS,
  S_IFCHR,
} from "../../../init/linux.ts";
import { loadKernel } from "../load.ts";

const kernel = loadKernel();
const read = (fd: number): string => {
  try {
    return readFileSync(fd, "utf8");
  } finally {
    closeSync(fd);
  }
};
const O_CREAT_WRONLY = 0o101;

function tmpfs(): number {
  return kernel.fsMount("tmpfs", [["mode", "755"]], 0);
}

t.test("fsMount tells which option is refused, and what the file system says", (t) => {
  t.throws(() => kernel.fsMount("no-such-fs", [], 0), {
    code: "ENODEV",
    syscall: "fsopen",
    on: "no-such-fs",
  });
  t.throws(() => kernel.fsMount("tmpfs", [["bogus", "1"]], 0), {
    code: "EINVAL",
    syscall: "fsconfig",
    detail: /Unknown parameter 'bogus'/,
  });
  t.throws(() => kernel.fsMount("tmpfs", [["size", "x"]], 0), {
    code: "EINVAL",
    detail: /Bad value for 'size'/,
  });
  t.throws(() => kernel.fsMount("ext4", [["source", "/dev/null"]], 0), { code: /ENOTBLK|ENODEV/ });
  t.throws(() => kernel.fsMount("tmpfs", [["size", "1\0"]] as never, 0), TypeError);
  t.end();
});

t.test("files are made and found below a detached mount, and nowhere else", (t) => {
  const root = tmpfs();
  t.ok(fstatSync(root).isDirectory());
  const mask = kernel.umask(0);
  kernel.mkdirat(root, "dir", 0o750);
  kernel.mknodat(root, "null", S_IFCHR | 0o666, { major: 1, minor: 3 });
  kernel.umask(mask);
  kernel.symlinkat("/etc/hostname", root, "link");
  kernel.fchownat(root, "dir", 1000, 1001, 0);
  kernel.fchownat(root, "link", 7, 8, AT_SYMLINK_NOFOLLOW);
  kernel.fchmodat(root, "dir", 0o711);
  const dir = kernel.openat2(root, "dir", O_PATH, 0, RESOLVE_BENEATH);
  const { uid, gid, mode } = fstatSync(dir);
  t.same([uid, gid, mode & 0o7777], [1000, 1001, 0o711]);
  closeSync(dir);
  t.equal(read(kernel.openat2(root, "null", 0, 0, RESOLVE_BENEATH)), "");
  t.throws(() => kernel.openat2(root, "link", 0, 0, RESOLVE_NO_SYMLINKS), { code: "ELOOP" });
  t.throws(() => kernel.openat2(root, "link", 0, 0, RESOLVE_BENEATH), { code: "EXDEV" });
  t.throws(() => kernel.openat2(root, "link", 0, 0, RESOLVE_IN_ROOT), { code: "ENOENT", on: "link" });
  t.throws(() => kernel.openat2(root, "../../etc", O_PATH, 0, RESOLVE_BENEATH), { code: "EXDEV" });
  t.throws(() => kernel.unlinkat(root, "dir", 0), { code: "EISDIR" });
  kernel.unlinkat(root, "dir", AT_REMOVEDIR);
  kernel.unlinkat(root, "link", 0);
  closeSync(root);
  t.end();
});

t.test("a mount is attached, bound, made read-only and taken away", (t) => {
  const place = mkdtempSync(join(tmpdir(), "gimbal-mount-"));
  t.teardown(() => rmdirSync(place));
  const root = tmpfs();
  const file = kernel.openat2(root, "file", O_CREAT_WRONLY, 0o644, 0);
  writeFileSync(file, "content");
  closeSync(file);
  kernel.moveMount(root, AT_FDCWD, place);
  t.teardown(() => kernel.umount(place, MNT_DETACH));
  t.equal(readFileSync(join(place, "file"), "utf8"), "content");
  const copy = kernel.openTree(AT_FDCWD, place, OPEN_TREE_CLONE);
  kernel.mountSetattr(copy, "", 0, { set: MOUNT_ATTR_RDONLY });
  t.throws(() => kernel.openat2(copy, "new", O_CREAT_WRONLY, 0o644, 0), { code: "EROFS" });
  kernel.mountSetattr(copy, "", 0, { clear: MOUNT_ATTR_RDONLY });
  closeSync(kernel.openat2(copy, "new", O_CREAT_WRONLY, 0o644, 0));
  t.throws(() => kernel.umount(place, 0), { code: "EBUSY", syscall: "umount2", on: place });
  closeSync(root);
  closeSync(copy);
  kernel.mount("", place, "", 32 | 1, ""); // MS_REMOUNT | MS_RDONLY
  t.throws(() => writeFileSync(join(place, "x"), ""), { code: "EROFS" });
  t.end();
});

t.test("a memfd is sealed, close-on-exec and holds its octets", (t) => {
  const fd = kernel.memfd("octets", new TextEncoder().encode("held"));
  t.throws(() => writeFileSync(fd, "x"), { code: "EPERM" });
  t.match(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"), /^flags:\s*0?2\d{6}$/m);
  t.equal(readFileSync(`/proc/self/fd/${fd}`, "utf8"), "held");
  closeSync(fd);
  t.end();
});

t.test("every descriptor that is given out is close-on-exec", (t) => {
  const [a, b] = kernel.pipe();
  const { master, slave } = kernel.openPty();
  const path = join(mkdtempSync(join(tmpdir(), "gimbal-fd-")), "socket");
  const fds = {
    a,
    b,
    master,
    slave,
    root: tmpfs(),
    tree: kernel.openTree(AT_FDCWD, "/", OPEN_TREE_CLONE),
    file: kernel.openat2(AT_FDCWD, "/etc/passwd", 0, 0, 0),
    pidfd: kernel.pidfdOpen(process.pid),
    socket: kernel.bindDatagram(path),
  };
  for (const [name, fd] of Object.entries(fds)) {
    const flags = /^flags:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1] ?? "0";
    t.ok(Number.parseInt(flags, 8) & 0o2000000, name);
    closeSync(fd);
  }
  rmSync(path);
  rmdirSync(join(path, ".."));
  t.end();
});
