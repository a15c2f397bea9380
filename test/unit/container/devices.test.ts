import t from "tap";
import {
  allows,
  compileDeviceProgram,
  type DeviceRule,
  defaultRules,
  mergeRules,
  parseDeviceRule,
} from "../../../init/container/devices.ts";

/** The few instructions that the program uses, from the kernel's instruction set document. */
function runProgram(
  program: Uint8Array,
  type: "c" | "b",
  major: number,
  minor: number,
  access: number,
): number {
  const context = [(access << 16) | (type === "b" ? 1 : 2), major, minor];
  const registers: number[] = new Array(11).fill(0);
  const view = new DataView(program.buffer, program.byteOffset, program.byteLength);
  for (let pc = 0, steps = 0; steps < 10_000; steps++) {
    const [code, both] = [view.getUint8(pc * 8), view.getUint8(pc * 8 + 1)];
    const [offset, immediate] = [view.getInt16(pc * 8 + 2, true), view.getInt32(pc * 8 + 4, true)];
    const [dst, src] = [both & 15, both >> 4];
    const [a = 0, b = 0] = [registers[dst], registers[src]];
    pc++;
    switch (code) {
      case 0x61:
        if (src !== 1) throw new Error("a load from elsewhere");
        registers[dst] = context[offset / 4] ?? Number.NaN;
        break;
      case 0x54:
        registers[dst] = (a & immediate) >>> 0;
        break;
      case 0x74:
        registers[dst] = a >>> immediate;
        break;
      case 0xb7:
        registers[dst] = immediate;
        break;
      case 0xbc:
        registers[dst] = b >>> 0;
        break;
      case 0x55:
        if (a !== immediate) pc += offset;
        break;
      case 0x5d:
        if (a !== b) pc += offset;
        break;
      case 0x95:
        return registers[0] ?? Number.NaN;
      default:
        throw new Error(`code 0x${code.toString(16)}`);
    }
  }
  throw new Error("no end");
}

t.test("a rule of another form is refused", (t) => {
  for (const text of [
    "",
    "c",
    "a 1:3 rwm",
    "c 1:3 x",
    "c 1:3 rwmr",
    "c 1 rwm",
    "c -1:3 r",
    "c 4096:0 r",
    "c 1:1048576 r",
  ]) {
    t.throws(() => parseDeviceRule(text), { code: "bad-argument" }, JSON.stringify(text));
  }
  for (const text of ["c 1:3  r", " c 1:3 r", "c 1:3 r\n", "c 1:3 ", "c 0x1:3 r", "c **:1 r"]) {
    t.throws(() => parseDeviceRule(text), { code: "bad-argument" }, JSON.stringify(text));
  }
  t.end();
});

t.test("a rule is read as it stands", (t) => {
  t.same(parseDeviceRule("c 1:3 rwm"), { type: "c", major: 1, minor: 3, access: 7 });
  t.same(parseDeviceRule("b 8:* r"), { type: "b", major: 8, minor: "*", access: 2 });
  t.same(parseDeviceRule("c *:* w"), { type: "c", major: "*", minor: "*", access: 4 });
  t.same(parseDeviceRule("c 136:*"), { type: "c", major: 136, minor: "*", access: 7 }, "no letters: all");
  t.same(parseDeviceRule("c 1:3 mr").access, 3);
  t.end();
});

t.test("the program says what the rules say, for every access", (t) => {
  const rules = [
    ...defaultRules,
    ...["b 8:* r", "c 10:200 rw", "c 10:201 w", "b *:7 m", "c 10:200 m"].map(parseDeviceRule),
  ];
  const program = compileDeviceProgram(rules);
  let allowed = 0;
  for (const type of ["c", "b"] as const) {
    for (const major of [0, 1, 5, 8, 10, 136, 254]) {
      for (const minor of [0, 1, 2, 3, 7, 8, 200, 201, 1000]) {
        for (let access = 1; access < 8; access++) {
          const wanted = allows(mergeRules(rules), type, major, minor, access) ? 1 : 0;
          allowed += wanted;
          if (runProgram(program, type, major, minor, access) !== wanted) {
            t.fail(`${type} ${major}:${minor} ${access}`);
          }
        }
      }
    }
  }
  t.ok(allowed > 50, `${allowed} of them allowed`);
  t.equal(runProgram(compileDeviceProgram([]), "c", 1, 3, 2), 0, "no rules: nothing");
  t.end();
});

t.test("what another rule already says is left out, and accesses to one device are joined", (t) => {
  const merge = (...texts: string[]) => mergeRules(texts.map(parseDeviceRule));
  t.same(merge("c 1:3 r", "c 1:3 w"), [{ type: "c", major: 1, minor: 3, access: 6 }]);
  t.same(merge("c 1:3 r", "c 1:* rwm"), [{ type: "c", major: 1, minor: "*", access: 7 }]);
  t.equal(merge("c 1:3 rw", "c 1:* r").length, 2, "the wide one allows less");
  t.equal(merge("c 1:3 r", "b 1:* rwm").length, 2);
  const none: DeviceRule = { type: "c", major: 1, minor: 3, access: 0 };
  t.same(mergeRules([none]), [], "no access is no rule");
  t.end();
});
