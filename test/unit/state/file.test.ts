import { mkdtempSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import * as fs from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import {
  readStateFile,
  removeFile,
  removeLeftovers,
  type StateFiles,
  setAside,
  writeFileAtomic,
} from "../../../init/state/file.ts";

const folder = () => mkdtempSync(join(tmpdir(), "gimbal-state-"));
const text = (path: string) => readFileSync(path, "utf8");
const octets = (value: string) => new TextEncoder().encode(value);

/** Carries out `failAt - 1` calls, then every further one is refused, as after the disk went away. Counts all calls. */
function failing(failAt: number, code: string, onlyOnce = false): StateFiles & { calls: number } {
  const gate = async (name: string) => {
    wrapped.calls++;
    if (onlyOnce ? wrapped.calls === failAt : wrapped.calls >= failAt)
      throw Object.assign(new Error(`${code}: ${name}`), { code });
  };
  const wrapped: StateFiles & { calls: number } = {
    calls: 0,
    async open(path, flags, mode) {
      await gate("open");
      const handle = await fs.open(path, flags, mode);
      return {
        write: async (bytes, offset, length) => {
          await gate("write");
          // A short write, as a nearly full disk gives.
          return handle.write(bytes, offset, Math.min(length, 3));
        },
        read: (bytes, offset, length, position) => handle.read(bytes, offset, Math.min(length, 2), position),
        sync: async () => {
          await gate("sync");
          await handle.sync();
        },
        close: () => handle.close(),
      };
    },
    rename: async (from, to) => {
      await gate("rename");
      await fs.rename(from, to);
    },
    link: async (from, to) => {
      await gate("link");
      await fs.link(from, to);
    },
    unlink: async (path) => {
      await gate("unlink");
      await fs.unlink(path);
    },
    readdir: async (path) => {
      await gate("readdir");
      return fs.readdir(path);
    },
  };
  return wrapped;
}

t.test("a write that fails at any call leaves the old file or the new one, whole", async (t) => {
  const clean = failing(Number.POSITIVE_INFINITY, "EIO");
  const dir = folder();
  await writeFileAtomic(join(dir, "x"), octets("new state"), 0o600, clean);
  t.ok(clean.calls >= 8, "every call goes through the layer");
  for (let n = 1; n <= clean.calls; n++) {
    const dir = folder();
    const path = join(dir, "device.cbor");
    writeFileSync(path, "old");
    await t.rejects(writeFileAtomic(path, octets("new state"), 0o600, failing(n, "EIO")), {
      code: "state-failed",
    });
    t.match(text(path), /^(old|new state)$/, `call ${n}`);
    await removeLeftovers(dir);
    t.same(readdirSync(dir), ["device.cbor"], `nothing stays after call ${n}`);
  }
});

t.test("a write whose one call fails cleans up after itself", async (t) => {
  for (let n = 1; n <= 6; n++) {
    const dir = folder();
    const path = join(dir, "a");
    writeFileSync(path, "old");
    await t.rejects(writeFileAtomic(path, octets("new state"), 0o600, failing(n, "EIO", true)));
    t.same(readdirSync(dir), ["a"], `call ${n}`);
  }
});

t.test("a full disk has its own code", async (t) => {
  for (const code of ["ENOSPC", "EDQUOT"]) {
    const path = join(folder(), "a");
    await t.rejects(writeFileAtomic(path, octets("x"), 0o600, failing(2, code)), { code: "disk-full" });
  }
});

t.test("readStateFile refuses a file that is too large, a directory and a symbolic link", async (t) => {
  const dir = folder();
  writeFileSync(join(dir, "big"), Buffer.alloc(101));
  await t.rejects(readStateFile(join(dir, "big"), 100), { code: "state-too-large" });
  await t.rejects(readStateFile("/dev/zero", 100), { code: "state-too-large" });
  await t.rejects(readStateFile(dir, 100), { code: "state-failed" });
  symlinkSync("big", join(dir, "link"));
  await t.rejects(readStateFile(join(dir, "link"), 1000), { code: "state-failed" });
});

t.test("readStateFile reads whole files in whatever pieces they come", async (t) => {
  const path = join(folder(), "a");
  for (const length of [0, 1, 100, 65_535, 65_536, 65_537, 300_000]) {
    const content = Buffer.alloc(length, 7);
    writeFileSync(path, content);
    const read = await readStateFile(path, 300_000);
    t.equal(read.is === "bytes" && Buffer.compare(read.bytes, content), 0, `${length}`);
  }
  writeFileSync(path, "abcde");
  const pieces = await readStateFile(path, 5, failing(Number.POSITIVE_INFINITY, "EIO"));
  t.same(pieces, { is: "bytes", bytes: new Uint8Array(octets("abcde")) });
});

t.test("an absent file is absent, not an error", async (t) => {
  t.same(await readStateFile(join(folder(), "none"), 10), { is: "absent" });
  await removeFile(join(folder(), "none"));
  t.same(await removeLeftovers(join(folder(), "none")), []);
});

t.test("a file with the asked mode is made, and replaced", async (t) => {
  const path = join(folder(), "a");
  await writeFileAtomic(path, octets("one"));
  t.equal((await fs.stat(path)).mode & 0o777, 0o600);
  await writeFileAtomic(path, octets("two"), 0o400);
  t.equal(text(path), "two");
  t.equal((await fs.stat(path)).mode & 0o777, 0o400);
});

t.test("setAside keeps every bad file, and overwrites none", async (t) => {
  const path = join(folder(), "a.cbor");
  for (const content of ["first", "second", "third"]) {
    writeFileSync(path, content);
    const { sentence } = await setAside(path, "it is no CBOR");
    t.match(sentence, /set aside ".*a\.cbor" as "a\.cbor\.bad-\d": it is no CBOR/);
  }
  t.same(await readStateFile(path, 10), { is: "absent" });
  t.same([text(`${path}.bad-1`), text(`${path}.bad-2`), text(`${path}.bad-3`)], ["first", "second", "third"]);
});

t.test("setAside that fails at any call loses nothing", async (t) => {
  for (let n = 1; n <= 4; n++) {
    const dir = folder();
    const path = join(dir, "a");
    writeFileSync(path, "content");
    await t.rejects(setAside(path, "why", failing(n, "EIO")), { code: "state-failed" });
    t.ok(
      readdirSync(dir).some((name) => text(join(dir, name)) === "content"),
      `call ${n}`,
    );
  }
});

t.test("removeLeftovers takes only what an interrupted write left", async (t) => {
  const dir = folder();
  const names = [
    "a",
    ".hidden",
    ".a.tmp-0123456789abcdef",
    "a.tmp-0123456789abcdef",
    ".a.tmp-xyz",
    "a.bad-1",
  ];
  for (const name of names) writeFileSync(join(dir, name), "");
  t.same(await removeLeftovers(dir), [".a.tmp-0123456789abcdef"]);
  t.same(readdirSync(dir).length, names.length - 1);
});
