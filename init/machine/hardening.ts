/** What PID 1 does to itself and to the kernel's settings before anything else runs. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Kernel } from "../kernel.ts";
import { LINUX_REBOOT_CMD_CAD_OFF, RLIMIT_CORE } from "../linux.ts";
import { kernelReason } from "./kernel-refusal.ts";

/** No dumps, no tracing, no ctrl-alt-del past us (it becomes SIGINT), not chosen when memory runs out, sane umask. */
export function hardenProcess(kernel: Kernel): void {
  kernel.setDumpable(false); // on purpose and early: a CLONE_VM child's setresuid would do it at the first start
  kernel.setResourceLimit(0, RLIMIT_CORE, 0n, 0n);
  process.umask(0o022);
  if (process.pid !== 1) return;
  kernel.reboot(LINUX_REBOOT_CMD_CAD_OFF);
  writeFileSync("/proc/self/oom_score_adj", "-1000");
}

type Setting = readonly [name: string, value: string];

/** Each with its reason; a kernel that lacks one is no error. */
export const kernelSettings: readonly Setting[] = [
  ["kernel/panic", "5"], // a panic restarts the machine, also where the command line forgot it
  ["kernel/panic_on_oops", "1"], // a kernel that broke its own rules is no longer the measured one
  ["kernel/core_pattern", "|/bin/false"], // no dump of a guest or helper reaches a disk
  ["kernel/sysrq", "0"], // a break on a serial line is not a command
  ["kernel/kptr_restrict", "2"], // no kernel addresses for anybody
  ["kernel/dmesg_restrict", "1"], // the ring is init's log
  ["kernel/perf_event_paranoid", "3"],
  ["kernel/unprivileged_bpf_disabled", "1"],
  ["kernel/kexec_load_disabled", "1"], // the next kernel comes through the firmware
  ["kernel/yama/ptrace_scope", "1"],
  ["net/core/bpf_jit_harden", "2"],
  ["vm/unprivileged_userfaultfd", "0"],
  ["dev/tty/ldisc_autoload", "0"],
  ["fs/protected_symlinks", "1"],
  ["fs/protected_hardlinks", "1"],
  ["fs/protected_fifos", "2"],
  ["fs/protected_regular", "2"],
  ["fs/suid_dumpable", "0"],
];

/** Writes the settings below /proc/sys. Returns "name: reason" for each one that the kernel did not take. */
export function hardenKernel(
  settings: readonly Setting[] = kernelSettings,
  root = "/proc/sys",
): readonly string[] {
  return settings.flatMap(([name, value]) => {
    try {
      writeFileSync(join(root, name), value, { flag: "r+" });
      return [];
    } catch (error) {
      return [`${name}: ${kernelReason(error)}`];
    }
  });
}
