/** guestos/pack.ts and the program of hello: real mkfs.erofs and veritysetup on small trees. */
import { execFileSync, spawn } from "node:child_process";
import {
  chmodSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import type { Entry } from "../../../guestos/check.ts";
import { hello } from "../../../guestos/hello/recipe.ts";
import { packImage } from "../../../guestos/pack.ts";
import { programRoot } from "../../../guestos/rootfs.ts";

const scratch = mkdtempSync(join(tmpdir(), "gimbal-pack-"));
t.teardown(() => rmSync(scratch, { recursive: true }));
const at = (name: string) => join(scratch, name);
const nothing = () => Promise.resolve();

mkdirSync(at("tree/dev"), { recursive: true });
mkdirSync(at("tree/etc"));
writeFileSync(at("tree/etc/passwd"), "root\n");
writeFileSync(at("tree/big"), "0123456789abcdef".repeat(20_000));
chmodSync(at("tree/big"), 0o640);
linkSync(at("tree/big"), at("tree/hard-link"));
execFileSync("tar", [
  ...["--create", "--owner=123", "--group=456", "--numeric-owner", "--file", at("tree.tar")],
  ...["--directory", at("tree"), "."],
]);

t.test("a root that the inspection refuses leaves nothing behind", async (t) => {
  const refused = packImage({ is: "tar", path: at("tree.tar") }, at("no.img"), "00", () =>
    Promise.reject(new Error("no")),
  );
  await t.rejects(refused, { message: "no" });
  t.same(
    readdirSync(scratch).filter((name) => name.startsWith("no")),
    [],
  );
});

t.test("a tar that is none is told with tar's own words", async (t) => {
  writeFileSync(at("bad.tar"), "this is no tar file");
  await t.rejects(packImage({ is: "tar", path: at("bad.tar") }, at("bad.img"), "00", nothing), {
    code: "build-failed",
    message: /tar/,
  });
  t.same(
    readdirSync(scratch).filter((name) => name.startsWith("bad.img")),
    [],
  );
});

t.test("the same tree and seed give the same octets, with a hash tree that fits", async (t) => {
  const source = { is: "tar", path: at("tree.tar") } as const;
  const one = await packImage(source, at("one.img"), "aa", nothing);
  const two = await packImage(source, at("two.img"), "aa", nothing);
  t.same(one, two);
  t.ok(readFileSync(at("one.img")).equals(readFileSync(at("two.img"))));
  t.equal(one.hashOffsetBytes, one.dataBlocks * 4096);
  t.equal(statSync(at("one.img")).size % 4096, 0);
  const other = await packImage(source, at("other.img"), "bb", nothing);
  t.not(other.salt, one.salt, "another seed, another salt");
  execFileSync("veritysetup", [
    ...["verify", at("one.img"), at("one.img"), one.rootHash, `--hash-offset=${one.hashOffsetBytes}`],
  ]);
  const changed = readFileSync(at("one.img"));
  changed[4096 + 77] = (changed[4096 + 77] ?? 0) ^ 1;
  writeFileSync(at("changed.img"), changed);
  t.throws(() =>
    execFileSync(
      "veritysetup",
      ["verify", at("changed.img"), at("changed.img"), one.rootHash, `--hash-offset=${one.hashOffsetBytes}`],
      { stdio: "ignore" },
    ),
  );
});

t.test("owners and modes of a tar are kept, and the inspection sees them", async (t) => {
  const seen: Entry[] = [];
  let text: string | undefined;
  await packImage({ is: "tar", path: at("tree.tar") }, at("seen.img"), "cc", async (root) => {
    seen.push(...root.entries);
    text = await root.read("/etc/passwd");
  });
  t.match(
    seen.find(({ path }) => path === "/big"),
    { type: "f", mode: 0o640, uid: 123, gid: 456, sizeBytes: 320_000 },
  );
  t.equal(text, "root\n");
  t.notOk(readdirSync(scratch).some((name) => name.endsWith(".root")));
});

t.test("hello prints its line, idles when asked to, ends on SIGTERM, and is small", async (t) => {
  await programRoot(at("hello"), "guestos/hello", hello);
  const program = at("hello/hello");
  t.ok(statSync(program).size < 16_384, `${statSync(program).size} octets`);
  t.equal(execFileSync(program, { encoding: "utf8" }), "hello from a container\n");
  for (const [args, env] of [
    [["idle"], {}],
    [[], { HELLO: "idle" }],
  ] as const) {
    const child = spawn(program, args, { env, stdio: ["ignore", "pipe", "ignore"] });
    await new Promise((resolve) => child.stdout.once("data", resolve));
    t.equal(child.exitCode, null, "it waits");
    child.kill("SIGTERM");
    t.equal(await new Promise((resolve) => child.once("exit", (code) => resolve(code))), 0);
  }
});
