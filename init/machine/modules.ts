/** Kernel modules: a fixed list in dependency order, then the door is closed. The kernel checks each one's signature. */
import { closeSync, openSync, readFileSync, writeFileSync } from "node:fs";
import type { Kernel } from "../kernel.ts";
import { MODULE_INIT_COMPRESSED_FILE } from "../linux.ts";
import { isErrno, kernelReason } from "./kernel-refusal.ts";

export type ModuleLine = { readonly path: string; readonly parameters: string };

export type LoadedModules = {
  readonly loaded: readonly string[];
  /** By name and reason; whether the boot can go on without it shows where it is needed. */
  readonly failed: readonly { readonly path: string; readonly why: string }[];
};

/** Lines of "path [parameters]"; empty lines and those that begin with # are skipped. */
export function parseModuleList(text: string): readonly ModuleLine[] {
  return text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"))
    .map((line) => {
      const end = line.search(/\s/);
      return end < 0
        ? { path: line, parameters: "" }
        : { path: line.slice(0, end), parameters: line.slice(end).trim() };
    });
}

/**
 * Loads the modules that `listPath` names, in order; one already loaded or built in counts as loaded. `beforeLoad` sees each
 * file first (boards on which IMA cannot measure have init do it). Throws only where the list itself cannot be read.
 */
export function loadModules(
  kernel: Kernel,
  listPath = "/etc/gimbal/modules",
  beforeLoad: (path: string) => void = () => undefined,
): LoadedModules {
  const loaded: string[] = [];
  const failed: { path: string; why: string }[] = [];
  for (const { path, parameters } of parseModuleList(readFileSync(listPath, "utf8"))) {
    try {
      beforeLoad(path);
      load(kernel, path, parameters);
      loaded.push(path);
    } catch (error) {
      if (isErrno(error, "EEXIST")) loaded.push(path);
      else failed.push({ path, why: whyOf(error) });
    }
  }
  return { loaded, failed };
}

function load(kernel: Kernel, path: string, parameters: string): void {
  const fd = openSync(path, "r");
  try {
    kernel.finitModule(fd, parameters, /\.(xz|gz|zst)$/.test(path) ? MODULE_INIT_COMPRESSED_FILE : 0);
  } finally {
    closeSync(fd);
  }
}

function whyOf(error: unknown): string {
  if (isErrno(error, "EKEYREJECTED", "ENOKEY")) return "its signature is not one that the kernel trusts";
  if (isErrno(error, "ENODEV")) return "no device for it is there";
  return kernelReason(error);
}

/** From now on the kernel starts no helper to find further modules: otherwise a container's request makes it load some. */
export function closeModuleDoor(path = "/proc/sys/kernel/modprobe"): void {
  writeFileSync(path, "/bin/false");
}
