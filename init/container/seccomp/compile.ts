/**
 * Profile -> seccomp filter. The ABI is checked first; then one binary search over ranges of numbers, since the
 * kernel walks the filter for each number at install time and a list of 300 compares costs four times as much.
 */
import assert from "node:assert/strict";
import {
  andWith,
  answerWith,
  branch,
  dataAt,
  encode,
  type Instruction,
  loadWord,
  maxInstructions,
} from "./bpf.ts";
import type { Answer, Profile, Rule } from "./profile.ts";
import { type Abi, numbersOf } from "./table.ts";

/** AUDIT_ARCH_*, linux/audit.h. */
const archOf: Record<Abi, number> = {
  x64: 0xc000003e,
  x86: 0x40000003,
  arm64: 0xc00000b7,
  arm: 0x40000028,
};

/** SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO | errno. The three numbers are the same in every ABI here. */
export const returnOf: Record<Answer, number> = {
  allow: 0x7fff0000,
  EPERM: 0x00050000 | 1,
  ENOSYS: 0x00050000 | 38,
  EAFNOSUPPORT: 0x00050000 | 97,
};

/**
 * The filter for a machine that runs `abis`, native one first. A call through any other ABI is ENOSYS, as is every
 * number that the table does not know; x32 numbers (from 0x40000000) are among those.
 * @returns struct sock_filter[], to be installed as it is
 */
export function compileFilter(profile: Profile, abis: readonly Abi[]): Uint8Array {
  let program: Instruction[] = [answerWith(returnOf.ENOSYS)];
  for (const abi of [...abis].reverse()) {
    const search = [loadWord(dataAt.number), ...searchTree(rangesOf(profile, abi))];
    // The native ABI's search comes right behind its compare: `no` is the short branch of the rarer ABIs.
    program = branch("jumpEqual", archOf[abi], search, program);
  }
  program = [loadWord(dataAt.arch), ...program];
  assert(program.length <= maxInstructions, `a filter of ${program.length} instructions`);
  return encode(program);
}

/** From `from` up to the next range. */
type Range = { readonly from: number; readonly verdict: Answer | Rule };

function rangesOf(profile: Profile, abi: Abi): Range[] {
  const byNumber = [...numbersOf(abi)].sort((a, b) => a[1] - b[1]);
  const ranges: Range[] = [];
  const add = (from: number, verdict: Answer | Rule) => {
    if (ranges.at(-1)?.verdict !== verdict) ranges.push({ from, verdict });
  };
  let next = 0;
  for (const [name, number] of byNumber) {
    if (number > next) add(next, "ENOSYS");
    add(number, profile.get(name) ?? "EPERM");
    next = number + 1;
  }
  add(next, "ENOSYS");
  return ranges;
}

function searchTree(ranges: readonly Range[]): Instruction[] {
  const [first] = ranges;
  assert(first, "a range");
  if (ranges.length === 1) return verdictOf(first.verdict);
  const middle = ranges.length >> 1;
  const pivot = ranges[middle];
  assert(pivot, "a pivot");
  return branch(
    "jumpAtLeast",
    pivot.from,
    searchTree(ranges.slice(middle)),
    searchTree(ranges.slice(0, middle)),
  );
}

function verdictOf(verdict: Answer | Rule): Instruction[] {
  if (typeof verdict === "string") return [answerWith(returnOf[verdict])];
  let program = [answerWith(returnOf[verdict.otherwise])];
  for (const { test, answer } of [...verdict.cases].reverse()) {
    const half = (shift: bigint) =>
      [test.mask >> shift, test.equals >> shift].map((n) => Number(n & 0xffffffffn));
    const compare = (at: number, [mask = 0, value = 0]: number[], yes: Instruction[], no: Instruction[]) => [
      loadWord(at),
      ...(mask === 0xffffffff ? [] : [andWith(mask)]),
      ...branch("jumpEqual", value, yes, no),
    ];
    const at = dataAt.argument(test.argument);
    const yes = [answerWith(returnOf[answer])];
    const low = compare(at, half(0n), yes, program);
    program = test.bits === 32 ? low : compare(at + 4, half(32n), low, program);
  }
  return program;
}
