import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { character, directory, file, link, writeCpio } from "../../../initramfs/cpio.ts";

const entries = [
  file("usr/bin/x", "hello", 0o755),
  link("init", "usr/bin/x"),
  character("dev/console", 5, 1),
  directory("tmp", 0o1777),
];

/** Header fields of every record, by the format's own rules: an independent reader. */
function read(archive: Buffer): { path: string; fields: number[]; data: string }[] {
  const records: { path: string; fields: number[]; data: string }[] = [];
  for (let at = 0; at < archive.length; ) {
    if (archive[at] === 0) break;
    if (archive.toString("latin1", at, at + 6) !== "070701") throw new Error(`no magic at ${at}`);
    const fields = Array.from({ length: 13 }, (_, index) =>
      Number.parseInt(archive.toString("latin1", at + 6 + 8 * index, at + 14 + 8 * index), 16),
    );
    const [size, nameLength] = [fields[6] ?? 0, fields[11] ?? 0];
    const path = archive.toString("latin1", at + 110, at + 110 + nameLength - 1);
    const dataAt = (at + 110 + nameLength + 3) & ~3;
    records.push({ path, fields, data: archive.toString("latin1", dataAt, dataAt + size) });
    at = (dataAt + size + 3) & ~3;
  }
  return records;
}

t.test("two entries of one path are refused", (t) => {
  t.throws(() => writeCpio([file("a", "1"), file("a", "2")], 0), /two entries for a/);
  t.end();
});

t.test("an archive is sorted, names its parents and ends with the trailer", (t) => {
  const records = read(writeCpio(entries, 7));
  t.same(
    records.map(({ path }) => path),
    ["dev", "dev/console", "init", "tmp", "usr", "usr/bin", "usr/bin/x", "TRAILER!!!"],
  );
  const [, console, init, tmp, , , x] = records;
  t.equal(console?.fields[1], 0o020600);
  t.same(console?.fields.slice(9, 11), [5, 1], "rdev");
  t.equal(init?.data, "usr/bin/x");
  t.equal(tmp?.fields[1], 0o041777);
  t.equal(x?.fields[1], 0o100755);
  t.equal(x?.data, "hello");
  t.ok(records.slice(0, -1).every(({ fields }) => fields[2] === 0 && fields[3] === 0 && fields[5] === 7));
  t.equal(new Set(records.slice(0, -1).map(({ fields }) => fields[0])).size, 7, "inode numbers differ");
  t.end();
});

t.test("the order in which entries are given does not matter", (t) => {
  t.ok(writeCpio(entries, 7).equals(writeCpio([...entries].reverse(), 7)));
  t.end();
});

t.test("a file named by its path is read when the archive is written", (t) => {
  const folder = mkdtempSync(join(tmpdir(), "cpio-"));
  t.teardown(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, "x"), "hello");
  const [first, ...rest] = entries;
  t.ok(first);
  const byPath = [file("usr/bin/x", { path: join(folder, "x") }, 0o755), ...rest];
  t.ok(writeCpio(byPath, 7).equals(writeCpio(entries, 7)));
  t.end();
});

t.test("another program reads it", (t) => {
  // bsdtar and cpio are no packages of the build host: use one where it happens to be there
  const reader = ["bsdtar", "cpio"].find((name) => {
    try {
      execFileSync(name, ["--version"], { stdio: "ignore" });
      return true;
    } catch {
      return false;
    }
  });
  if (reader === undefined) return void t.end();
  const args = reader === "cpio" ? ["-t", "--quiet"] : ["-tf", "-"];
  const listed = execFileSync(reader, args, { input: writeCpio(entries, 7) }).toString();
  t.match(listed, /usr\/bin\/x/);
  t.end();
});
