import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { compileFilter, returnOf } from "../../../init/container/seccomp/compile.ts";
import { type Answer, type ProfileName, profileOf } from "../../../init/container/seccomp/profile.ts";
import { type Abi, knownNames, numbersOf } from "../../../init/container/seccomp/table.ts";
import { runFilter } from "./classic-bpf.ts";

const arch = { x64: 0xc000003e, x86: 0x40000003, arm64: 0xc00000b7, arm: 0x40000028 } as const;
const abis: readonly Abi[] = ["x64", "x86"];
const filters = {
  service: compileFilter(profileOf("service"), abis),
  "full-os": compileFilter(profileOf("full-os"), abis),
};

function ask(
  profile: ProfileName,
  abi: Abi,
  call: string | number,
  args: readonly bigint[] = [],
): Answer | number {
  const nr = typeof call === "number" ? call : numbersOf(abi).get(call);
  if (nr === undefined) throw new Error(`${abi} has no ${call}`);
  const value = runFilter(filters[profile], { nr, arch: arch[abi], args });
  const named = Object.entries(returnOf).find(([, number]) => number === value)?.[0];
  return (named as Answer | undefined) ?? value;
}

t.test("a call through another ABI is ENOSYS, whatever its number", (t) => {
  for (const other of [arch.arm64, arch.arm, 0, 0xffffffff]) {
    for (let nr = 0; nr < 600; nr++) {
      t.equal(runFilter(filters["full-os"], { nr, arch: other }), returnOf.ENOSYS);
    }
  }
  const native = compileFilter(profileOf("full-os"), ["x64"]);
  t.equal(runFilter(native, { nr: 1, arch: arch.x86 }), returnOf.ENOSYS, "compat only where asked for");
  t.end();
});

t.test("x32 numbers are refused", (t) => {
  for (const nr of [0x40000000, 0x40000001, 0x40000000 + 59, 0x40000208, 0x7fffffff, 0xffffffff]) {
    t.equal(ask("full-os", "x64", nr), "ENOSYS", nr.toString(16));
  }
  t.end();
});

t.test("an unknown number is ENOSYS, a known but forbidden call EPERM (B25)", (t) => {
  t.equal(ask("service", "x64", 9999), "ENOSYS");
  t.equal(ask("service", "x86", 9999), "ENOSYS");
  t.equal(ask("service", "x64", "clone3"), "ENOSYS", "so that glibc falls back to clone");
  t.equal(ask("full-os", "x64", "fsopen"), "ENOSYS", "so that mount falls back to mount(2)");
  for (const call of [
    "init_module",
    "finit_module",
    "kexec_load",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "keyctl",
  ]) {
    for (const profile of ["service", "full-os"] as const) t.equal(ask(profile, "x64", call), "EPERM", call);
  }
  for (const call of ["mount", "umount2", "pivot_root", "unshare", "setns", "reboot"]) {
    t.equal(ask("service", "x64", call), "EPERM", call);
    t.equal(ask("full-os", "x64", call), "allow", call);
  }
  t.end();
});

t.test("arguments decide where the call alone says too little", (t) => {
  t.equal(ask("service", "x64", "clone", [0x3d0f00n]), "allow", "a thread");
  t.equal(ask("service", "x64", "clone", [0x11n]), "allow", "a fork");
  for (const bit of [17n, 25n, 26n, 27n, 28n, 29n, 30n]) {
    t.equal(ask("service", "x64", "clone", [(1n << bit) | 0x11n]), "EPERM", `clone bit ${bit}`);
    t.equal(ask("full-os", "x64", "clone", [(1n << bit) | 0x11n]), "allow", `clone bit ${bit}`);
  }
  t.equal(ask("full-os", "x64", "ioctl", [0n, 0x5412n]), "EPERM", "TIOCSTI");
  t.equal(
    ask("full-os", "x64", "ioctl", [0n, 0xdead00005412n]),
    "EPERM",
    "TIOCSTI with garbage above 32 bits",
  );
  t.equal(ask("full-os", "x64", "ioctl", [0n, 0x541cn]), "EPERM", "TIOCLINUX");
  t.equal(ask("full-os", "x64", "ioctl", [0n, 0x5413n]), "allow", "TIOCGWINSZ");
  t.equal(ask("service", "x64", "personality", [0n]), "allow");
  t.equal(ask("service", "x64", "personality", [0xffffffffn]), "allow");
  t.equal(ask("service", "x64", "personality", [0x40000n]), "EPERM", "ADDR_NO_RANDOMIZE");
  t.equal(ask("service", "x64", "socket", [40n]), "EAFNOSUPPORT", "AF_VSOCK");
  t.equal(ask("service", "x64", "socket", [38n]), "EAFNOSUPPORT", "AF_ALG");
  t.equal(ask("service", "x64", "socket", [2n]), "allow", "AF_INET");
  t.end();
});

t.test("each call of each ABI gets exactly what the profile says", (t) => {
  for (const name of ["service", "full-os"] as const) {
    const profile = profileOf(name);
    for (const abi of abis) {
      const numbers = numbersOf(abi);
      const nameAt = new Map([...numbers].map(([call, number]) => [number, call]));
      for (let nr = 0; nr < 700; nr++) {
        const call = nameAt.get(nr);
        const wanted = call === undefined ? "ENOSYS" : (profile.get(call) ?? "EPERM");
        if (typeof wanted === "string" && ask(name, abi, nr) !== wanted)
          t.fail(`${name} ${abi} ${call ?? nr}`);
      }
      t.ok(numbers.size > 300, `${abi} was looked at`);
    }
  }
  t.end();
});

t.test("a manifest's change is applied and only names known calls", (t) => {
  const filter = compileFilter(profileOf("service", { allow: ["mount"], forbid: ["socket"] }), ["x64"]);
  const run = (call: string) => runFilter(filter, { nr: numbersOf("x64").get(call) ?? -1, arch: arch.x64 });
  t.equal(run("mount"), returnOf.allow);
  t.equal(run("socket"), returnOf.EPERM);
  const known = knownNames();
  t.same(
    [...profileOf("full-os").keys()].filter((name) => !known.has(name)),
    [],
  );
  t.end();
});

t.test("the filter is small, since the kernel walks it at each start", (t) => {
  for (const [name, filter] of Object.entries(filters)) {
    t.ok(filter.length / 8 < 700, `${name}: ${filter.length / 8} instructions`);
  }
  t.end();
});

const header = "/usr/include/seccomp.h";
t.test(
  "the table has libseccomp's numbers",
  { skip: existsSync(header) ? false : "libseccomp-dev is not installed" },
  (t) => {
    const folder = mkdtempSync(join(tmpdir(), "seccomp-"));
    t.teardown(() => rmSync(folder, { recursive: true }));
    const source = `
      #include <seccomp.h>
      #include <stdio.h>
      int main(void) {
        uint32_t arch[4] = {SCMP_ARCH_X86_64, SCMP_ARCH_X86, SCMP_ARCH_AARCH64, SCMP_ARCH_ARM};
        for (int a = 0; a < 4; a++)
          for (int n = 0; n < 600; n++) {
            char *name = seccomp_syscall_resolve_num_arch(arch[a], n);
            if (name) printf("%d %d %s\\n", a, n, name);
          }
      }`;
    const program = join(folder, "numbers");
    const built = spawnSync("gcc", ["-xc", "-", "-o", program, "-lseccomp"], {
      input: source,
      encoding: "utf8",
    });
    t.equal(built.status, 0, built.stderr);
    const tables = (["x64", "x86", "arm64", "arm"] as const).map((abi) => numbersOf(abi));
    let seen = 0;
    for (const line of execFileSync(program, { encoding: "utf8" }).trim().split("\n")) {
      const [a = "", number, name = ""] = line.split(" ");
      const ours = tables[Number(a)]?.get(name);
      if (ours !== Number(number)) t.fail(`${line}: the table says ${ours}`);
      seen++;
    }
    t.ok(seen > 1000, `${seen} numbers compared`);
    t.end();
  },
);
