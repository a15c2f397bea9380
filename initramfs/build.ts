/**
 * The initramfs: PID 1 with its loader and libraries, the few tools it runs, kernel modules in load order, and what
 * this image trusts. Three archives, compressed one by one, so that a change of one does not cost the time of all: the
 * executable with its libraries, what comes from Debian, what is ours. No shell, no interpreter besides PID 1 itself.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { cached, digestOf, fileDigest } from "./cache.ts";
import { command } from "./command.ts";
import { character, directory, type Entry, file, link, writeCpio } from "./cpio.ts";
import { type FindLibrary, librariesOf, loaderSoname } from "./libraries.ts";
import { patchLoader } from "./loader.ts";
import { type KernelTree, unpackedModules } from "./modules.ts";
import { step } from "./step.ts";

export type InitramfsInputs = {
  /** /usr/lib/gimbal/gimbal, from buildExecutable */
  readonly executablePath: string;
  readonly addonPath: string;
  readonly shimPath: string;
  /** Tools by their path on the device, without the leading slash. */
  readonly tools: Readonly<Record<string, string>>;
  readonly findLibrary: FindLibrary;
  readonly kernel: KernelTree;
  readonly modules: readonly string[];
  /** What the board and the keys add: /etc/gimbal/..., path without leading slash -> content. */
  readonly files: Readonly<Record<string, string | Uint8Array>>;
  /** zstd level of the big archive: 19 for an image, less for a developer in a hurry. */
  readonly level: number;
};

/** Every entry has this time: the image's own time is in /etc/gimbal/build.json. */
const entryTimeSeconds = 0;
const ours = "usr/lib/gimbal";

/** The finished initramfs as a file in the cache. */
export async function buildInitramfs(inputs: InitramfsInputs): Promise<string> {
  const packed: string[] = [];
  let firstInode = 1;
  for (const { what, entries, level } of await initramfsArchives(inputs)) {
    packed.push(await compressed(what, entries, firstInode, level));
    firstInode += 10_000;
  }
  const key = digestOf(...(await Promise.all(packed.map(fileDigest))));
  const { path } = await cached("initramfs", key, async (target) => {
    await writeFile(target, Buffer.concat(await Promise.all(packed.map((part) => readFile(part)))));
  });
  return path;
}

export type Archive = {
  readonly what: string;
  readonly level: number;
  readonly entries: readonly Entry[];
};

/** What the initramfs holds; a test reads the list of executables from it. */
export async function initramfsArchives(inputs: InitramfsInputs): Promise<readonly Archive[]> {
  const libraries = librariesOf([inputs.executablePath, inputs.addonPath], inputs.findLibrary);
  return [
    { what: "executable", level: inputs.level, entries: programEntries(inputs, libraries) },
    { what: "tools, modules", level: 19, entries: await systemEntries(inputs, libraries) },
    { what: "addon, trust, settings", level: 19, entries: ownEntries(inputs) },
  ];
}

function programEntries(inputs: InitramfsInputs, libraries: ReadonlyMap<string, string>): Entry[] {
  const loader = inputs.findLibrary(loaderSoname);
  if (loader === undefined) throw new Error(`no package holds ${loaderSoname}`);
  return [
    file(`${ours}/gimbal`, { path: inputs.executablePath }, 0o755),
    file(`${ours}/ld.so`, patchLoader(readFileSync(loader)), 0o755),
    ...[...libraries].map(([name, path]) => file(`${ours}/lib/${name}`, { path }, 0o755)),
  ];
}

/** Tools look for libraries in /usr/lib/gimbal/lib, too, as they have the same loader: nothing is there twice. */
async function systemEntries(inputs: InitramfsInputs, own: ReadonlyMap<string, string>): Promise<Entry[]> {
  const libraries = [...librariesOf(Object.values(inputs.tools), inputs.findLibrary)];
  const modules = await unpackedModules(inputs.kernel, inputs.modules);
  const folder = `lib/modules/${inputs.kernel.version}`;
  const entries: Entry[] = [
    link(`lib64/${loaderSoname}`, `../${ours}/ld.so`),
    file("etc/gimbal/modules", modules.map(({ name }) => `/${folder}/${name}\n`).join("")),
  ];
  for (const [name, path] of libraries) {
    if (!own.has(name)) entries.push(file(`usr/lib/${name}`, { path }, 0o755));
  }
  for (const [path, from] of Object.entries(inputs.tools)) entries.push(file(path, { path: from }, 0o755));
  for (const { name, path } of modules) entries.push(file(`usr/${folder}/${name}`, { path }));
  return entries;
}

function ownEntries(inputs: InitramfsInputs): Entry[] {
  return [
    link("init", `${ours}/gimbal`),
    link(`${ours}/control`, "gimbal"),
    file(`${ours}/gimbal.node`, { path: inputs.addonPath }, 0o755),
    file(`${ours}/shim`, { path: inputs.shimPath }, 0o755),
    ...Object.entries(inputs.files).map(([path, content]) => file(path, content)),
    ...skeleton,
  ];
}

const skeleton: readonly Entry[] = [
  link("lib", "usr/lib"),
  ...["proc", "sys", "run", "data", "newroot", "staging/l", "staging/u", "staging/root"].map((path) =>
    directory(path),
  ),
  directory("tmp", 0o1777),
  // The kernel opens /dev/console for PID 1 before anything is mounted.
  character("dev/console", 5, 1),
  character("dev/kmsg", 1, 11),
  character("dev/null", 1, 3, 0o666),
];

async function compressed(
  what: string,
  entries: readonly Entry[],
  firstInode: number,
  level: number,
): Promise<string> {
  const key = digestOf(await entriesDigest(entries), `zstd ${level} ${firstInode} 1`);
  const { path } = await cached("archive", key, async (target) => {
    await step(
      "ZSTD",
      `initramfs: ${what}`,
      async () => {
        const input = writeCpio(entries, entryTimeSeconds, firstInode);
        // -T2 whatever this machine has: the number of threads changes the octets
        await command("zstd", ["-q", `-${level}`, "-T2", "-o", target], { input });
        return target;
      },
      (made) => made,
    );
  });
  return path;
}

/** Stands for the octets of an archive without reading the big files again. */
async function entriesDigest(entries: readonly Entry[]): Promise<string> {
  const parts: string[] = [];
  for (const entry of entries) {
    if (entry.is !== "file") parts.push(JSON.stringify(entry));
    else {
      const { data, path, mode } = entry;
      const digest =
        data instanceof Uint8Array
          ? createHash("sha256").update(data).digest("hex")
          : await fileDigest(data.path);
      parts.push(JSON.stringify({ path, mode, digest }));
    }
  }
  return digestOf(...parts);
}
