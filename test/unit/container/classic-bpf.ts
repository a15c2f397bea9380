/** An interpreter of classic BPF for tests, written from bpf(4) and independent of the compiler. */

export type SeccompData = { nr: number; arch: number; args?: readonly bigint[] };

export function runFilter(filter: Uint8Array, { nr, arch, args = [] }: SeccompData): number {
  const data = new DataView(new ArrayBuffer(64));
  data.setUint32(0, nr >>> 0, true);
  data.setUint32(4, arch, true);
  args.forEach((value, index) => {
    data.setBigUint64(16 + 8 * index, BigInt.asUintN(64, value), true);
  });
  const view = new DataView(filter.buffer, filter.byteOffset, filter.byteLength);
  let accumulator = 0;
  for (let pc = 0, steps = 0; steps < 4096; steps++) {
    if (pc * 8 >= filter.byteLength) throw new Error(`ran off the end at ${pc}`);
    const code = view.getUint16(pc * 8, true);
    const [jt, jf, k] = [
      view.getUint8(pc * 8 + 2),
      view.getUint8(pc * 8 + 3),
      view.getUint32(pc * 8 + 4, true),
    ];
    pc++;
    switch (code) {
      case 0x20:
        if (k > 60 || k % 4 !== 0) throw new Error(`load at ${k}`);
        accumulator = data.getUint32(k, true);
        break;
      case 0x54:
        accumulator = (accumulator & k) >>> 0;
        break;
      case 0x15:
        pc += accumulator === k ? jt : jf;
        break;
      case 0x35:
        pc += accumulator >= k ? jt : jf;
        break;
      case 0x25:
        pc += accumulator > k ? jt : jf;
        break;
      case 0x45:
        pc += (accumulator & k) !== 0 ? jt : jf;
        break;
      case 0x05:
        pc += k;
        break;
      case 0x06:
        return k;
      default:
        throw new Error(`code 0x${code.toString(16)}`);
    }
  }
  throw new Error("no end");
}
