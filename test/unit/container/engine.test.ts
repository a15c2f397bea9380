/** Records and the set of containers: what is kept on disk, over boots, cuts and garbage. Nothing is started. */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import type { CborValue } from "../../../init/bytes/cbor.ts";
import { coreUuid, Engine } from "../../../init/container/engine.ts";
import type { EnginePorts } from "../../../init/container/ports.ts";
import type { EngineReport } from "../../../init/container/status.ts";
import type { Kernel } from "../../../init/kernel.ts";

const refuse = () => Promise.reject(new Error("nothing starts in this test"));

type Disk = { readonly folder: string; open(): Promise<{ engine: Engine; reports: EngineReport[] }> };

function makeDisk(t: { teardown(undo: () => void): void }): Disk {
  const folder = mkdtempSync(join(tmpdir(), "gimbal-engine-"));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const ports: EnginePorts = {
    guestOses: { verify: refuse },
    openImage: refuse,
    measure: refuse,
    paths: {
      state: join(folder, "state"),
      data: join(folder, "data"),
      run: join(folder, "run"),
      cgroup: join(folder, "cgroup"),
      staging: join(folder, "staging"),
      shim: join(folder, "shim"),
    },
    coreBinds: [],
    controllers: new Set(),
    missingControllers: "refuse",
    memoryBytes: 2 ** 30,
    nowMs: () => 1_700_000_000_000,
    randomUuid: () => crypto.randomUUID(),
  };
  return {
    folder,
    async open() {
      const kernel = { setResourceLimit() {} } as unknown as Kernel;
      const engine = new Engine(kernel, ports);
      const reports: EngineReport[] = [];
      engine.on("report", (report) => reports.push(report));
      await engine.load();
      return { engine, reports };
    },
  };
}

const config = (name: string, more: Record<string, CborValue> = {}): CborValue =>
  new Map<string, CborValue>(Object.entries({ name, guest_os: "debian", ...more }));
const records = (disk: Disk) => readdirSync(join(disk.folder, "state")).sort();

t.test("a refused config leaves nothing on the disk", async (t) => {
  const disk = makeDisk(t);
  const { engine } = await disk.open();
  await t.rejects(engine.create(config("Best_#1")), { code: "config-refused" });
  await t.rejects(engine.create(config("web", { colour: 1 })), { code: "config-refused" });
  t.same(records(disk), []);
  t.same(engine.list(), []);
});

t.test("a name is taken once, also by two creates at once", async (t) => {
  const disk = makeDisk(t);
  const { engine } = await disk.open();
  const both = await Promise.allSettled([engine.create(config("web")), engine.create(config("web"))]);
  t.same(both.map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
  const many = await Promise.all(Array.from({ length: 20 }, (_, n) => engine.create(config(`c${n}`))));
  t.equal(new Set(many.map(({ idBase }) => idBase)).size, 20);
  await t.rejects(engine.create(config("web")), { code: "container-exists" });
  t.equal(records(disk).length, 21);
});

t.test("what was created is there after a boot, with the same ids", async (t) => {
  const disk = makeDisk(t);
  const first = await disk.open();
  const made = await first.engine.create(config("web", { ram_limit: 100, allow_autostart: true }));
  await first.engine.createCore(config("c0"));
  const { engine, reports } = await disk.open();
  t.same(reports, []);
  t.match(engine.status("web"), { uuid: made.uuid, idBase: made.idBase, autostart: true, state: "STOPPED" });
  t.equal(engine.status(made.uuid).name, "web");
  t.match(engine.status("c0"), { uuid: coreUuid, idBase: 100_000 });
  t.same(engine.rawConfig("web"), config("web", { ram_limit: 100, allow_autostart: true }));
});

t.test("a removed container is forgotten, its data gone, its ids not given again", async (t) => {
  const disk = makeDisk(t);
  const { engine } = await disk.open();
  const kept = await engine.create(config("a"));
  const { uuid, idBase } = await engine.create(config("b"));
  const data = join(disk.folder, "data", uuid, "volumes/x");
  mkdirSync(join(data, "d".repeat(200)), { recursive: true });
  writeFileSync(join(data, "file"), "x");
  await engine.remove("b");
  t.notOk(existsSync(join(disk.folder, "data", uuid)));
  t.same(records(disk), [`${kept.uuid}.cbor`]);
  await t.rejects(engine.remove("b"), { code: "container-unknown" });
  t.ok((await engine.create(config("b"))).idBase >= idBase);
  await engine.createCore(config("c0"));
  await t.rejects(engine.remove("c0"), { code: "container-protected" });
});

t.test("a tree that is deeper than a path can name is deleted too", async (t) => {
  const disk = makeDisk(t);
  const { engine } = await disk.open();
  const { uuid } = await engine.create(config("deep"));
  mkdirSync(join(disk.folder, "data", uuid), { recursive: true });
  const here = process.cwd();
  process.chdir(join(disk.folder, "data", uuid));
  for (let n = 0; n < 60; n++) {
    mkdirSync("n".repeat(200));
    process.chdir("n".repeat(200));
  }
  process.chdir(here);
  await engine.remove("deep");
  t.notOk(existsSync(join(disk.folder, "data", uuid)));
});

t.test("an update is checked whole before anything changes", async (t) => {
  const disk = makeDisk(t);
  const { engine } = await disk.open();
  await engine.create(config("a"));
  const b = await engine.create(config("b"));
  await t.rejects(engine.updateConfig("b", config("a")), { code: "container-exists" });
  await t.rejects(engine.updateConfig("b", config("b", { ram_limit: 1 })), { code: "config-refused" });
  t.same(engine.rawConfig("b"), config("b"));
  const renamed = await engine.updateConfig("b", config("new", { ram_limit: 64 }));
  t.match(renamed, { uuid: b.uuid, name: "new", idBase: b.idBase });
  t.equal((await disk.open()).engine.status("new").uuid, b.uuid);
});

t.test("garbage is set aside and reported, the rest works, and its data stays over boots", async (t) => {
  const disk = makeDisk(t);
  const first = await disk.open();
  const good = await first.engine.create(config("good"));
  const bad = await first.engine.create(config("bad"));
  for (const uuid of [good.uuid, bad.uuid]) mkdirSync(join(disk.folder, "data", uuid), { recursive: true });
  const file = join(disk.folder, "state", `${bad.uuid}.cbor`);
  const whole = readFileSync(file);
  for (const garbage of [
    Buffer.alloc(0),
    Buffer.from("garbage"),
    whole.subarray(0, whole.length - 3),
    Buffer.concat([whole, Buffer.from([0])]),
    Buffer.alloc(2 ** 21),
  ]) {
    writeFileSync(file, garbage);
    const { engine, reports } = await disk.open();
    t.match(reports, [{ code: "state-set-aside", uuid: bad.uuid }]);
    t.same(
      engine.list().map(({ name }) => name),
      ["good"],
    );
    t.notOk(existsSync(file));
    const again = await disk.open();
    t.same(again.reports, [], "once");
    t.ok(existsSync(join(disk.folder, "data", bad.uuid)), "its data stays");
  }
  t.equal(records(disk).filter((name) => name.includes(".bad-")).length, 5);
});

t.test("no flipped bit of a record gives another container", async (t) => {
  const disk = makeDisk(t);
  const first = await disk.open();
  const made = await first.engine.create(config("web"));
  const file = join(disk.folder, "state", `${made.uuid}.cbor`);
  const whole = readFileSync(file);
  let refused = 0;
  for (let bit = 0; bit < whole.length * 8; bit += 3) {
    const flipped = Buffer.from(whole);
    flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    writeFileSync(file, flipped);
    const { engine } = await disk.open();
    if (engine.list().length === 0) refused++;
    else t.equal(engine.list()[0]?.uuid, made.uuid);
    rmSync(join(disk.folder, "state"), { recursive: true });
    mkdirSync(join(disk.folder, "state"));
  }
  t.ok(refused > 100, `${refused} refused`);
});

t.test("leftovers of cut creates and removes go at the next boot, and nothing else", async (t) => {
  const disk = makeDisk(t);
  const first = await disk.open();
  const { uuid } = await first.engine.create(config("web"));
  const data = join(disk.folder, "data");
  const orphan = crypto.randomUUID();
  for (const name of [uuid, orphan, "lost+found", "notes"])
    mkdirSync(join(data, name, "volumes"), { recursive: true });
  writeFileSync(join(disk.folder, "state", `.${uuid}.cbor.tmp-0123456789abcdef`), "half");
  const { reports } = await disk.open();
  t.same(reports, []);
  t.same(readdirSync(data).sort(), [uuid, "lost+found", "notes"].sort());
  t.same(records(disk), [`${uuid}.cbor`]);
});

t.test("two records with one name or one id range are not both believed", async (t) => {
  const disk = makeDisk(t);
  const first = await disk.open();
  const a = await first.engine.create(config("a"));
  const bytes = readFileSync(join(disk.folder, "state", `${a.uuid}.cbor`));
  const other = `f${a.uuid.slice(1)}`;
  const at = bytes.indexOf(a.uuid);
  const copy = Buffer.concat([bytes.subarray(0, at), Buffer.from(other), bytes.subarray(at + 36)]);
  writeFileSync(join(disk.folder, "state", `${other}.cbor`), copy);
  const { engine, reports } = await disk.open();
  t.equal(engine.list().length, 1);
  t.equal(reports.length, 1);
});
