import fc from "fast-check";
import t from "tap";
import { type CborValue, decodeCbor, encodeCbor } from "../../../init/bytes/cbor.ts";

const limits = { maxBytes: 1024 * 1024, maxDepth: 16, maxItems: 100_000 };
const hex = (text: string): Uint8Array => new Uint8Array(Buffer.from(text.replaceAll(" ", ""), "hex"));
const decode = (text: string) => decodeCbor(hex(text), limits);
const map = (...entries: [string | number, CborValue][]): CborValue => new Map(entries);

/** RFC 8949, Appendix A: the vectors that have a place here. */
const vectors: readonly (readonly [CborValue, string])[] = [
  [0, "00"],
  [1, "01"],
  [10, "0a"],
  [23, "17"],
  [24, "1818"],
  [25, "1819"],
  [100, "1864"],
  [1000, "1903e8"],
  [1_000_000, "1a000f4240"],
  [1_000_000_000_000, "1b000000e8d4a51000"],
  [18446744073709551615n, "1bffffffffffffffff"],
  [-1, "20"],
  [-10, "29"],
  [-100, "3863"],
  [-1000, "3903e7"],
  [false, "f4"],
  [true, "f5"],
  [null, "f6"],
  [new Uint8Array(), "40"],
  [hex("01020304"), "4401020304"],
  ["", "60"],
  ["a", "6161"],
  ["IETF", "6449455446"],
  ['"\\', "62225c"],
  ["\u00fc", "62c3bc"],
  ["\u6c34", "63e6b0b4"],
  ["\u{10151}", "64f0908591"],
  [[], "80"],
  [[1, 2, 3], "83010203"],
  [[1, [2, 3], [4, 5]], "8301820203820405"],
  [Array.from({ length: 25 }, (_, i) => i + 1), "98190102030405060708090a0b0c0d0e0f101112131415161718181819"],
  [map(), "a0"],
  [map([1, 2], [3, 4]), "a201020304"],
  [map(["a", 1], ["b", [2, 3]]), "a26161016162820203"],
  [["a", map(["b", "c"])], "826161a161626163"],
  [
    map(["a", "A"], ["b", "B"], ["c", "C"], ["d", "D"], ["e", "E"]),
    "a56161614161626142616361436164614461656145",
  ],
];

t.test("decodeCbor refuses what has no place here", (t) => {
  const refusals: readonly (readonly [string, string, RegExp])[] = [
    // RFC 8949, Appendix A: the vectors that have none
    ["a float16", "f93c00", /float/],
    ["a float32", "fa47c35000", /float/],
    ["a float64", "fb3ff199999999999a", /float/],
    ["NaN", "f97e00", /float/],
    ["undefined", "f7", /undefined/],
    ["simple(16)", "f0", /simple/],
    ["simple(255)", "f8ff", /simple/],
    ["simple(24), badly formed", "f818", /simple/],
    ["a date as text", "c074323031332d30332d32315432303a30343a30305a", /tag/],
    ["a date as number", "c11a514b67b0", /tag/],
    ["a bignum", "c249010000000000000000", /tag/],
    ["an encoded item", "d818456449455446", /tag/],
    ["-2^64", "3bffffffffffffffff", /below/],
    ["indefinite octets", "5f42010243030405ff", /indefinite/],
    ["indefinite text", "7f657374726561646d696e67ff", /indefinite/],
    ["an indefinite array", "9f018202039f0405ffff", /indefinite/],
    ["an indefinite map", "bf61610161629f0203ffff", /indefinite/],
    ["a break alone", "ff", /indefinite/],
    // RFC 8949, 4.2.1
    ["23 in two octets", "1817", /shortest/],
    ["255 in three octets", "1900ff", /shortest/],
    ["65,535 in five octets", "1a0000ffff", /shortest/],
    ["2^32 - 1 in nine octets", "1b00000000ffffffff", /shortest/],
    ["a length in too many octets", "580101", /shortest/],
    ["keys in another order", "a2616201616101", /order/],
    ["length before content, as in RFC 7049", "a20a01 20 02 18 6403".replace("a2", "a3"), /order/],
    ["a key twice", "a2616101616102", /twice/],
    ["an integer key twice", "a201010102", /twice/],
    ["an array as key", "a18001", /key/],
    ["octets as key", "a1410101", /key/],
    ["a map as key", "a1a001", /key/],
    ["null as key", "a1f601", /key/],
    ["a key of 64 bits", "a11b000000010000000001", /32 bits/],
    // not well-formed: RFC 8949, Appendix F
    ["nothing", "", /early/],
    ["reserved 28", "1c", /reserved/],
    ["reserved 30 in text", "7e", /reserved/],
    ["a cut number", "1901", /early/],
    ["a cut text", "62 61", /behind the end/],
    ["a cut array", "82 01", /early|behind/],
    ["a cut map", "a1 61 61", /early|behind/],
    ["a text of 2^63 octets", "7b8000000000000000", /behind the end/],
    ["octets of 2^64 - 1", "5bffffffffffffffff", /behind the end/],
    ["an array of 2^32 - 1", "9affffffff", /behind the end/],
    ["a map of 2^64 - 1", "bbffffffffffffffff", /behind the end/],
    ["two values", "0000", /left over/],
    ["UTF-8 with a surrogate", "63eda080", /UTF-8/],
    ["UTF-8 longer than needed", "62c080", /UTF-8/],
    ["a cut UTF-8 sequence", "62e6b0", /UTF-8/],
  ];
  for (const [name, octets, reason] of refusals) {
    const result = decode(octets);
    if (result.is !== "refused") return t.fail(`${name} was taken`);
    t.match(result.reason, reason, name);
    t.ok(result.offset >= 0 && result.offset <= octets.length / 2, `${name}: the offset lies inside`);
  }
  return t.end();
});

t.test("decodeCbor bounds octets, depth and items before it decodes", (t) => {
  const refused = (octets: Uint8Array, own = {}) => {
    const result = decodeCbor(octets, { ...limits, ...own });
    return result.is === "refused" ? result.reason : "taken";
  };
  t.match(refused(new Uint8Array(9), { maxBytes: 8 }), /more than 8 octets/);
  for (const open of [0x81, 0xa1]) {
    const nested = (depth: number): Uint8Array =>
      open === 0x81
        ? Uint8Array.from([...Array(depth).fill(0x81), 0x00])
        : Uint8Array.from([...Array(depth).fill([0xa1, 0x00]).flat(), 0x00]);
    t.equal(decodeCbor(nested(16), limits).is, "value", "16 deep is taken");
    t.match(refused(nested(17)), /deeper than 16/);
    t.match(refused(nested(10_000)), /deeper than 16/);
    t.match(refused(nested(100_000)), /deeper than 16/);
  }
  const zeros = (count: number) => encodeCbor(Array(count).fill(0));
  t.equal(decodeCbor(zeros(9), { ...limits, maxItems: 10 }).is, "value");
  t.match(refused(zeros(10), { maxItems: 10 }), /more than 10 items/);
  t.match(
    refused(encodeCbor(new Map(Array.from({ length: 5 }, (_, i) => [i, i]))), { maxItems: 10 }),
    /items/,
  );
  t.end();
});

t.test("a key named __proto__ is a key like any other (B64)", (t) => {
  const result = decode("a1 69 5f5f70726f746f5f5f a1 67 697341646d696e f5");
  if (result.is !== "value") return t.fail(result.reason);
  t.ok(result.value instanceof Map);
  t.notOk("isAdmin" in (result.value as object), "nothing is inherited");
  t.same([...(result.value as Map<string, CborValue>).keys()], ["__proto__"]);
  t.notOk("isAdmin" in {}, "nor by others");
  return t.end();
});

t.test("the vectors of RFC 8949, Appendix A", (t) => {
  for (const [value, octets] of vectors) {
    t.equal(Buffer.from(encodeCbor(value)).toString("hex"), octets);
    t.same(decode(octets), { is: "value", value }, octets);
  }
  t.end();
});

t.test("encodeCbor throws on what decodeCbor would refuse", (t) => {
  const bad: readonly unknown[] = [
    1.5,
    Number.NaN,
    2 ** 53,
    undefined,
    "\ud800",
    2n ** 64n,
    -(2n ** 63n) - 1n,
    { a: 1 },
    () => 1,
    Symbol("a"),
    new Map([[2 ** 32, 1]]),
    new Map([[-(2 ** 32) - 1, 1]]),
    [[undefined]],
  ];
  for (const value of bad) t.throws(() => encodeCbor(value as CborValue), TypeError);
  t.end();
});

t.test("encodeCbor sorts keys by their octets", (t) => {
  const value = map(["aa", 1], ["b", 2], [-1, 3], [100, 4], [10, 5]);
  t.equal(
    Buffer.from(encodeCbor(value)).toString("hex"),
    "a5 0a05 186404 2003 616202 62616101".replaceAll(" ", ""),
  );
  t.end();
});

const plainText = fc.string({ unit: "binary", maxLength: 200 }).filter((text) => text.isWellFormed());
const key = fc.oneof(plainText, fc.integer({ min: -(2 ** 32), max: 2 ** 32 - 1 }));
const { value: anyValue } = fc.letrec<{ value: CborValue }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 5 },
    fc.constantFrom<CborValue>(null, true, false, "\ufeff", `\ufeff${"x".repeat(300)}`),
    fc.maxSafeInteger().map((n) => (n === 0 ? 0 : n)),
    fc.bigInt({ min: 2n ** 53n, max: 2n ** 64n - 1n }),
    fc.bigInt({ min: -(2n ** 63n), max: -(2n ** 53n) }),
    plainText,
    fc.uint8Array({ maxLength: 300 }),
    fc.array(tie("value"), { maxLength: 8 }),
    fc
      .uniqueArray(fc.tuple(key, tie("value")), { maxLength: 8, selector: ([k]) => k })
      .map((e) => new Map(e)),
  ),
}));

t.test("what was encoded decodes to the same, and again to the same octets", (t) => {
  fc.assert(
    fc.property(anyValue, (value) => {
      const octets = encodeCbor(value);
      const result = decodeCbor(octets, limits);
      if (result.is !== "value") throw new Error(result.reason);
      if (!t.same(result.value, value)) throw new Error("differs");
      return Buffer.compare(encodeCbor(result.value), octets) === 0;
    }),
    { numRuns: 500 },
  );
  t.end();
});

t.test("whatever octets come, decodeCbor returns, and what it takes has one form", (t) => {
  let taken = 0;
  const check = (octets: Uint8Array): boolean => {
    const result = decodeCbor(octets, limits);
    if (result.is === "refused") return true;
    taken++;
    return Buffer.compare(encodeCbor(result.value), octets) === 0;
  };
  fc.assert(fc.property(fc.uint8Array({ maxLength: 64 }), check), { numRuns: 20_000 });
  // nearly right: one octet of an honest message changed
  fc.assert(
    fc.property(anyValue, fc.nat(), fc.integer({ min: 0, max: 255 }), (value, at, octet) => {
      const octets = encodeCbor(value);
      octets[at % octets.length] = octet;
      return check(octets);
    }),
    { numRuns: 5000 },
  );
  t.ok(taken > 1000, "enough of them were taken");
  t.end();
});

t.test("every beginning of a message is refused as such", (t) => {
  const octets = encodeCbor(map(["a", [1, "two", new Uint8Array(30)]], ["b", map([-5, 70_000])]));
  for (let length = 0; length < octets.length; length++) {
    t.equal(decodeCbor(octets.subarray(0, length), limits).is, "refused");
  }
  t.end();
});

t.test("a decoded value shares no memory with its octets", (t) => {
  const octets = encodeCbor([new Uint8Array([1, 2, 3])]);
  const result = decodeCbor(octets, limits);
  octets.fill(0);
  t.same(result, { is: "value", value: [new Uint8Array([1, 2, 3])] });
  const again = encodeCbor("one");
  encodeCbor("two");
  t.equal(Buffer.from(again).toString("hex"), "636f6e65", "nor an encoded one with the encoder");
  t.end();
});
