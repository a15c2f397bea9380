import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";
import fc from "fast-check";
import t from "tap";
import { GimbalError } from "../../../init/errors.ts";
import { checkTar } from "../../../tool/guestos/tar-check.ts";
import { type TarEntry, TarError, tarEntries, tarStream } from "../../../tool/guestos/tar-reader.ts";

const folder = mkdtempSync(join(tmpdir(), "tar-"));
t.teardown(() => rmSync(folder, { recursive: true }));
const file = join(folder, "x.tar");

type Header = {
  readonly name: string;
  readonly type?: string;
  readonly link?: string;
  readonly uid?: number;
  readonly content?: string | Buffer;
  readonly size?: number;
};

function header({ name, type = "0", link = "", uid = 0, content = "", size }: Header): Buffer {
  const block = Buffer.alloc(512);
  block.write(name, 0, 100);
  block.write("0000644\0", 100);
  block.write(`${uid.toString(8).padStart(7, "0")}\0`, 108);
  block.write("0000000\0", 116);
  block.write(`${(size ?? content.length).toString(8).padStart(11, "0")}\0`, 124);
  block.write("00000000000\0", 136);
  block.write(" ".repeat(8), 148);
  block.write(type, 156);
  block.write(link, 157, 100);
  block.write("ustar\u000000", 257);
  block.write(
    `${block
      .reduce((sum, octet) => sum + octet, 0)
      .toString(8)
      .padStart(6, "0")}\0 `,
    148,
  );
  return block;
}

function entry(wanted: Header): Buffer {
  const content = Buffer.from(wanted.content ?? "");
  return Buffer.concat([
    header({ ...wanted, content }),
    content,
    Buffer.alloc((512 - (content.length % 512)) % 512),
  ]);
}

/** One pax record; its length counts itself. */
function pax(key: string, value: string): Buffer {
  const rest = Buffer.byteLength(` ${key}=${value}\n`);
  let length = rest;
  while (String(length).length + rest !== length) length = String(length).length + rest;
  return Buffer.from(`${length} ${key}=${value}\n`);
}

const archive = (...entries: readonly Buffer[]) => Buffer.concat([...entries, Buffer.alloc(1024)]);
const dir = (name: string) => entry({ name: `${name}/`, type: "5" });

async function verdict(bytes: Buffer): Promise<string> {
  writeFileSync(file, bytes);
  try {
    return `taken: ${(await checkTar(file)).entries}`;
  } catch (error) {
    if (!(error instanceof GimbalError)) throw error;
    return error.message;
  }
}

t.test("entries that lead out of the root are refused by name", async (t) => {
  const cases: readonly (readonly [string, RegExp, readonly Buffer[]])[] = [
    ["..", /"\.\.\/x" leads out of the root/, [entry({ name: "../x" })]],
    [".. inside", /"a\/..\/..\/x" leads out/, [entry({ name: "a/../../x" })]],
    ["only ..", /"\.\." leads out/, [entry({ name: "..", type: "5" })]],
    ["absolute", /"\/etc\/x" is no name below the root/, [entry({ name: "/etc/x" })]],
    ["empty", /"" is no name below the root/, [entry({ name: "" })]],
    [
      "behind a link",
      /"a\/x" lies behind "a", a symlink/,
      [entry({ name: "a", type: "2", link: "../../v" }), entry({ name: "a/x" })],
    ],
    ["behind a file", /"p\/q" lies behind "p", a file/, [entry({ name: "p" }), entry({ name: "p/q" })]],
    [
      "behind ./",
      /"a\/x" lies behind/,
      [entry({ name: "./a", type: "2", link: "/" }), entry({ name: "a/x" })],
    ],
    [
      "hard link out",
      /hard link to "..\/..\/v", which leads out/,
      [entry({ name: "h", type: "1", link: "../../v" })],
    ],
    [
      "hard link absolute",
      /hard link to "\/etc\/shadow"/,
      [entry({ name: "h", type: "1", link: "/etc/shadow" })],
    ],
    [
      "hard link later",
      /which is no earlier file/,
      [entry({ name: "h", type: "1", link: "x" }), entry({ name: "x" })],
    ],
    [
      "hard link to a folder",
      /which is no earlier file/,
      [dir("d"), entry({ name: "h", type: "1", link: "d" })],
    ],
    [
      "pax name",
      /"\.\.\/z" leads out/,
      [entry({ name: "p", type: "x", content: pax("path", "../z") }), entry({ name: "ok" })],
    ],
    [
      "NUL",
      /"a\\u0000b" holds NUL/,
      [entry({ name: "p", type: "x", content: pax("path", "a\0b") }), entry({ name: "ok" })],
    ],
    [
      "long name",
      /longer than a path can be/,
      [entry({ name: "l", type: "L", content: `${"x/".repeat(2500)}\0` }), entry({ name: "ok" })],
    ],
    [
      "long component",
      /a component that is too long/,
      [entry({ name: "l", type: "L", content: `${"x".repeat(300)}\0` }), entry({ name: "ok" })],
    ],
  ];
  for (const [what, why, entries] of cases) t.match(await verdict(archive(...entries)), why, what);
});

t.test("what an image cannot keep, or nobody can mean, is refused by name", async (t) => {
  const withAttribute = (name: string) =>
    archive(entry({ name: "p", type: "x", content: pax(`SCHILY.xattr.${name}`, "v") }), entry({ name: "f" }));
  t.match(await verdict(archive(entry({ name: "f" }), entry({ name: "f" }))), /"f" stands in it twice/);
  t.match(await verdict(archive(entry({ name: "f" }), dir("f"))), /"f\/" stands in it twice/);
  t.match(await verdict(archive(dir("d"), dir("d"))), /taken: 1/, "a folder may");
  t.match(await verdict(archive(entry({ name: "f", uid: 65_536 }))), /belongs to 65536:0/);
  t.match(await verdict(archive(entry({ name: "n", type: "3" }))), /"n" is a device/);
  t.match(
    await verdict(archive(dir("dev"), entry({ name: "dev/null", type: "3" }))),
    /taken: 2/,
    "dev/ is left out",
  );
  t.match(await verdict(withAttribute("trusted.overlay.opaque")), /the attribute "trusted.overlay.opaque"/);
  t.match(await verdict(withAttribute("security.selinux")), /the attribute "security.selinux"/);
  t.match(await verdict(withAttribute("user.note")), /taken: 1/);
  t.match(await verdict(withAttribute("security.capability")), /taken: 1/);
});

t.test("archives that are damaged, cut or of another kind are refused", async (t) => {
  const good = archive(entry({ name: "f", content: "hello" }));
  t.match(await verdict(good), /taken: 1/);
  t.match(await verdict(Buffer.alloc(1024)), /the archive is empty/);
  t.match(await verdict(Buffer.alloc(0)), /ends too early/);
  for (const length of [1, 511, 512, 600])
    t.match(await verdict(good.subarray(0, length)), /ends too early/, `${length}`);
  const damaged = Buffer.from(good);
  damaged[3] = 1;
  t.match(await verdict(damaged), /header is damaged/);
  t.match(await verdict(archive(entry({ name: "f", type: "Z" }))), /unknown type "Z"/);
  t.match(
    await verdict(archive(entry({ name: "h", type: "1", link: "f", content: "x" }))),
    /content of its own/,
  );
  t.match(await verdict(archive(header({ name: "f", type: "x", size: 2 ** 30 }))), /more than 1 MiB/);
  for (const content of ["5 a=b\n", "99 a=b\n", "x", "0 a=\n", "7 abcd\n"])
    t.match(
      await verdict(archive(entry({ name: "p", type: "x", content }), entry({ name: "f" }))),
      /extended header is damaged/,
      content,
    );
  t.match(await verdict(Buffer.concat([Buffer.from("\xfd7zXZ\0", "latin1"), good])), /unpack it first/);
});

t.test("gzip and zstd are read, and told when they are cut", async (t) => {
  const good = archive(entry({ name: "f", content: "x".repeat(5000) }));
  for (const packed of [gzipSync(good), zstdCompressSync(good)]) {
    t.match(await verdict(packed), /taken: 1/);
    t.match(await verdict(packed.subarray(0, packed.length - 20)), /^cannot take/);
  }
});

t.test("an archive that GNU tar made is read entry by entry, in each of its formats", async (t) => {
  const root = join(folder, "root");
  const long = "n".repeat(120);
  execFileSync("rm", ["-rf", root]);
  mkdirSync(join(root, "d", long), { recursive: true });
  writeFileSync(join(root, "d", long, `${long}2`), "x");
  writeFileSync(join(root, "f"), "content");
  execFileSync("ln", [join(root, "f"), join(root, "h")]);
  execFileSync("ln", ["-s", `/${long}`, join(root, "l")]);
  writeFileSync(join(root, "sparse"), "");
  truncateSync(join(root, "sparse"), 10_000_000);
  for (const format of ["gnu", "posix"]) {
    const path = join(folder, `${format}.tar`);
    execFileSync("tar", [
      "--create",
      "--sparse",
      `--format=${format}`,
      "--sort=name",
      "--file",
      path,
      "-C",
      root,
      ".",
    ]);
    const found: TarEntry[] = [];
    for await (const each of tarEntries(await tarStream(path))) found.push(each);
    t.same(
      found.map(({ path, type, link }) => [path, type, link]),
      [
        ["./", "directory", ""],
        ["./d/", "directory", ""],
        [`./d/${long}/`, "directory", ""],
        [`./d/${long}/${long}2`, "file", ""],
        ["./f", "file", ""],
        ["./h", "hard-link", "./f"],
        ["./l", "symlink", `/${long}`],
        ["./sparse", "file", ""],
      ],
      format,
    );
    t.match(await checkTar(path), { entries: 8 });
  }
});

t.test("whatever is sent, only a TarError is thrown", async () => {
  const valid = archive(
    entry({ name: "p", type: "x", content: pax("path", "a/b") }),
    entry({ name: "f", content: "x" }),
  );
  const read = async (bytes: Buffer): Promise<boolean> => {
    try {
      for await (const _ of tarEntries(chunks(bytes)));
      return true;
    } catch (error) {
      return error instanceof TarError;
    }
  };
  await fc.assert(
    fc.asyncProperty(
      fc.nat(valid.length - 1),
      fc.uint8Array({ minLength: 1, maxLength: 16 }),
      async (at, octets) => {
        const changed = Buffer.from(valid);
        changed.set(octets.subarray(0, changed.length - at), at);
        return await read(changed);
      },
    ),
    { numRuns: 1000 },
  );
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 2000 }), async (octets) => await read(Buffer.from(octets))),
  );
});

async function* chunks(bytes: Buffer): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += 100) yield bytes.subarray(at, at + 100);
}
