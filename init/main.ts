/** The entry of the one executable: its name picks the part. This file alone loads the addon. */
import { basename } from "node:path";
import { boot } from "./boot.ts";
import { main as control } from "./control/client.ts";
import type { Kernel } from "./kernel.ts";

const addonPath = "/usr/lib/gimbal/gimbal.node";

function loadKernel(): Kernel {
  const module: { exports: unknown } = { exports: {} };
  process.dlopen(module, addonPath);
  return module.exports as Kernel;
}

const part = basename(process.argv0);
if (process.pid === 1 && part === "init") {
  void boot(loadKernel());
} else if (part === "control") {
  void control(process.argv.slice(2)).then((status) => {
    process.exitCode = status;
  });
} else {
  process.stderr.write(`gimbal: ${part} is not one of its names: init (as PID 1), control\n`);
  process.exitCode = 2;
}
