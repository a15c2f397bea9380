/**
 * The start plan: typed operations that the shim (addon/shim) carries out, in order, in the new process. What needs a
 * descriptor names it by slot, the index in the list given to `clone`. Paths are resolved with the working directory as
 * root (openat2 RESOLVE_IN_ROOT): "/" before `chdir`, the guest's root after it. The octets are those of addon/plan.h.
 */

export type PlanOp =
  /** setsid(2) */
  | { readonly op: "setsid" }
  /** setgroups, setresgid, setresuid: ids inside the user namespace */
  | { readonly op: "ids"; readonly uid: number; readonly gid: number; readonly groups: readonly number[] }
  /** dup2(2) of a slot to 0, 1 or 2 */
  | { readonly op: "stdio"; readonly slot: number; readonly to: 0 | 1 | 2 }
  /** Opens a terminal of the guest's own /dev as 0, 1 and 2 */
  | { readonly op: "openStdio"; readonly path: string }
  /** TIOCSCTTY on descriptor 0; after setsid */
  | { readonly op: "controllingTty" }
  | { readonly op: "umask"; readonly mask: number }
  | { readonly op: "rlimit"; readonly resource: number; readonly soft: bigint; readonly hard: bigint }
  /** mount(2) that only changes propagation: MS_SLAVE | MS_REC */
  | { readonly op: "propagation"; readonly path: string; readonly flags: number }
  /** move_mount(2) of the detached mount in a slot */
  | { readonly op: "moveMount"; readonly slot: number; readonly path: string }
  /** fsopen to move_mount. Option values must hold no comma. */
  | {
      readonly op: "mountFs";
      readonly fsType: string;
      readonly path: string;
      readonly options: readonly (readonly [key: string] | readonly [key: string, value: string])[];
      readonly attributes: number;
    }
  | { readonly op: "mkdir"; readonly path: string; readonly mode: number; readonly mayExist?: boolean }
  | { readonly op: "symlink"; readonly target: string; readonly path: string }
  /** A new file with these octets (O_CREAT | O_EXCL); an empty one is what a file bind needs. */
  | { readonly op: "file"; readonly path: string; readonly content: Uint8Array; readonly mode: number }
  /** open_tree clone of one path onto another. `mayBeMissing`: nothing is done where the source or the target is absent. */
  | {
      readonly op: "bind";
      readonly source: string;
      readonly path: string;
      readonly attributes: number;
      readonly mayBeMissing?: boolean;
      readonly recursive?: boolean;
    }
  /** mount_setattr(2) of what is mounted at a path */
  | { readonly op: "remount"; readonly path: string; readonly attributes: number }
  | { readonly op: "chdir"; readonly path: string }
  /** pivot_root(".", "."), umount2(".", MNT_DETACH), chdir("/") */
  | { readonly op: "pivot" }
  | { readonly op: "hostname"; readonly name: string }
  /** close_range(3, ~0, CLOSE_RANGE_CLOEXEC) */
  | { readonly op: "closeOnExec" }
  /** PR_CAPBSET_DROP of every capability that is not in `keep` */
  | { readonly op: "boundingSet"; readonly keep: bigint }
  /** capset(2), and the ambient set is cleared */
  | { readonly op: "capabilities"; readonly permitted: bigint; readonly inheritable: bigint }
  | { readonly op: "noNewPrivs" }
  /** `filter` is an array of struct sock_filter */
  | { readonly op: "seccomp"; readonly filter: Uint8Array }
  /** setns(2); a slot with a pidfd takes CLONE_NEW* bits */
  | { readonly op: "setns"; readonly slot: number; readonly namespaces: number }
  /** Goes on in a new process that is a child of the shim's parent; its pid is reported. Needed after setns of a pid namespace. */
  | { readonly op: "fork" }
  /** KEYCTL_JOIN_SESSION_KEYRING: a new, empty one */
  | { readonly op: "sessionKeyring" }
  /** landlock_restrict_self with scopes only: LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET 1, LANDLOCK_SCOPE_SIGNAL 2 */
  | { readonly op: "landlockScope"; readonly scopes: number }
  /** /proc/self/oom_score_adj, 0 to 1000; while a /proc of the first pid namespace is there */
  | { readonly op: "oomScore"; readonly value: number }
  /** Signals to default and unblocked, nice 0, SCHED_OTHER, personality 0 */
  | { readonly op: "reset" }
  /** execve(2); a path without "/" is looked up in the PATH of `env`. Always the last. */
  | {
      readonly op: "exec";
      readonly path: string;
      readonly argv: readonly string[];
      readonly env: readonly string[];
    };

export type Plan = readonly PlanOp[];

/** Values of enum PlanOpCode in addon/plan.h. */
const codes: Record<PlanOp["op"], number> = {
  setsid: 1,
  ids: 2,
  stdio: 3,
  controllingTty: 4,
  umask: 5,
  rlimit: 6,
  propagation: 7,
  moveMount: 8,
  mountFs: 9,
  mkdir: 10,
  symlink: 11,
  file: 12,
  bind: 13,
  chdir: 14,
  pivot: 15,
  hostname: 16,
  closeOnExec: 17,
  boundingSet: 18,
  capabilities: 19,
  noNewPrivs: 20,
  seccomp: 21,
  setns: 22,
  fork: 23,
  exec: 24,
  sessionKeyring: 25,
  landlockScope: 26,
  reset: 27,
  remount: 28,
  openStdio: 29,
  oomScore: 30,
};

const magic = 0x316e6c70;
const headerBytes = 8;
const opBytes = 40;
const noString = 0xffffffff;
const encoder = new TextEncoder();

/** The string area: each entry ends with NUL, equal texts share a place. */
class Strings {
  #chunks: Uint8Array[] = [];
  #length = 0;
  #known = new Map<string, number>();

  text(value: string): number {
    const known = this.#known.get(value);
    if (known !== undefined) return known;
    if (value.includes("\0")) throw new TypeError("a text of a plan holds NUL");
    const at = this.data(encoder.encode(value));
    this.#known.set(value, at);
    return at;
  }

  /** Texts one after the other, as argv and envp want them. */
  list(values: readonly string[]): number {
    if (values.some((value) => value.includes("\0"))) throw new TypeError("a text of a plan holds NUL");
    return this.data(encoder.encode(values.map((value) => `${value}\0`).join("")));
  }

  /** Raw octets, aligned to 8: seccomp filters are read in place. */
  data(octets: Uint8Array): number {
    const at = this.#length;
    const padded = new Uint8Array((octets.length + 8) & ~7);
    padded.set(octets);
    this.#chunks.push(padded);
    this.#length += padded.length;
    return at;
  }

  joined(): Uint8Array {
    return Buffer.concat(this.#chunks);
  }
}

type Fields = {
  slot?: number;
  str0?: number;
  str1?: number;
  str2?: number;
  length?: number;
  a?: bigint;
  b?: bigint;
};

/**
 * Encodes a plan for `clone`. Throws TypeError on a text with NUL, an option with a comma,
 * a number that does not fit, or a plan not ending in exec.
 */
export function encodePlan(plan: Plan): Uint8Array {
  if (plan.at(-1)?.op !== "exec") throw new TypeError("a plan ends with exec");
  const strings = new Strings();
  const records = new DataView(new ArrayBuffer(headerBytes + plan.length * opBytes));
  records.setUint32(0, magic, true);
  records.setUint32(4, plan.length, true);
  for (const [index, op] of plan.entries()) {
    const {
      slot = -1,
      str0 = noString,
      str1 = noString,
      str2 = noString,
      length = 0,
      a = 0n,
      b = 0n,
    } = fields(op, strings);
    const at = headerBytes + index * opBytes;
    records.setUint32(at, codes[op.op], true);
    records.setInt32(at + 4, slot, true);
    records.setUint32(at + 8, str0, true);
    records.setUint32(at + 12, str1, true);
    records.setUint32(at + 16, str2, true);
    records.setUint32(at + 20, length, true);
    records.setBigUint64(at + 24, a, true);
    records.setBigUint64(at + 32, b, true);
  }
  return Buffer.concat([new Uint8Array(records.buffer), strings.joined()]);
}

function fields(op: PlanOp, strings: Strings): Fields {
  switch (op.op) {
    case "setsid":
    case "controllingTty":
    case "pivot":
    case "closeOnExec":
    case "noNewPrivs":
    case "fork":
    case "sessionKeyring":
    case "reset":
      return {};
    case "ids": {
      const groups = new Uint8Array(Uint32Array.from(op.groups, whole).buffer);
      return {
        a: BigInt(whole(op.uid)),
        b: BigInt(whole(op.gid)),
        str1: strings.data(groups),
        length: groups.length,
      };
    }
    case "stdio":
      return { slot: wholeSlot(op.slot), a: BigInt(whole(op.to)) };
    case "umask":
      return { a: BigInt(whole(op.mask)) };
    case "oomScore":
      return { a: BigInt(whole(op.value)) };
    case "rlimit":
      return { length: whole(op.resource), a: whole64(op.soft), b: whole64(op.hard) };
    case "propagation":
      return { str0: strings.text(op.path), a: BigInt(whole(op.flags)) };
    case "moveMount":
      return { slot: wholeSlot(op.slot), str0: strings.text(op.path) };
    case "mountFs":
      return {
        str0: strings.text(op.fsType),
        str1: strings.text(op.path),
        str2: strings.text(optionText(op.options)),
        a: BigInt(whole(op.attributes)),
      };
    case "mkdir":
      return { str0: strings.text(op.path), a: BigInt(whole(op.mode)), b: op.mayExist ? 1n : 0n };
    case "symlink":
      return { str0: strings.text(op.target), str1: strings.text(op.path) };
    case "file":
      return {
        str0: strings.text(op.path),
        str1: strings.data(op.content),
        length: op.content.length,
        a: BigInt(whole(op.mode)),
      };
    case "bind":
      return {
        str0: strings.text(op.source),
        str1: strings.text(op.path),
        a: BigInt(whole(op.attributes)),
        b: (op.mayBeMissing ? 1n : 0n) | (op.recursive ? 2n : 0n),
      };
    case "remount":
      return { str0: strings.text(op.path), a: BigInt(whole(op.attributes)) };
    case "chdir":
    case "openStdio":
      return { str0: strings.text(op.path) };
    case "hostname":
      return { str0: strings.text(op.name) };
    case "boundingSet":
      return { a: whole64(op.keep) };
    case "capabilities":
      return { a: whole64(op.permitted), b: whole64(op.inheritable) };
    case "seccomp":
      return { str1: strings.data(op.filter), length: op.filter.length };
    case "setns":
      return { slot: wholeSlot(op.slot), a: BigInt(whole(op.namespaces)) };
    case "landlockScope":
      return { a: BigInt(whole(op.scopes)) };
    case "exec":
      return {
        str0: strings.text(op.path),
        str1: strings.list(op.argv),
        length: op.argv.length,
        str2: strings.list(op.env),
        a: BigInt(whole(op.env.length)),
      };
    default:
      return op satisfies never;
  }
}

/** A number that fits: DataView would cut it silently. */
function whole(value: number): number {
  if (!Number.isInteger(value) || value < 0 || value > 0xffffffff)
    throw new TypeError(`${value} does not fit into a plan`);
  return value;
}

function wholeSlot(value: number): number {
  if (whole(value) > 0x7fffffff) throw new TypeError(`${value} is no slot`);
  return value;
}

function whole64(value: bigint): bigint {
  if (BigInt.asUintN(64, value) !== value) throw new TypeError(`${value} does not fit into a plan`);
  return value;
}

function optionText(options: readonly (readonly [string] | readonly [string, string])[]): string {
  if (options.some((option) => option.some((part) => part.includes(",")))) {
    throw new TypeError("an option of a mount holds a comma");
  }
  return options.map((option) => option.join("=")).join(",");
}

/** How a person calls an operation, and on what: for the sentence of a failure. */
export function describeOp(op: PlanOp): { readonly tried: string; readonly on: string } {
  switch (op.op) {
    case "moveMount":
      return { tried: "mount", on: op.path };
    case "mountFs":
      return { tried: `mount ${op.fsType} on`, on: op.path };
    case "mkdir":
    case "file":
    case "symlink":
      return { tried: "make", on: op.path };
    case "bind":
      return { tried: `bind ${op.source} on`, on: op.path };
    case "remount":
      return { tried: "change the mount of", on: op.path };
    case "chdir":
      return { tried: "change to", on: op.path };
    case "openStdio":
      return { tried: "open", on: op.path };
    case "exec":
      return { tried: "run", on: op.path };
    case "stdio":
      return { tried: "set", on: `descriptor ${op.to}` };
    default:
      return { tried: "carry out", on: op.op };
  }
}
