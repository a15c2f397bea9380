/** verifiedPackages against a stand-in for apt, each case in a process with a cache of its own. */
import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";

const repository = join(import.meta.dirname, "../../..");
const root = mkdtempSync(join(tmpdir(), "packages-"));
t.teardown(() => rmSync(root, { recursive: true }));
const sha256 = (path: string) => createHash("sha256").update(readFileSync(path)).digest("hex");

/** A .deb of one file. */
function makeDeb(version: string): string {
  const folder = join(root, `deb-${version}`);
  mkdirSync(join(folder, "DEBIAN"), { recursive: true });
  const control = `Package: thing\nVersion: ${version}\nArchitecture: amd64\nMaintainer: x <x@localhost>\nDescription: x\n`;
  writeFileSync(join(folder, "DEBIAN/control"), control);
  mkdirSync(join(folder, "usr"));
  writeFileSync(join(folder, "usr/thing"), version);
  const path = join(root, `thing_${version}_amd64.deb`);
  execFileSync("dpkg-deb", ["--root-owner-group", "-b", folder, path], { stdio: "ignore" });
  return path;
}
const [old, present] = [makeDeb("1.0"), makeDeb("2.0")];

/**
 * A copy of the build with a lock on thing 1.0 and an apt that offers `offers`. Runs verifiedPackages and gives what it
 * printed; `cachedAs` puts a file into the cache under the locked digest.
 */
function build(offers: readonly string[], options: { cachedAs?: string; serve?: string } = {}) {
  const tree = mkdtempSync(join(root, "tree-"));
  execFileSync("cp", ["-r", join(repository, "board"), join(repository, "initramfs"), tree]);
  mkdirSync(join(tree, "init"));
  execFileSync("cp", [join(repository, "init/errors.ts"), join(tree, "init")]);
  writeFileSync(join(tree, "package.json"), '{"type":"module"}');
  symlinkSync(join(repository, "node_modules"), join(tree, "node_modules"));
  const lock = { amd64: { thing: { version: "1.0", sha256: sha256(old), sizeBytes: 1 } }, arm64: {} };
  writeFileSync(join(tree, "board/debian.lock.json"), JSON.stringify(lock));
  mkdirSync(join(tree, "cache/gimbal/deb"), { recursive: true });
  if (options.cachedAs)
    execFileSync("cp", [options.cachedAs, join(tree, `cache/gimbal/deb/${sha256(old)}.deb`)]);
  mkdirSync(join(tree, "bin"));
  const rows = offers.map((deb) => {
    const version = /_([\d.]+)_/.exec(deb)?.[1] ?? "";
    return `if [ "$last" = thing=${version} ] || [ "$last" = thing ]; then printf 'Package: thing\\nVersion: ${version}\\nSHA256: ${sha256(deb)}\\nSize: 1\\n'; exit 0; fi`;
  });
  script(join(tree, "bin/apt-cache"), `for last; do :; done\n${rows.reverse().join("\n")}\nexit 100`);
  script(
    join(tree, "bin/apt-get"),
    `echo "apt-get $*" >> ${tree}/apt.log\nfor last; do :; done\ncase "$*" in *download*) cp ${options.serve ?? `${root}/thing_\${last#thing=}_amd64.deb`} "thing_\${last#thing=}_amd64.deb";; esac`,
  );
  writeFileSync(
    join(tree, "go.ts"),
    'import { verifiedPackages } from "./board/debian/packages.ts";\n' +
      'const found = (await verifiedPackages(["thing"])).get("thing");\nconsole.log(found?.version, found?.folder);\n',
  );
  const run = spawnSync(process.execPath, [join(tree, "go.ts")], {
    encoding: "utf8",
    env: {
      PATH: `${join(tree, "bin")}:${process.env["PATH"]}`,
      XDG_CACHE_HOME: join(tree, "cache"),
      GIMBAL_DEBIAN_MIRROR: "http://mirror.invalid/debian/",
    },
  });
  const aptCalls = existsSync(join(tree, "apt.log")) ? readFileSync(join(tree, "apt.log"), "utf8") : "";
  const moved = join(tree, "build/debian-moved.json");
  return { ...run, aptCalls, tree, moved: existsSync(moved) ? readFileSync(moved, "utf8") : "" };
}

function script(path: string, body: string): void {
  writeFileSync(path, `#!/bin/sh\n${body}\n`, { mode: 0o755 });
}

t.test("a file in the cache that is not what was locked is refused and removed", (t) => {
  const run = build([old], { cachedAs: present });
  t.equal(run.status, 1);
  t.match(run.stderr, /it changed since it was verified/);
  t.notOk(existsSync(join(run.tree, `cache/gimbal/deb/${sha256(old)}.deb`)));
  t.end();
});

t.test("a download with another digest than the signed lists name is refused", (t) => {
  const run = build([old], { serve: present });
  t.equal(run.status, 1);
  t.match(run.stderr, /cannot use the Debian package thing 1\.0: no file that came has its SHA-256/);
  t.end();
});

t.test("a package that the archive has not and the cache has not is an error, not a gap", (t) => {
  const run = build([]);
  t.equal(run.status, 1);
  t.match(run.stderr, /cannot find the Debian package thing/);
  t.end();
});

t.test("the locked version is taken where the archive has it, beside a newer one", (t) => {
  const run = build([old, present]);
  t.match(run.stdout, /^1\.0 /, run.stderr);
  t.equal(run.moved, "");
  t.equal(readFileSync(join(run.stdout.trim().split(" ")[1] ?? "", "usr/thing"), "utf8"), "1.0");
  t.end();
});

t.test("where the archive moved on, the present version is taken, said and recorded", (t) => {
  const run = build([present]);
  t.match(run.stdout, /^2\.0 /, run.stderr);
  t.match(run.stderr, /MOVED thing: locked 1\.0, the archive has 2\.0/);
  t.match(run.moved, sha256(present));
  t.end();
});

t.test("with a warm cache apt is not called at all", (t) => {
  const run = build([], { cachedAs: old });
  t.match(run.stdout, /^1\.0 /, run.stderr);
  t.equal(run.aptCalls, "");
  t.end();
});
