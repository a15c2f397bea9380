/**
 * The kernel command line of every board, signed as a part of the UKI. docs/kernel-command-line.md gives the reason and
 * the cost of each word; a test holds the two together.
 */
import type { Board } from "./board.ts";

export const hardening: readonly string[] = [
  "lockdown=integrity",
  "module.sig_enforce=1",
  "init_on_alloc=1",
  "init_on_free=1",
  "slab_nomerge",
  "page_alloc.shuffle=1",
  "randomize_kstack_offset=on",
  "vsyscall=none",
  "debugfs=off",
  "oops=panic",
  "panic=10",
  "quiet",
  "loglevel=3",
];

export const commandLineOf = (board: Board): string => [...board.cmdline, ...hardening].join(" ");
