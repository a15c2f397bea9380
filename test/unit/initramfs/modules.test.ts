import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { fieldOf, modulesInOrder } from "../../../initramfs/modules.ts";

/** A tree of modules that hold nothing but their .modinfo. */
function tree(modules: Readonly<Record<string, string>>, builtin: readonly string[] = []) {
  const folder = mkdtempSync(join(tmpdir(), "modules-"));
  mkdirSync(join(folder, "kernel/drivers"), { recursive: true });
  for (const [name, depends] of Object.entries(modules)) {
    const path = join(folder, "kernel/drivers", `${name}.ko`);
    writeFileSync(path, `ELF\0license=GPL\0depends=${depends}\0retpoline=Y\0`);
    if (name.length % 2 === 0) execFileSync("xz", [path]); // packed ones among the others
  }
  writeFileSync(join(folder, "modules.builtin"), builtin.map((name) => `kernel/fs/${name}.ko\n`).join(""));
  t.teardown(() => rmSync(folder, { recursive: true }));
  return { version: "1.2.3", imagePath: "", modulesFolder: folder };
}

const names = async (kernel: ReturnType<typeof tree>, wanted: readonly string[]) =>
  (await modulesInOrder(kernel, wanted)).map(({ name }) => name);

t.test("a module that the kernel does not have is refused by its name", async (t) => {
  const kernel = tree({ a: "missing" });
  await t.rejects(modulesInOrder(kernel, ["nosuch"]), { code: "build-failed", message: /nosuch/ });
  await t.rejects(modulesInOrder(kernel, ["a"]), { code: "build-failed", message: /missing.*a needs it/ });
});

t.test("a module stands behind what it depends on, once, and else in the order asked for", async (t) => {
  const kernel = tree({
    verity: "dm-mod,reed_solomon",
    "dm-mod": "",
    "reed-solomon": "",
    crypt: "dm-mod",
    z: "",
  });
  t.same(await names(kernel, ["z", "verity", "crypt", "dm_mod"]), [
    "z.ko",
    "dm-mod.ko",
    "reed-solomon.ko",
    "verity.ko",
    "crypt.ko",
  ]);
});

t.test("what is built in is passed over, under either spelling", async (t) => {
  const kernel = tree({ vfat: "fat_lib" }, ["fat-lib", "ext4"]);
  t.same(await names(kernel, ["ext4", "vfat"]), ["vfat.ko"]);
});

t.test("fieldOf reads a whole field only", (t) => {
  const module = Buffer.from("\0softdepends=no\0depends=a,b\0");
  t.equal(fieldOf(module, "depends"), "a,b");
  t.equal(fieldOf(module, "firmware"), "");
  t.end();
});
