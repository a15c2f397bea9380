/** Builds and loads the addon for tests that need the real kernel. */
import { execFileSync } from "node:child_process";
import { openSync } from "node:fs";
import { resolve } from "node:path";
import type { Kernel } from "../../init/kernel.ts";

/** The addon, built if a source changed. */
export function loadKernel(): Kernel {
  execFileSync(process.execPath, ["addon/build.ts", "x64"], { stdio: "inherit" });
  const module: { exports: unknown } = { exports: {} };
  process.dlopen(module, resolve("build/x64/gimbal.node"));
  return module.exports as Kernel;
}

/** The shim's executable, to be given to spawn. */
export function openShim(): number {
  return openSync("build/x64/shim", "r");
}
