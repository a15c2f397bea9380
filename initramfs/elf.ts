/**
 * What the build needs of ELF (System V ABI, chapters 4 and 5; 64-bit little-endian only): which interpreter and which
 * libraries a file asks for, and the interpreter's path changed in place. Left out: sections, symbols, relocations.
 */
import { GimbalError } from "../init/errors.ts";

export type Elf = {
  /** 62 = x86-64, 183 = AArch64 */
  readonly machine: number;
  /** Path of the dynamic loader (PT_INTERP); absent in libraries and static programs. */
  readonly interpreter: string | undefined;
  /** DT_NEEDED, in order. */
  readonly needed: readonly string[];
  readonly soname: string | undefined;
};

const ptLoad = 1;
const ptDynamic = 2;
const ptInterp = 3;
const dtNull = 0n;
const dtNeeded = 1n;
const dtStrtab = 5n;
const dtSoname = 14n;

type Segment = {
  readonly type: number;
  readonly offset: number;
  readonly address: bigint;
  readonly sizeBytes: number;
};

export function isElf(bytes: Uint8Array): boolean {
  return (
    bytes.length >= 64 && bytes[0] === 0x7f && bytes[1] === 0x45 && bytes[2] === 0x4c && bytes[3] === 0x46
  );
}

/** @param name for the sentence of a refusal. @throws GimbalError "build-failed" for anything but 64-bit little-endian ELF */
export function readElf(bytes: Buffer, name: string): Elf {
  const segments = readSegments(bytes, name);
  const interp = segments.find(({ type }) => type === ptInterp);
  const dynamic = segments.find(({ type }) => type === ptDynamic);
  const entries = dynamic === undefined ? [] : readDynamic(bytes, dynamic);
  const table = entries.find(({ tag }) => tag === dtStrtab);
  const names = table === undefined ? 0 : offsetOf(segments, table.value, name);
  const textsOf = (wanted: bigint) =>
    entries.filter(({ tag }) => tag === wanted).map(({ value }) => textAt(bytes, names + Number(value)));
  return {
    machine: bytes.readUInt16LE(18),
    interpreter: interp === undefined ? undefined : textAt(bytes, interp.offset),
    needed: textsOf(dtNeeded),
    soname: textsOf(dtSoname)[0],
  };
}

/** Writes another interpreter path over the one in `bytes`. @throws GimbalError "build-failed" when it is longer */
export function patchInterpreter(bytes: Buffer, path: string, name: string): void {
  const interp = readSegments(bytes, name).find(({ type }) => type === ptInterp);
  if (interp === undefined || path.length >= interp.sizeBytes) {
    throw refused(
      name,
      interp === undefined ? "it names no interpreter" : `${path} does not fit in its place`,
    );
  }
  bytes.fill(0, interp.offset, interp.offset + interp.sizeBytes);
  bytes.write(path, interp.offset, "latin1");
}

function readSegments(bytes: Buffer, name: string): Segment[] {
  if (!isElf(bytes) || bytes[4] !== 2 || bytes[5] !== 1)
    throw refused(name, "it is no 64-bit little-endian ELF file");
  const start = Number(bytes.readBigUInt64LE(32));
  const [entryBytes, count] = [bytes.readUInt16LE(54), bytes.readUInt16LE(56)];
  return Array.from({ length: count }, (_, index) => {
    const at = start + index * entryBytes;
    return {
      type: bytes.readUInt32LE(at),
      offset: Number(bytes.readBigUInt64LE(at + 8)),
      address: bytes.readBigUInt64LE(at + 16),
      sizeBytes: Number(bytes.readBigUInt64LE(at + 32)),
    };
  });
}

function readDynamic(bytes: Buffer, { offset, sizeBytes }: Segment): { tag: bigint; value: bigint }[] {
  const entries: { tag: bigint; value: bigint }[] = [];
  for (let at = offset; at + 16 <= offset + sizeBytes; at += 16) {
    const tag = bytes.readBigUInt64LE(at);
    if (tag === dtNull) break;
    entries.push({ tag, value: bytes.readBigUInt64LE(at + 8) });
  }
  return entries;
}

function offsetOf(segments: readonly Segment[], address: bigint, name: string): number {
  const load = segments.find(
    (each) =>
      each.type === ptLoad && address >= each.address && address < each.address + BigInt(each.sizeBytes),
  );
  if (load === undefined) throw refused(name, "its string table lies outside every segment");
  return load.offset + Number(address - load.address);
}

function textAt(bytes: Buffer, offset: number): string {
  return bytes.toString("latin1", offset, bytes.indexOf(0, offset));
}

function refused(name: string, why: string): GimbalError {
  return new GimbalError("build-failed", { tried: "read", on: name, why });
}
