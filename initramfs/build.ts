/**
 * The initramfs: PID 1 with its loader and libraries, the few tools it runs, kernel modules in load order, and what
 * this image trusts. Two archives, compressed one by one: the executable with its libraries, which is big and changes
 * rarely against the rest. No shell, no interpreter besides PID 1 itself.
 */
import { readFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { cached, digestOf, fileDigest } from "./cache.ts";
import { command } from "./command.ts";
import { character, directory, type Entry, file, link, writeCpio } from "./cpio.ts";
import { type FindLibrary, librariesOf, loaderSoname } from "./libraries.ts";
import { patchLoader } from "./loader.ts";
import { type KernelTree, modulesInOrder, readModule } from "./modules.ts";
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
  const { program, rest } = await initramfsEntries(inputs);
  const archives = [
    { what: "executable", archive: writeCpio(program, entryTimeSeconds), level: inputs.level },
    {
      what: "modules, tools, trust",
      archive: writeCpio(rest, entryTimeSeconds, program.length + 100),
      level: 19,
    },
  ];
  const packed: string[] = [];
  for (const { what, archive, level } of archives) packed.push(await compressed(what, archive, level));
  const key = digestOf(...(await Promise.all(packed.map(fileDigest))));
  const { path } = await cached("initramfs", key, async (target) => {
    const bytes = Buffer.concat(await Promise.all(packed.map((part) => readFile(part))));
    await writeFile(target, bytes);
  });
  return path;
}

/** What the two archives hold; a test reads the list of executables from it. */
export async function initramfsEntries(
  inputs: InitramfsInputs,
): Promise<{ program: Entry[]; rest: Entry[] }> {
  const { executablePath, addonPath, shimPath, findLibrary } = inputs;
  const toolPaths = Object.values(inputs.tools);
  const ownLibraries = librariesOf([executablePath, addonPath], findLibrary);
  const loader = findLibrary(loaderSoname);
  if (loader === undefined) throw new Error(`no package holds ${loaderSoname}`);
  const program = [
    file(`${ours}/gimbal`, readFileSync(executablePath), 0o755),
    file(`${ours}/ld.so`, patchLoader(readFileSync(loader)), 0o755),
    ...[...ownLibraries].map(([name, path]) => file(`${ours}/lib/${name}`, readFileSync(path), 0o755)),
  ];
  const toolLibraries = [...librariesOf(toolPaths, findLibrary)].filter(([name]) => !ownLibraries.has(name));
  const modules = await modulesInOrder(inputs.kernel, inputs.modules);
  const modulesFolder = `lib/modules/${inputs.kernel.version}`;
  const rest = [
    link("init", `${ours}/gimbal`),
    link(`${ours}/control`, "gimbal"),
    file(`${ours}/gimbal.node`, readFileSync(addonPath), 0o755),
    file(`${ours}/shim`, readFileSync(shimPath), 0o755),
    link(`lib64/${loaderSoname}`, `../${ours}/ld.so`),
    ...toolLibraries.map(([name, path]) => file(`usr/lib/${name}`, readFileSync(path), 0o755)),
    ...Object.entries(inputs.tools).map(([path, from]) => file(path, readFileSync(from), 0o755)),
    ...(await Promise.all(
      modules.map(async ({ name, path }) => file(`usr/${modulesFolder}/${name}`, await readModule(path))),
    )),
    file("etc/gimbal/modules", modules.map((module) => `/${modulesFolder}/${module.name}\n`).join("")),
    ...Object.entries(inputs.files).map(([path, content]) => file(path, content)),
    ...skeleton,
  ];
  return { program, rest };
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

async function compressed(what: string, archive: Buffer, level: number): Promise<string> {
  const key = digestOf(archive, `zstd ${level}`);
  const { path } = await cached("archive", key, async (target) => {
    await step(
      "ZSTD",
      `initramfs: ${what}`,
      async () => {
        // -T2 whatever this machine has: the number of threads changes the octets
        await command("zstd", ["-q", `-${level}`, "-T2", "-o", target], { input: archive });
        return target;
      },
      (made) => made,
    );
  });
  return path;
}
