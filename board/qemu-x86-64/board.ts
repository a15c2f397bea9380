import type { Board } from "../board.ts";
import { commonModules, virtioModules } from "../modules.ts";

/** The device of `make run` and of the system tests. */
export const board: Board = {
  name: "qemu-x86-64",
  title: "QEMU, x86-64 (q35)",
  arch: "x64",
  kernel: { is: "debian", package: "linux-image-cloud-amd64" },
  modules: [...virtioModules, ...commonModules],
  cmdline: ["console=ttyS0,115200"],
  storageKey: "tpm",
  disk: { bootBytes: 1 << 30, dataBytes: 4 * (1 << 30) },
};
