/**
 * What a process inherits without being told: each is set on purpose for a guest's init and for a command in a guest.
 *
 * | state | value | set by |
 * |---|---|---|
 * | descriptors | 0, 1, 2 only | plan: stdio, closeOnExec |
 * | signal dispositions, mask | default, empty | plan: reset |
 * | nice, scheduling, personality | 0, SCHED_OTHER, 0 | plan: reset |
 * | session, controlling terminal | own, the console | plan: setsid, controllingTty |
 * | session keyring | own, empty | plan: sessionKeyring |
 * | supplementary groups | none | plan: ids |
 * | umask | 022 | plan: umask |
 * | rlimits | the table below | plan: rlimit |
 * | oom_score_adj | 0 | plan: oomScore |
 * | working directory, root | / of the guest | plan: chdir, pivot |
 * | environment | built from nothing | plan: exec |
 */
import { readFileSync } from "node:fs";
import type { Kernel } from "../kernel.ts";
import { RLIM_INFINITY } from "../linux.ts";
import { hasErrno } from "./fd-stream.ts";
import type { PlanOp } from "./plan.ts";

type ResourceLimit = {
  readonly resource: number;
  readonly name: string;
  readonly soft: bigint;
  readonly hard: bigint;
};

const none = RLIM_INFINITY;
const mb = 2n ** 20n;

/** All sixteen of getrlimit(2), as a login on a common system has them. Memory and tasks are the cgroup's matter. */
export const resourceLimits: readonly ResourceLimit[] = [
  { resource: 0, name: "Max cpu time", soft: none, hard: none },
  { resource: 1, name: "Max file size", soft: none, hard: none },
  { resource: 2, name: "Max data size", soft: none, hard: none },
  { resource: 3, name: "Max stack size", soft: 8n * mb, hard: none },
  // No core file unless the guest asks: where it goes is decided by the machine's core_pattern.
  { resource: 4, name: "Max core file size", soft: 0n, hard: none },
  { resource: 5, name: "Max resident set", soft: none, hard: none },
  { resource: 6, name: "Max processes", soft: none, hard: none },
  { resource: 7, name: "Max open files", soft: 1024n, hard: 524_288n },
  { resource: 8, name: "Max locked memory", soft: 8n * mb, hard: 8n * mb },
  { resource: 9, name: "Max address space", soft: none, hard: none },
  { resource: 10, name: "Max file locks", soft: none, hard: none },
  { resource: 11, name: "Max pending signals", soft: 16_384n, hard: 16_384n },
  { resource: 12, name: "Max msgqueue size", soft: 819_200n, hard: 819_200n },
  { resource: 13, name: "Max nice priority", soft: 0n, hard: 0n },
  { resource: 14, name: "Max realtime priority", soft: 0n, hard: 0n },
  { resource: 15, name: "Max realtime timeout", soft: none, hard: none },
];

/** The table, where this process's own hard limits allow it: only the first user namespace's root goes above them. */
export function resourceLimitOps(): PlanOp[] {
  const own = ownLimits();
  const least = (a: bigint, b: bigint | undefined) => (b === undefined || a < b ? a : b);
  return resourceLimits.map(({ resource, name, soft, hard }) => {
    const ceiling = own.get(name)?.hard;
    return { op: "rlimit", resource, soft: least(soft, ceiling), hard: least(hard, ceiling) };
  });
}

/**
 * Raises this process's own hard limits to the table, once: the shim then only has to lower them. PID 1 may; a hosted
 * daemon without CAP_SYS_RESOURCE may not, and its guests get what it has itself.
 */
export function raiseOwnLimits(kernel: Kernel): void {
  const own = ownLimits();
  for (const { resource, name, hard } of resourceLimits) {
    const now = own.get(name);
    if (now === undefined || now.hard >= hard) continue;
    try {
      kernel.setResourceLimit(0, resource, now.soft, hard);
    } catch (error) {
      if (!hasErrno(error, "EPERM")) throw error;
    }
  }
}

function ownLimits(): ReadonlyMap<string, { readonly soft: bigint; readonly hard: bigint }> {
  const parse = (text: string) => (text === "unlimited" ? none : BigInt(text));
  const lines = readFileSync("/proc/self/limits", "utf8").split("\n").slice(1);
  return new Map(
    lines.flatMap((line) => {
      const [soft, hard] = line.slice(26).trim().split(/\s+/);
      if (soft === undefined || hard === undefined) return [];
      return [[line.slice(0, 26).trim(), { soft: parse(soft), hard: parse(hard) }] as const];
    }),
  );
}

export const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
