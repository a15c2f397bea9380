import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";

const root = mkdtempSync(join(tmpdir(), "cache-"));
t.teardown(() => rmSync(root, { recursive: true }));
const module = join(import.meta.dirname, "../../../initramfs/cache.ts");

/** Runs `code` with a cache of its own; what is imported is in scope. */
function inCache(code: string) {
  const script = `import * as cache from ${JSON.stringify(module)}; import fs from "node:fs/promises";\n${code}`;
  return spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    encoding: "utf8",
    env: { ...process.env, XDG_CACHE_HOME: root },
  });
}
const names = (kind: string) =>
  readdirSync(join(root, "gimbal", kind)).filter((name) => !name.startsWith("."));

t.test("a result whose making failed leaves nothing behind", (t) => {
  const run = inCache(
    'await cache.cached("broken", "k", async (path) => { await fs.writeFile(path, "half"); throw new Error("power cut"); });',
  );
  t.match(run.stderr, /power cut/);
  t.same(readdirSync(join(root, "gimbal/broken")), []);
  t.end();
});

t.test("a result is made once", (t) => {
  const code =
    'console.log((await cache.cached("once", "k", (path) => fs.writeFile(path, "x"))).made, (await cache.cached("once", "k", () => { throw 0; })).made);';
  t.equal(inCache(code).stdout, "true false\n");
  t.equal(inCache(code).stdout, "false false\n");
  t.end();
});

t.test("of many results those used last are kept, and none that is in use", (t) => {
  const make = (count: number) =>
    inCache(
      `for (let i = 0; i < ${count}; i++) await cache.cached("many", "k" + String(i).padStart(2, "0"), (path) => fs.writeFile(path, ""));`,
    );
  make(20);
  t.equal(names("many").length, 20, "all of them younger than an hour");
  for (const name of names("many")) {
    const hoursAgo = 2 + Number(name.slice(1));
    const time = new Date(Date.now() - hoursAgo * 3_600_000);
    utimesSync(join(root, "gimbal/many", `.used-${name}`), time, time);
  }
  make(21);
  t.same(names("many").sort().slice(-1), ["k20"], "the new one");
  t.equal(names("many").length, 20 + 1, "asking for the others made them young again");
  for (const name of names("many")) {
    const time = new Date(Date.now() - (2 + Number(name.slice(1))) * 3_600_000);
    utimesSync(join(root, "gimbal/many", `.used-${name}`), time, time);
  }
  inCache('await cache.cached("many", "new", (path) => fs.writeFile(path, ""));');
  t.same(names("many").sort(), ["k00", "k01", "k02", "k03", "k04", "k05", "k06", "k07", "k08", "new"]);
  t.end();
});

t.test("fileDigest sees a change of content that keeps the size", (t) => {
  const path = join(root, "file");
  writeFileSync(path, "one");
  const code = `console.log(await cache.fileDigest(${JSON.stringify(path)})); await cache.saveDigests();`;
  const first = inCache(code).stdout;
  t.equal(inCache(code).stdout, first);
  writeFileSync(path, "two");
  t.not(inCache(code).stdout, first);
  t.end();
});
