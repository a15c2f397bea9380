/**
 * Which device nodes a guest may open: rules like "c 1:3 rwm", a BPF program on its cgroup that enforces them
 * (default: no), and the nodes of its /dev. mknod is refused in a user namespace, so the nodes are made by PID 1.
 */
import { GimbalError, quoted } from "../errors.ts";

export type DeviceRule = {
  readonly type: "c" | "b";
  readonly major: number | "*";
  readonly minor: number | "*";
  /** Bits of linux/bpf.h BPF_DEVCG_ACC_*: mknod 1, read 2, write 4. */
  readonly access: number;
};

const accessBit = { m: 1, r: 2, w: 4 } as const;
const everyAccess = 7;

/** "c 10:200 rw", "b 8:* r", "c 136:*" (no letters: all). Numbers as the kernel has them: major 12 bits, minor 20. */
export function parseDeviceRule(text: string): DeviceRule {
  const match = /^([cb]) (\d{1,4}|\*):(\d{1,7}|\*)(?: ([rwm]{1,3}))?$/.exec(text);
  const [, type, major, minor, letters] = match ?? [];
  const numberOf = (part: string | undefined, max: number) => {
    const value = part === "*" ? ("*" as const) : Number(part);
    return value === "*" || value <= max ? value : undefined;
  };
  const rule = { major: numberOf(major, 4095), minor: numberOf(minor, 1_048_575) };
  if (!match || rule.major === undefined || rule.minor === undefined) {
    throw new GimbalError("bad-argument", {
      tried: "read the device rule",
      on: quoted(text),
      why: 'it is not of the form "c 1:3 rwm" (type c or b, major:minor with * for any, access out of r, w, m)',
    });
  }
  const access =
    letters === undefined ? everyAccess : [...letters].reduce((bits, letter) => bits | bitOf(letter), 0);
  return { type: type === "b" ? "b" : "c", major: rule.major, minor: rule.minor, access };
}

function bitOf(letter: string): number {
  return letter === "r" || letter === "w" || letter === "m" ? accessBit[letter] : 0;
}

/** One of a guest's default nodes: harmless, and no system works without them. */
export type DeviceNode = {
  readonly name: string;
  readonly type: "c" | "b";
  readonly major: number;
  readonly minor: number;
  readonly mode: number;
};

export const defaultNodes: readonly DeviceNode[] = [
  { name: "null", type: "c", major: 1, minor: 3, mode: 0o666 },
  { name: "zero", type: "c", major: 1, minor: 5, mode: 0o666 },
  { name: "full", type: "c", major: 1, minor: 7, mode: 0o666 },
  { name: "random", type: "c", major: 1, minor: 8, mode: 0o666 },
  { name: "urandom", type: "c", major: 1, minor: 9, mode: 0o666 },
  { name: "tty", type: "c", major: 5, minor: 0, mode: 0o666 },
];

/** The nodes above, and pseudo terminals: ptmx and what it makes. */
export const defaultRules: readonly DeviceRule[] = [
  ...defaultNodes.map(({ type, major, minor }) => ({ type, major, minor, access: everyAccess })),
  { type: "c", major: 5, minor: 2, access: everyAccess },
  { type: "c", major: 136, minor: "*", access: everyAccess },
];

/** Rules that say the same or less than another are left out: the verifier's time grows with the square. */
export function mergeRules(rules: readonly DeviceRule[]): DeviceRule[] {
  const byDevice = new Map<string, DeviceRule>();
  for (const rule of rules) {
    const key = `${rule.type} ${rule.major}:${rule.minor}`;
    byDevice.set(key, { ...rule, access: rule.access | (byDevice.get(key)?.access ?? 0) });
  }
  const merged = [...byDevice.values()].filter((rule) => rule.access !== 0);
  return merged.filter((rule) => !merged.some((other) => other !== rule && covers(other, rule)));
}

function covers(wide: DeviceRule, narrow: DeviceRule): boolean {
  return (
    wide.type === narrow.type &&
    (wide.major === "*" || wide.major === narrow.major) &&
    (wide.minor === "*" || wide.minor === narrow.minor) &&
    (wide.access & narrow.access) === narrow.access
  );
}

/** Several rules may each allow a part of an access ("r" by one, "w" by another); the program asks each alone. */
export function allows(
  rules: readonly DeviceRule[],
  type: "c" | "b",
  major: number,
  minor: number,
  access: number,
) {
  return rules.some((rule) => covers(rule, { type, major, minor, access }));
}

/**
 * The program for BPF_CGROUP_DEVICE (bpf(2), struct bpf_cgroup_dev_ctx {u32 access_type, major, minor}): 1 lets the
 * access pass, 0 makes it EPERM. access_type holds the type (1 block, 2 char) below and the access above 16 bits.
 * @returns struct bpf_insn[], little-endian
 */
export function compileDeviceProgram(rules: readonly DeviceRule[]): Uint8Array {
  const program: number[][] = [
    insn(0x61, 2, 1, 0), // r2 = access_type
    insn(0x54, 2, 0, 0, 0xffff), // w2 &= 0xffff: the type
    insn(0x61, 3, 1, 0), // r3 = access_type
    insn(0x74, 3, 0, 0, 16), // w3 >>= 16: the access
    insn(0x61, 4, 1, 4), // r4 = major
    insn(0x61, 5, 1, 8), // r5 = minor
  ];
  for (const rule of mergeRules(rules)) program.push(...ruleCode(rule));
  program.push(insn(0xb7, 0, 0, 0, 0), insn(0x95, 0, 0, 0)); // r0 = 0; exit
  return Uint8Array.from(program.flat());
}

function ruleCode(rule: DeviceRule): number[][] {
  const yes = [insn(0xb7, 0, 0, 0, 1), insn(0x95, 0, 0, 0)]; // r0 = 1; exit
  let body = yes;
  const skipUnless = (register: number, value: number) => {
    body = [insn(0x55, register, 0, body.length, value), ...body]; // if (register != value) skip the rest
  };
  if (rule.minor !== "*") skipUnless(5, rule.minor);
  if (rule.major !== "*") skipUnless(4, rule.major);
  if (rule.access !== everyAccess) {
    const only = insn(0x54, 1, 0, 0, rule.access); // w1 &= access
    body = [insn(0xbc, 1, 3, 0), only, insn(0x5d, 1, 3, body.length), ...body]; // w1 = w3; ...; if (r1 != r3) skip
  }
  skipUnless(2, rule.type === "b" ? 1 : 2);
  return body;
}

/** One struct bpf_insn {u8 code; u8 dst:4, src:4; s16 off; s32 imm}. */
function insn(code: number, dst: number, src: number, offset: number, immediate = 0): number[] {
  const bytes = new Uint8Array(8);
  const view = new DataView(bytes.buffer);
  bytes[0] = code;
  bytes[1] = dst | (src << 4);
  view.setInt16(2, offset, true);
  view.setInt32(4, immediate, true);
  return [...bytes];
}
