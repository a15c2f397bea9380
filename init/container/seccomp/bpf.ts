/**
 * Classic BPF as seccomp takes it: bpf(4) instructions over struct seccomp_data {i32 nr; u32 arch; u64 ip; u64 args[6]}.
 * Pieces of program are arrays; every jump in a piece stays in it or goes to the instruction right behind it, so
 * pieces can be joined by concatenation.
 */

/** One struct sock_filter. `jt` and `jf` count instructions from the next one. */
export type Instruction = {
  readonly code: number;
  readonly jt: number;
  readonly jf: number;
  readonly k: number;
};

export const code = {
  loadWord: 0x20,
  and: 0x54,
  jumpEqual: 0x15,
  jumpAtLeast: 0x35,
  jump: 0x05,
  answer: 0x06,
} as const;

/** Offsets in struct seccomp_data, little-endian machines. */
export const dataAt = { number: 0, arch: 4, argument: (index: number) => 16 + 8 * index } as const;

export const loadWord = (offset: number): Instruction => ({ code: code.loadWord, jt: 0, jf: 0, k: offset });
export const andWith = (k: number): Instruction => ({ code: code.and, jt: 0, jf: 0, k });
export const answerWith = (k: number): Instruction => ({ code: code.answer, jt: 0, jf: 0, k });

/**
 * `if (A <op> k) yes else no`. Each branch must end the program on all its paths. A conditional jump reaches 255
 * instructions, so a longer first branch is stepped over by an unconditional one.
 */
export function branch(
  op: "jumpEqual" | "jumpAtLeast",
  k: number,
  yes: readonly Instruction[],
  no: readonly Instruction[],
): Instruction[] {
  if (no.length <= 255) return [{ code: code[op], jt: no.length, jf: 0, k }, ...no, ...yes];
  const over: Instruction = { code: code.jump, jt: 0, jf: 0, k: no.length };
  return [{ code: code[op], jt: 0, jf: 1, k }, over, ...no, ...yes];
}

/** The kernel's limit, BPF_MAXINSNS. */
export const maxInstructions = 4096;

/** struct sock_filter[], little-endian. */
export function encode(program: readonly Instruction[]): Uint8Array {
  const bytes = new Uint8Array(program.length * 8);
  const view = new DataView(bytes.buffer);
  program.forEach(({ code, jt, jf, k }, index) => {
    view.setUint16(index * 8, code, true);
    view.setUint8(index * 8 + 2, jt);
    view.setUint8(index * 8 + 3, jf);
    view.setUint32(index * 8 + 4, k, true);
  });
  return bytes;
}
