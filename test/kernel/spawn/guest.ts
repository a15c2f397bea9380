/** A static guest program and a root for it, for tests of starts. */
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Plan, PlanOp } from "../../../init/container/plan.ts";
import { type Process, type SpawnRequest, spawn } from "../../../init/container/spawn.ts";
import type { Kernel } from "../../../init/kernel.ts";
import { allNamespaces, MS_REC, MS_SLAVE } from "../../../init/linux.ts";

/**
 * No argument: waits for ever. A digit: exits with it. "k": kills itself. "p": prints pid, uid and parent's pid. "c" path: prints a
 * file. "l" path: lists a directory. "w" path: writes "x" to it. "r" path: reads a line from standard input first. Failures exit with the errno.
 */
const source = `
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
static int copy(int from) {
  char b[65536];
  for (ssize_t n; (n = read(from, b, sizeof b)) != 0;) {
    if (n < 0) return errno;
    write(1, b, n);
  }
  return 0;
}
int main(int c, char **v) {
  if (c < 2) for (;;) pause();
  switch (v[1][0]) {
    case 'k': raise(SIGKILL);
    case 'p': printf("%d %d %d\\n", getpid(), getuid(), getppid()); return 0;
    case 'c': { int f = open(v[2], O_RDONLY); return f < 0 ? errno : copy(f); }
    case 'l': {
      DIR *d = opendir(v[2]);
      if (!d) return errno;
      int own = dirfd(d);
      for (struct dirent *e; (e = readdir(d));) {
        char n[16]; snprintf(n, sizeof n, "%d", own);
        if (e->d_name[0] != '.' && strcmp(e->d_name, n)) printf("%s\\n", e->d_name);
      }
      return 0;
    }
    case 'w': {
      int f = open(v[2], O_WRONLY | O_CREAT, 0666);
      const char *t = c > 3 ? v[3] : "x";
      return f < 0 ? errno : write(f, t, strlen(t)) < 0 ? errno : 0;
    }
    case 'm': return mkdir(v[2], 0777) < 0 ? errno : 0;
    case 's': {
      struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
      mode_t m = umask(0);
      printf("umask %o\\nnice %d\\nsession %d\\nmonotonic %ld\\n", m, getpriority(PRIO_PROCESS, 0), getsid(0) == getpid(), (long)t.tv_sec);
      struct stat s; stat("/", &s); printf("root %d:%d\\n", s.st_uid, s.st_gid);
      return 0;
    }
    default: return v[1][0] - '0';
  }
}`;

export type Fixture = {
  readonly directory: string;
  /** Mount point of roots. */
  readonly staging: string;
  readonly program: Buffer;
};

/** Compiles the guest program into a directory that the guests' ids can reach. */
export function makeFixture(t: { teardown(undo: () => void): void }): Fixture {
  const directory = mkdtempSync(join(tmpdir(), "gimbal-spawn-"));
  t.teardown(() => rmSync(directory, { recursive: true }));
  chmodSync(directory, 0o755);
  for (const name of ["root", "l", "u"]) mkdirSync(join(directory, name));
  writeFileSync(join(directory, "guest.c"), source);
  const guest = join(directory, "guest");
  execFileSync("gcc", ["-static", "-O1", "-w", join(directory, "guest.c"), "-o", guest]);
  return { directory, staging: join(directory, "root"), program: readFileSync(guest) };
}

export const idBase = 300_000;

/** A tmpfs as root, with /guest and the directories that mounts need. */
export function guestRoot(kernel: Kernel, { program }: Fixture): number {
  const root = kernel.fsMount("tmpfs", [["mode", "755"]], 0);
  const file = kernel.openat2(root, "guest", 0o101, 0o755, 0);
  writeFileSync(file, program);
  closeSync(file);
  for (const name of ["proc", "sys", "dev", "run"]) kernel.mkdirat(root, name, 0o755);
  return root;
}

export const before = (staging: string): PlanOp[] => [
  { op: "reset" },
  { op: "setsid" },
  { op: "sessionKeyring" },
  { op: "propagation", path: "/", flags: MS_SLAVE | MS_REC },
  { op: "moveMount", slot: 0, path: staging },
  { op: "chdir", path: staging },
  { op: "mountFs", fsType: "proc", path: "/proc", options: [], attributes: 0 },
];

export const after: PlanOp[] = [
  { op: "pivot" },
  { op: "hostname", name: "guest" },
  { op: "boundingSet", keep: 0n },
  { op: "capabilities", permitted: 0n, inheritable: 0n },
  { op: "noNewPrivs" },
];

export const run = (...argv: string[]): PlanOp => ({
  op: "exec",
  path: "/guest",
  argv: ["guest", ...argv],
  env: [],
});

/** Starts a plan over a fresh root in slot 0; more slots follow it. */
export async function start(
  kernel: Kernel,
  shim: number,
  fixture: Fixture,
  plan: Plan,
  { slots = [], idMapped = [], ...more }: Partial<SpawnRequest> = {},
): Promise<Process> {
  const root = guestRoot(kernel, fixture);
  try {
    return await spawn(kernel, shim, {
      plan,
      slots: [root, ...slots],
      namespaces: allNamespaces,
      idBase,
      idMapped: [root, ...idMapped],
      timeOffsets: "monotonic 1000 0\nboottime 1000 0\n",
      timeoutMs: 10_000,
      ...more,
    });
  } finally {
    closeSync(root);
  }
}

/** Runs the guest program with its standard output in a pipe; returns all of that and its exit status. */
export async function outputOf(
  kernel: Kernel,
  shim: number,
  fixture: Fixture,
  ops: { readonly before?: readonly PlanOp[]; readonly after?: readonly PlanOp[] },
  ...argv: string[]
): Promise<{ text: string; status: number }> {
  const [reader, writer] = kernel.pipe();
  let open = true;
  try {
    const plan: Plan = [
      ...(ops.before ?? before(fixture.staging)),
      { op: "stdio", slot: 1, to: 1 },
      ...(ops.after ?? after),
      run(...argv),
    ];
    using guest = await start(kernel, shim, fixture, plan, { slots: [writer] });
    const { status } = await guest.exited;
    const buffer = Buffer.alloc(60_000);
    closeSync(writer);
    open = false;
    const length = readSync(reader, buffer); // the guest has ended: what it wrote is there, then comes the end
    return { text: buffer.toString("utf8", 0, length), status };
  } finally {
    closeSync(reader);
    if (open) closeSync(writer);
  }
}

export const openFds = (): number => readdirSync("/proc/self/fd").length;

export const children = (): string[] =>
  readFileSync(`/proc/self/task/${process.pid}/children`, "utf8").trim().split(" ").filter(Boolean);
