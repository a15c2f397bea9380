/**
 * Kernel modules in an order in which each finds what it depends on. depmod is not needed: a module says itself
 * (`depends=` in its .modinfo section) what must be there before.
 */
import { globSync, readFileSync, statSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { GimbalError } from "../init/errors.ts";
import { cached, digestOf } from "./cache.ts";
import { command } from "./command.ts";

export type KernelTree = {
  /** As `uname -r` will say. */
  readonly version: string;
  /** bzImage with its EFI stub. */
  readonly imagePath: string;
  /** The folder that holds `kernel/` and `modules.builtin`. */
  readonly modulesFolder: string;
};

/** `name` is the file's name on the device, without ".xz": there it is not packed. */
export type Module = { readonly name: string; readonly path: string };

/** The kernel treats "-" and "_" in module names as the same sign. */
const normal = (name: string): string => name.replaceAll("-", "_");

/** As `modulesInOrder`, with each module unpacked in the cache: what the initramfs takes. */
export async function unpackedModules(
  kernel: KernelTree,
  wanted: readonly string[],
): Promise<readonly Module[]> {
  const key = digestOf(kernel.version, await treeDigest(kernel), ...wanted);
  const { path } = await cached("modules", key, async (folder) => {
    await mkdir(folder);
    const modules = await modulesInOrder(kernel, wanted);
    for (const module of modules) await writeFile(join(folder, module.name), await readModule(module.path));
    await writeFile(join(folder, "order"), modules.map(({ name }) => `${name}\n`).join(""));
  });
  const names = readFileSync(join(path, "order"), "utf8").split("\n").slice(0, -1);
  return names.map((name) => ({ name, path: join(path, name) }));
}

/** Stands for all modules of a tree without reading them: an OEM may rebuild one under the same version. */
async function treeDigest(kernel: KernelTree): Promise<string> {
  const parts: string[] = [];
  for (const path of globSync("kernel/**/*.ko*", { cwd: kernel.modulesFolder }).sort()) {
    const { size, mtimeMs } = statSync(join(kernel.modulesFolder, path));
    parts.push(`${path} ${size} ${mtimeMs}`);
  }
  return digestOf(...parts);
}

/**
 * The modules `wanted` and all that they depend on, in load order: a module stands behind its dependencies, else in the
 * order asked for. What the kernel has built in is left out.
 * @throws GimbalError "build-failed" for a name the kernel has in neither way
 */
export async function modulesInOrder(
  kernel: KernelTree,
  wanted: readonly string[],
): Promise<readonly Module[]> {
  const files = new Map<string, string>();
  for (const path of globSync("kernel/**/*.{ko,ko.xz,ko.zst}", { cwd: kernel.modulesFolder })) {
    files.set(normal(basename(path).replace(/\.ko(\.\w+)?$/, "")), join(kernel.modulesFolder, path));
  }
  const builtin = builtinModules(kernel);
  const ordered = new Map<string, Module>();
  const add = async (name: string, neededBy: string): Promise<void> => {
    const key = normal(name);
    if (ordered.has(key) || builtin.has(key)) return;
    const path = files.get(key);
    if (path === undefined) {
      throw new GimbalError("build-failed", {
        tried: "find",
        on: `the kernel module ${name}`,
        why: `${neededBy} needs it and kernel ${kernel.version} has none of that name`,
        todo: "mend the modules of the board's board.ts",
      });
    }
    for (const dependency of dependenciesOf(await readModule(path))) await add(dependency, name);
    ordered.set(key, { name: basename(path).replace(/\.(xz|zst)$/, ""), path });
  };
  for (const name of wanted) await add(name, "the board");
  return [...ordered.values()];
}

function builtinModules(kernel: KernelTree): ReadonlySet<string> {
  const lines = readFileSync(join(kernel.modulesFolder, "modules.builtin"), "utf8").split("\n");
  return new Set(lines.filter((line) => line !== "").map((line) => normal(basename(line, ".ko"))));
}

/** What the module itself says in `depends=`. */
function dependenciesOf(module: Buffer): readonly string[] {
  return fieldOf(module, "depends")
    .split(",")
    .filter((name) => name !== "");
}

/**
 * A module as the kernel loads it, unpacked, its signature included. In the initramfs all modules together pack as well
 * as each by itself, and under emulation the kernel needs three times as long for packed ones.
 */
export async function readModule(path: string): Promise<Buffer> {
  const packed = /\.(xz|zst)$/.exec(path)?.[1];
  if (packed === undefined) return readFileSync(path);
  return command(packed === "xz" ? "xz" : "zstd", ["-dc", path]);
}

/** A field of .modinfo; its strings stand one behind the other, each ended by a NUL. Empty where it is absent. */
export function fieldOf(module: Buffer, field: string): string {
  const at = module.indexOf(`\0${field}=`);
  if (at < 0) return "";
  const start = at + field.length + 2;
  return module.toString("latin1", start, module.indexOf(0, start));
}
