import fc from "fast-check";
import t from "tap";
import { decodeCbor, encodeCbor } from "../../../init/bytes/cbor.ts";
import {
  bool,
  bytesOf,
  eitherOf,
  listOf,
  mapOf,
  oneOf,
  optional,
  parse,
  record,
  type Shape,
  type Shaped,
  text,
  uint,
  withDefault,
} from "../../../init/bytes/shape.ts";

const mount = record({ imageFile: text({ min: 1, max: 8 }), sizeBytes: uint({ max: 100 }) });
const guest = record({
  name: text({ pattern: /^[a-z]+$/, what: "is not of a-z" }),
  kind: oneOf("small", "large"),
  autostart: withDefault(bool(), false),
  mounts: listOf(mount, 2),
  digest: bytesOf({ min: 4, max: 4 }),
  note: optional(text()),
  labels: optional(mapOf(text({ max: 8 }), uint(), 2)),
});
const honest = () =>
  new Map<string, unknown>([
    ["name", "web"],
    ["kind", "small"],
    [
      "mounts",
      [
        new Map<string, unknown>([
          ["image_file", "root"],
          ["size_bytes", 5],
        ]),
      ],
    ],
    ["digest", Uint8Array.of(1, 2, 3, 4)],
  ]);

/** ".mounts[0].image_file is empty" */
function why(shape: Shape<unknown>, value: unknown): string {
  const parsed = parse(shape, value);
  return parsed.is === "refused" ? `${parsed.path} ${parsed.why}`.trim() : "taken";
}
const guestWith = (key: string, value: unknown) => why(guest, honest().set(key, value));

t.test("a record refuses unknown, missing and wrongly typed keys, and says where", (t) => {
  t.equal(guestWith("colour", 1), 'has the unknown key "colour"');
  t.equal(guestWith("__proto__", honest()), 'has the unknown key "__proto__"');
  t.equal(guestWith("constructor", 1), 'has the unknown key "constructor"');
  t.equal(guestWith("\u001b[2J\u202e", 1), 'has the unknown key "\\u001b[2J\\u202e"');
  t.equal(guestWith("imageFile", 1), 'has the unknown key "imageFile"', "keys are in snake case");
  t.ok(guestWith("k".repeat(1_000_000), 1).length < 200, "a key of 1 MB is cut");
  t.equal(why(guest, new Map([[1, 2]])), "is no map", "integer keys");
  t.equal(why(guest, JSON.parse('{"__proto__": {"name": "web"}}')), 'has the unknown key "__proto__"');
  for (const value of [null, undefined, 5, "x", true, [], new Uint8Array(3)])
    t.equal(why(guest, value), "is no map");
  for (const key of ["name", "kind", "mounts", "digest"]) {
    const without = honest();
    without.delete(key);
    t.equal(why(guest, without), `lacks the key "${key}"`);
  }
  t.equal(guestWith("name", "Web"), ".name is not of a-z");
  t.equal(guestWith("kind", "medium"), ".kind is none of small, large");
  t.equal(guestWith("autostart", 1), ".autostart is neither true nor false");
  t.equal(guestWith("autostart", null), ".autostart is neither true nor false");
  t.equal(guestWith("digest", Uint8Array.of(1)), ".digest has fewer than 4 octets");
  t.equal(guestWith("digest", new Uint8Array(5)), ".digest has more than 4 octets");
  t.equal(guestWith("digest", "1234"), ".digest is no octet string");
  t.equal(guestWith("mounts", new Map()), ".mounts is no list");
  t.equal(guestWith("mounts", [5]), ".mounts[0] is no map");
  t.equal(guestWith("mounts", [1, 2, 3]), ".mounts has more than 2 entries");
  t.equal(
    guestWith("mounts", [
      new Map<string, unknown>([
        ["image_file", ""],
        ["size_bytes", 1],
      ]),
    ]),
    ".mounts[0].image_file is empty",
  );
  t.equal(guestWith("labels", new Map([["a", "b"]])), ".labels.a is no whole number");
  t.equal(guestWith("labels", new Map([["\u001b]0;x", "b"]])), '.labels."\\u001b]0;x" is no whole number');
  t.equal(
    guestWith("labels", new Map([["a".repeat(9), 1]])),
    ".labels has a key that has more than 8 characters",
  );
  t.equal(
    guestWith(
      "labels",
      new Map([
        ["a", 1],
        ["b", 1],
        ["c", 1],
      ]),
    ),
    ".labels has more than 2 entries",
  );
  t.end();
});

t.test("text and uint keep their bounds", (t) => {
  t.equal(why(text({ max: 3 }), "four"), "has more than 3 characters");
  t.equal(why(text({ min: 2 }), "a"), "has fewer than 2 characters");
  t.equal(why(text(), "a\0b"), "holds NUL");
  t.equal(
    why(text(), "x".repeat(257)),
    "has more than 256 characters",
    "there is a bound without one being said",
  );
  for (const value of [1.5, "1", 2n ** 60n, Number.NaN, Number.POSITIVE_INFINITY, null])
    t.equal(why(uint(), value), "is no whole number");
  t.equal(why(uint(), -1), `is not between 0 and ${Number.MAX_SAFE_INTEGER}`);
  t.equal(why(uint({ min: 5, max: 6 }), 7), "is not between 5 and 6");
  t.equal(why(eitherOf(text(), uint()), true), "is no whole number");
  t.end();
});

t.test("a record gives camel case, defaults and absent values", (t) => {
  const parsed = parse(guest, honest());
  if (parsed.is !== "ok") return t.fail(parsed.why);
  const value: Shaped<typeof guest> = parsed.value;
  t.same(value, {
    name: "web",
    kind: "small",
    autostart: false,
    mounts: [{ imageFile: "root", sizeBytes: 5 }],
    digest: Uint8Array.of(1, 2, 3, 4),
    note: undefined,
    labels: undefined,
  });
  t.same(
    parse(guest, { ...Object.fromEntries(honest()), note: "from JSON" }).is,
    "ok",
    "a plain object will do",
  );
  return t.end();
});

t.test("what a shape took goes back to CBOR and is taken again", (t) => {
  const arbitrary = fc.record({
    name: fc.stringMatching(/^[a-z]{1,20}$/),
    kind: fc.constantFrom("small" as const, "large" as const),
    autostart: fc.boolean(),
    mounts: fc.array(fc.record({ imageFile: fc.stringMatching(/^[a-z]{1,8}$/), sizeBytes: fc.nat(100) }), {
      maxLength: 2,
    }),
    digest: fc.uint8Array({ minLength: 4, maxLength: 4 }),
    note: fc.option(fc.stringMatching(/^[ -~]{0,20}$/), { nil: undefined }),
    labels: fc.option(
      fc
        .dictionary(fc.stringMatching(/^[a-z]{1,8}$/), fc.nat(), { maxKeys: 2 })
        .map((o) => new Map(Object.entries(o))),
      { nil: undefined },
    ),
  });
  fc.assert(
    fc.property(arbitrary, (value) => {
      const decoded = decodeCbor(encodeCbor(guest.toCbor(value)), { maxBytes: 10_000 });
      if (decoded.is !== "value") throw new Error(decoded.reason);
      if (!t.same(parse(guest, decoded.value), { is: "ok", value })) throw new Error("differs");
    }),
    { numRuns: 200 },
  );
  t.end();
});
