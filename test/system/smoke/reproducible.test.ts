/**
 * The same sources give the same octets: the executable, the initramfs and the UKI before signing, built twice, in
 * folders of different names and depth, with caches of their own. Packages come from this machine's cache: their digests
 * are in the lock file.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import t from "tap";
import { cacheRoot } from "../../../initramfs/cache.ts";
import { buildForTest, repository } from "../harness.ts";

t.setTimeout(20 * 60_000);
await buildForTest(); // fills the cache of packages
const root = mkdtempSync(join(tmpdir(), "reproducible-"));
t.teardown(() => rmSync(root, { recursive: true, force: true }));

/** Builds in a copy of the tree at `folder` and says what came out, by digest. */
function buildIn(folder: string): Record<string, string> {
  const tree = join(root, folder);
  mkdirSync(tree, { recursive: true });
  for (const name of [
    "init",
    "addon",
    "initramfs",
    "board",
    "package.json",
    "package-lock.json",
    "tsconfig.json",
  ]) {
    execFileSync("cp", ["-r", join(repository, name), tree]);
  }
  symlinkSync(join(repository, "node_modules"), join(tree, "node_modules"));
  // Keys are made at random: both trees sign with the same ones.
  mkdirSync(join(tree, "build"));
  execFileSync("cp", ["-r", join(repository, "build/keys"), join(tree, "build/keys")]);
  const cache = join(tree, "cache");
  for (const kind of ["deb", "unpacked"]) {
    mkdirSync(dirname(join(cache, "gimbal", kind)), { recursive: true });
    symlinkSync(join(cacheRoot, kind), join(cache, "gimbal", kind));
  }
  writeFileSync(join(tree, "digests.ts"), digests);
  const output = execFileSync(process.execPath, [join(tree, "digests.ts")], {
    cwd: tree,
    env: { ...process.env, XDG_CACHE_HOME: cache, SOURCE_DATE_EPOCH: "1764000000", GIMBAL_FAST: "1" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  return JSON.parse(output.toString());
}

/** For whoever has to find out what differs. */
function keepExecutables(): void {
  const kept = join(repository, "build/system/reproducible");
  mkdirSync(kept, { recursive: true });
  for (const [index, folder] of folders.entries()) {
    execFileSync("sh", [
      "-c",
      `cp "$0"/cache/gimbal/executable/[0-9a-f]* "$1"`,
      join(root, folder),
      join(kept, `${index}`),
    ]);
  }
}

const folders = ["a", "another/folder/deeper"] as const;

const digests = `
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { loadBoard } from "./board/board.ts";
import { buildParts } from "./board/parts.ts";
import { unsignedUki } from "./board/uki.ts";
import { bundleOf } from "./initramfs/executable.ts";
const parts = await buildParts(await loadBoard("qemu-x86-64"));
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
const file = (path) => sha256(readFileSync(path));
console.log(JSON.stringify({
  bundle: sha256(await bundleOf(process.cwd() + "/init/main.ts")),
  executable: file(parts.executablePath),
  addon: file("build/x64/gimbal.node"),
  shim: file("build/x64/shim"),
  initramfs: file(parts.uki.initramfsPath),
  uki: sha256(await unsignedUki(parts.uki)),
}));
`;

t.test("two builds in different folders give the same octets", (t) => {
  const first = buildIn(folders[0]);
  const second = buildIn(folders[1]);
  t.equal(Object.keys(first).length, 6);
  if (!t.same(second, first)) keepExecutables();
  t.end();
});
