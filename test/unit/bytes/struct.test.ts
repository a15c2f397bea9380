import { isDeepStrictEqual } from "node:util";
import fc from "fast-check";
import t from "tap";
import {
  type Codec,
  constant,
  decode,
  decodeFirst,
  encode,
  fixed,
  flag,
  list,
  named,
  sized,
  sizedOne,
  struct,
  tagged,
  u8,
  u16,
  u32,
  u64,
} from "../../../init/bytes/struct.ts";

const octets = (hex: string) => new Uint8Array(Buffer.from(hex, "hex"));
const reasonOf = (codec: Codec<unknown>, hex: string) => {
  const decoded = decode(codec, octets(hex));
  return decoded.is === "refused" ? `${decoded.offset}: ${decoded.reason}` : "accepted";
};

/** Without the classes that tell a view of one buffer from another. */
const plain = (value: unknown): unknown =>
  value instanceof Uint8Array
    ? Buffer.from(value).toString("hex")
    : Array.isArray(value)
      ? value.map(plain)
      : typeof value === "object" && value !== null
        ? Object.entries(value)
            .map(([name, field]) => [name, plain(field)])
            .sort()
        : value;

const shape = tagged(u16, {
  point: { tag: 1, body: struct({ x: sized(u16, 8), y: sized(u16, 8) }) },
  counts: { tag: 2, body: struct({ small: u8, numbers: list(u32, 5), big: u64 }) },
  nested: {
    tag: 3,
    body: struct({
      inner: sizedOne(u16, struct({ yes: flag, four: fixed(4) }), 16),
      colour: named(u8, { red: 1, blue: 2 }),
    }),
  },
});

const buffer = (max: number) => fc.uint8Array({ maxLength: max });
const anyShape = fc.oneof(
  fc.record({ is: fc.constant("point" as const), x: buffer(8), y: buffer(8) }),
  fc.record({
    is: fc.constant("counts" as const),
    small: fc.nat(255),
    numbers: fc.array(fc.nat(0xffff_ffff), { maxLength: 5 }),
    big: fc.bigInt(0n, 2n ** 64n - 1n),
  }),
  fc.record({
    is: fc.constant("nested" as const),
    inner: fc.record({ yes: fc.boolean(), four: fc.uint8Array({ minLength: 4, maxLength: 4 }) }),
    colour: fc.constantFrom("red" as const, "blue" as const),
  }),
);

t.test("decode refuses octets left over", (t) => {
  t.equal(reasonOf(u8, "0102"), "1: 1 octets left over");
  t.equal(reasonOf(sizedOne(u16, u8, 8), "00020102"), "4: 1 octets left over in a sized structure");
  t.end();
});

t.test("decode refuses what exceeds a maximum, before it looks at the content", (t) => {
  t.equal(reasonOf(sized(u16, 4), "0005"), "2: 5 octets where at most 4 fit");
  t.equal(reasonOf(list(u8, 2), "ffffffff"), "4: 4294967295 items where at most 2 fit");
  t.equal(reasonOf(sized(u32, 0xffff_ffff), "ffffffff00"), "4: needs 4294967295 octets, has 1");
  t.end();
});

t.test("decode refuses unknown tags, names, constants and flags", (t) => {
  t.equal(reasonOf(shape, "0009"), "2: unknown tag 9");
  t.equal(reasonOf(named(u8, { one: 1 }), "02"), "1: unknown number 2");
  t.equal(reasonOf(constant(u32, 7), "00000008"), "4: 8 instead of 7");
  t.equal(reasonOf(flag, "02"), "1: 2 is neither 0 nor 1");
  t.end();
});

t.test("encode throws a RangeError for a value that does not fit", (t) => {
  t.throws(() => encode(u8, 256), RangeError);
  t.throws(() => encode(u16, -1), RangeError);
  t.throws(() => encode(u32, 1.5), RangeError);
  t.throws(() => encode(u64, 2n ** 64n), RangeError);
  t.throws(() => encode(sized(u16, 2), octets("010203")), RangeError);
  t.throws(() => encode(list(u8, 1), [1, 2]), RangeError);
  t.throws(() => encode(fixed(2), octets("01")), RangeError);
  t.throws(() => encode(sized(u16, 300), new Uint8Array(300), 256), RangeError);
  t.end();
});

t.test("what encode wrote, decode reads back; cut at any octet it is refused", (t) => {
  fc.assert(
    fc.property(anyShape, (value) => {
      const written = encode(shape, value);
      const back = decode(shape, written);
      if (!isDeepStrictEqual(plain(back), plain({ is: "value", value }))) return false;
      for (let length = 0; length < written.length; length++) {
        if (decode(shape, written.subarray(0, length)).is !== "refused") return false;
      }
      return true;
    }),
    { numRuns: 500 },
  );
  t.end();
});

t.test("decode never throws, and what it accepts encodes to the same octets", (t) => {
  let accepted = 0;
  fc.assert(
    fc.property(fc.nat(4), fc.array(fc.nat(2), { maxLength: 40 }), (tag, body) => {
      const input = new Uint8Array([0, tag, ...body]);
      const first = decodeFirst(shape, input);
      if (first.is === "refused") return true;
      accepted++;
      return Buffer.from(encode(shape, first.value)).equals(
        input.subarray(0, input.length - first.rest.length),
      );
    }),
    { numRuns: 5000 },
  );
  t.ok(accepted > 10, `${accepted} accepted`);
  t.end();
});

t.test("numbers are big-endian", (t) => {
  t.same(encode(u16, 0x0102), octets("0102"));
  t.same(encode(u32, 0x01020304), octets("01020304"));
  t.same(encode(u64, 0x0102030405060708n), octets("0102030405060708"));
  t.end();
});
