import { readFileSync } from "node:fs";
import t from "tap";
import { patchInterpreter, readElf } from "../../../initramfs/elf.ts";
import { nodePath } from "../../../initramfs/executable.ts";

const node = readFileSync(nodePath);

t.test("anything but a 64-bit little-endian ELF file is refused", (t) => {
  for (const bytes of [Buffer.alloc(0), Buffer.from("#!/bin/sh\n"), Buffer.alloc(64, 0x7f)]) {
    t.throws(() => readElf(bytes, "x"), { code: "build-failed" });
  }
  const bits32 = Buffer.from(node.subarray(0, 4096));
  bits32[4] = 1;
  t.throws(() => readElf(bits32, "x"), { code: "build-failed" });
  t.end();
});

t.test("an interpreter that is longer than the one in the file is refused", (t) => {
  const copy = Buffer.from(node);
  t.throws(() => patchInterpreter(copy, "/usr/lib/gimbal/ld-linux-x86-64.so.2", "node"), {
    code: "build-failed",
  });
  t.ok(copy.equals(node), "and nothing was written");
  t.end();
});

t.test("readElf says what Node needs, as readelf(1) does", (t) => {
  const { machine, interpreter, needed } = readElf(node, "node");
  t.equal(machine, 62);
  t.equal(interpreter, "/lib64/ld-linux-x86-64.so.2");
  const expected =
    "libdl.so.2 libstdc++.so.6 libm.so.6 libgcc_s.so.1 libpthread.so.0 libc.so.6 ld-linux-x86-64.so.2";
  t.same(needed, expected.split(" "));
  t.end();
});

t.test("patchInterpreter changes the interpreter and nothing else", (t) => {
  const copy = Buffer.from(node);
  patchInterpreter(copy, "/usr/lib/gimbal/ld.so", "node");
  t.equal(readElf(copy, "node").interpreter, "/usr/lib/gimbal/ld.so");
  let changed = 0;
  for (let at = 0; at < copy.length; at++) if (copy[at] !== node[at]) changed++;
  t.ok(changed > 0 && changed < 28, `${changed} octets`);
  t.end();
});
