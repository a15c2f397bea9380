/** What the built initramfs holds, read from the file itself: no shell, no interpreter besides PID 1, nothing writable. */
import { execFileSync } from "node:child_process";
import t from "tap";
import { isElf, readElf } from "../../../initramfs/elf.ts";
import { buildForTest } from "../harness.ts";

type Found = { readonly path: string; readonly mode: number; readonly data: Buffer };

/** The entries of a series of newc archives. */
function entriesOf(archive: Buffer): Found[] {
  const found: Found[] = [];
  let at = 0;
  while (at < archive.length) {
    if (archive[at] === 0) {
      at++;
      continue;
    }
    if (archive.toString("latin1", at, at + 6) !== "070701") throw new Error(`no cpio header at ${at}`);
    const field = (index: number) =>
      Number.parseInt(archive.toString("latin1", at + 6 + 8 * index, at + 14 + 8 * index), 16);
    const [mode, size, nameLength] = [field(1), field(6), field(11)];
    const path = archive.toString("latin1", at + 110, at + 110 + nameLength - 1);
    const dataAt = (at + 110 + nameLength + 3) & ~3;
    if (path !== "TRAILER!!!") found.push({ path, mode, data: archive.subarray(dataAt, dataAt + size) });
    at = (dataAt + size + 3) & ~3;
  }
  return found;
}

t.setTimeout(10 * 60_000);
const built = await buildForTest();
const packed = execFileSync("zstd", ["-dc", built.initramfsPath], { maxBuffer: 1 << 28 });
const entries = entriesOf(packed);
const regular = entries.filter(({ mode }) => (mode & 0o170000) === 0o100000);

t.test("the executables are PID 1, its loader, its shim and three tools", (t) => {
  const programs = regular.filter(
    ({ path, mode }) => (mode & 0o111) !== 0 && !/\.so(\.|$)|\.node$/.test(path),
  );
  t.same(programs.map(({ path }) => path).sort(), [
    "usr/lib/gimbal/gimbal",
    "usr/lib/gimbal/shim",
    "usr/sbin/cryptsetup",
    "usr/sbin/e2fsck",
    "usr/sbin/mke2fs",
  ]);
  t.ok(
    regular.filter(({ mode }) => (mode & 0o111) !== 0).every(({ data }) => isElf(data)),
    "no script among the executables",
  );
  t.end();
});

t.test("each library that something needs is there, and none that nothing needs", (t) => {
  const elves = regular.filter(({ path, data }) => isElf(data) && !path.endsWith(".ko"));
  const needed = new Set(elves.flatMap(({ path, data }) => readElf(data, path).needed));
  const libraries = elves
    .map(({ path }) => path.split("/").at(-1) ?? "")
    .filter((name) => name.includes(".so."));
  for (const name of needed) t.ok(libraries.includes(name) || name === "ld-linux-x86-64.so.2", name);
  for (const name of libraries) t.ok(needed.has(name), `${name} is needed`);
  t.end();
});

t.test("modules are listed in load order, and each one listed is there", (t) => {
  const list =
    regular
      .find(({ path }) => path === "etc/gimbal/modules")
      ?.data.toString()
      .trim()
      .split("\n") ?? [];
  t.ok(list.length > 30);
  const present = regular
    .filter(({ path }) => path.endsWith(".ko"))
    .map(({ path }) => `/${path.replace(/^usr\//, "")}`);
  t.same([...list].sort(), present.sort());
  const position = (name: string) => list.findIndex((path) => path.endsWith(`/${name}.ko`));
  t.ok(position("sha256-ssse3") < position("dm-verity"), "else dm-verity keeps the slow SHA-256");
  t.ok(position("dm-mod") < position("dm-crypt"));
  t.end();
});

t.test("everything belongs to root and nobody else may write, but for /tmp and /dev/null", (t) => {
  const writable = entries.filter(({ mode }) => (mode & 0o022) !== 0 && (mode & 0o170000) !== 0o120000);
  t.same(writable.map(({ path }) => path).sort(), ["dev/null", "tmp"]);
  t.end();
});

t.test("the settings inside are those of the signed image", (t) => {
  const text = (path: string) => regular.find((each) => each.path === path)?.data.toString() ?? "";
  t.match(JSON.parse(text("etc/gimbal/build.json")), {
    board: "qemu-x86-64",
    cmdline: built.cmdline,
    development: true,
  });
  t.match(text("etc/gimbal/release.pub"), /^-----BEGIN PUBLIC KEY-----/);
  t.notMatch(
    packed.toString("latin1").match(/-----BEGIN (EC |RSA )?PRIVATE KEY-----\n[A-Za-z0-9+/]{60}/)?.[0] ?? "",
    /KEY/,
  );
  t.end();
});
