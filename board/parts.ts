/** From sources to the parts of a board's kernel image: packages, executable, addon, initramfs, settings. */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { GimbalError } from "../init/errors.ts";
import { buildInitramfs, type InitramfsInputs } from "../initramfs/build.ts";
import { command } from "../initramfs/command.ts";
import { buildExecutable } from "../initramfs/executable.ts";
import type { KernelTree } from "../initramfs/modules.ts";
import { type Board, releaseNumber } from "./board.ts";
import { commandLineOf } from "./command-line.ts";
import { type Package, verifiedPackages } from "./debian/packages.ts";
import { firmwarePackage, libraryPackages, stubPackage, toolPackages } from "./debian/wanted.ts";
import { type Keys, keysForBuild } from "./keys.ts";
import type { UkiInputs } from "./uki.ts";

export const repository = join(import.meta.dirname, "..");

export type Parts = {
  readonly keys: Keys;
  readonly packages: ReadonlyMap<string, Package>;
  readonly executablePath: string;
  readonly uki: UkiInputs;
};

const toolsOnDevice: Readonly<Record<string, readonly [string, string]>> = {
  "usr/sbin/cryptsetup": ["cryptsetup-bin", "usr/sbin/cryptsetup"],
  "usr/sbin/mke2fs": ["e2fsprogs", "usr/sbin/mke2fs"],
  "usr/sbin/e2fsck": ["e2fsprogs", "usr/sbin/e2fsck"],
};

/** Builds what changed. Nothing is done twice for the same inputs. `entry` is what runs as PID 1. */
export async function buildParts(board: Board, entry = join(repository, "init/main.ts")): Promise<Parts> {
  const keys = await keysForBuild();
  const packages = await verifiedPackages(packagesOf(board));
  const kernel = kernelTree(board, packages);
  const inputs = await initramfsInputs(board, keys, packages, kernel, entry);
  const uki: UkiInputs = {
    stubPath: fileIn(packages, stubPackage, "usr/lib/systemd/boot/efi/linuxx64.efi.stub"),
    kernelPath: kernel.imagePath,
    initramfsPath: await buildInitramfs(inputs),
    kernelVersion: kernel.version,
    cmdline: commandLineOf(board),
    osRelease: osReleaseOf(),
    releaseKey: readFileSync(keys.releaseKey, "utf8"),
  };
  return { keys, packages, executablePath: inputs.executablePath, uki };
}

const packagesOf = (board: Board): string[] => [
  ...toolPackages,
  stubPackage,
  firmwarePackage,
  ...libraryPackages,
  ...(board.kernel.is === "debian" ? [board.kernel.package] : []),
];

export function fileIn(packages: ReadonlyMap<string, Package>, name: string, path: string): string {
  const folder = packages.get(name)?.folder;
  if (folder === undefined || !existsSync(join(folder, path)))
    throw new Error(`package ${name} has no ${path}`);
  return join(folder, path);
}

export function kernelTree(board: Board, packages: ReadonlyMap<string, Package>): KernelTree {
  const source = board.kernel;
  const [folder, modules] =
    source.is === "debian"
      ? [packages.get(source.package)?.folder ?? "", "usr/lib/modules"]
      : [resolve(repository, source.path), "modules"];
  const version = existsSync(join(folder, modules)) ? readdirSync(join(folder, modules))[0] : undefined;
  const imagePath = join(folder, source.is === "debian" ? `boot/vmlinuz-${version}` : "vmlinuz");
  if (version === undefined || !existsSync(imagePath)) {
    throw new GimbalError("build-failed", {
      tried: "use",
      on: `the kernel of ${board.name}`,
      why: `${folder} lacks ${version === undefined ? `${modules}/<version>` : imagePath}`,
    });
  }
  return { version, imagePath, modulesFolder: join(folder, modules, version) };
}

async function initramfsInputs(
  board: Board,
  keys: Keys,
  packages: ReadonlyMap<string, Package>,
  kernel: KernelTree,
  entry: string,
): Promise<InitramfsInputs> {
  const addon = await buildAddon();
  const tools = Object.entries(toolsOnDevice).map(([path, [name, from]]) => [
    path,
    fileIn(packages, name, from),
  ]);
  return {
    executablePath: await buildExecutable({ entry }),
    addonPath: addon.addon,
    shimPath: addon.shim,
    tools: Object.fromEntries(tools),
    findLibrary: (soname) => findLibrary(packages, soname),
    kernel,
    modules: board.modules,
    files: {
      "etc/gimbal/build.json": `${JSON.stringify(buildInfo(board, keys), undefined, 2)}\n`,
      "etc/gimbal/release.pub": readFileSync(keys.releasePublicKey),
      "etc/gimbal/trust/platform-ca.crt": readFileSync(keys.platformCaCertificate),
    },
    level: process.env["GIMBAL_FAST"] === "1" ? 9 : 19,
  };
}

function findLibrary(packages: ReadonlyMap<string, Package>, soname: string): string | undefined {
  for (const name of libraryPackages) {
    for (const folder of ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib"]) {
      const path = join(packages.get(name)?.folder ?? "", folder, soname);
      if (existsSync(path)) return path;
    }
  }
  return undefined;
}

/** Has the addon and the shim built; they are the work of addon/build.ts. */
async function buildAddon(): Promise<{ addon: string; shim: string }> {
  const build = join(repository, "addon/build.ts");
  await command(process.execPath, [build, "x64"], { cwd: repository, showErrors: true });
  const folder = join(repository, "build/x64");
  return { addon: join(folder, "gimbal.node"), shim: join(folder, "shim") };
}

/** /etc/gimbal/build.json: what the image says about itself (init/boot/build-info.ts reads it). */
function buildInfo(board: Board, keys: Keys) {
  return {
    board: board.name,
    hardware: "x86-64",
    storageKey: board.storageKey,
    release: releaseNumber,
    development: keys.development,
    version: packageVersion(),
    cmdline: commandLineOf(board),
    buildTime: sourceTime(),
  };
}

export function packageVersion(): string {
  return JSON.parse(readFileSync(join(repository, "package.json"), "utf8")).version;
}

function osReleaseOf(): string {
  const version = packageVersion();
  return `ID=gimbal\nNAME="gimbal"\nPRETTY_NAME="gimbal ${version}"\nVERSION_ID="${version}"\n`;
}

/** Seconds since 1970 that stand for these sources: SOURCE_DATE_EPOCH, else the time of the last commit. */
function sourceTime(): number {
  const given = process.env["SOURCE_DATE_EPOCH"];
  if (given !== undefined && /^\d+$/.test(given)) return Number(given);
  try {
    const time = execFileSync("git", ["log", "-1", "--format=%ct"], {
      cwd: repository,
      stdio: ["ignore", "pipe", "ignore"],
    });
    return Number(time.toString().trim());
  } catch {
    return 1_764_000_000; // no repository: an unpacked source archive without SOURCE_DATE_EPOCH
  }
}
