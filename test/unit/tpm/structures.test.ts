import fc from "fast-check";
import t from "tap";
import { type Codec, decodeFirst, encode } from "../../../init/bytes/struct.ts";
import * as commands from "../../../init/tpm/commands.ts";
import { ecdsaFromDer, ecdsaToDer } from "../../../init/tpm/ecdsa.ts";
import * as structures from "../../../init/tpm/structures.ts";

const isCodec = (value: unknown): value is Codec<unknown> =>
  typeof value === "object" && value !== null && "read" in value && "write" in value;

const codecs: [string, Codec<unknown>][] = [
  ...Object.entries(structures).flatMap(([name, value]) =>
    isCodec(value) ? [[name, value] as [string, Codec<unknown>]] : [],
  ),
  ...Object.values(commands).map(
    ({ name, response }) => [`${name} response`, response] as [string, Codec<unknown>],
  ),
];

/** Octets that often hold small lengths and known algorithms. */
const likely = fc
  .array(
    fc.oneof(
      fc.constantFrom([0, 0x0b], [0, 0x10], [0, 0x18], [0, 0x23], [0, 1], [0, 2], [0, 0, 0, 1], [0, 0x20]),
      fc.array(fc.nat(255), { maxLength: 4 }),
    ),
    { maxLength: 60 },
  )
  .map((parts) => new Uint8Array(parts.flat()));

t.test("no structure's reader throws, and what it accepts encodes to the same octets", (t) => {
  t.ok(codecs.length > 40, `${codecs.length} codecs`);
  let accepted = 0;
  for (const [name, codec] of codecs) {
    fc.assert(
      fc.property(likely, (input) => {
        const first = decodeFirst(codec, input);
        if (first.is === "refused") return true;
        accepted++;
        const used = input.subarray(0, input.length - first.rest.length);
        return Buffer.from(encode(codec, first.value)).equals(used);
      }),
      { numRuns: 300 },
    );
    t.ok(true, name);
  }
  t.ok(accepted > 500, `${accepted} accepted`);
  t.end();
});

t.test("selections name each PCR by its bit", (t) => {
  t.same(structures.selectPcrs("sha256", [0, 7, 8, 23]).select, new Uint8Array([0x81, 0x01, 0x80]));
  t.same(structures.selectedPcrs(structures.selectPcrs("sha256", [23, 0, 8])), [0, 8, 23]);
  t.throws(() => structures.selectPcrs("sha256", [24]), RangeError);
  t.end();
});

t.test("ECDSA signatures go to DER and back; anything but strict DER is refused", (t) => {
  const number = fc.uint8Array({ minLength: 32, maxLength: 32 });
  fc.assert(
    fc.property(number, number, (r, s) => {
      const der = ecdsaToDer(r, s);
      const back = ecdsaFromDer(der);
      const same = back && Buffer.from(back.r).equals(r) && Buffer.from(back.s).equals(s);
      for (let length = 0; length < der.length; length++)
        if (ecdsaFromDer(der.subarray(0, length))) return false;
      return Boolean(same) && !ecdsaFromDer(new Uint8Array([...der, 0]));
    }),
  );
  const octets = (hex: string) => new Uint8Array(Buffer.from(hex, "hex"));
  t.ok(ecdsaFromDer(octets("3006020101020102")));
  for (const [name, hex] of Object.entries({
    "a padded number": "30070202000102 0102".replace(" ", ""),
    "a negative number": "3006020181020102",
    "an empty number": "30050200020102",
    "a long-form length": "308106020101020102",
    "another tag": "3106020101020102",
  }))
    t.equal(ecdsaFromDer(octets(hex)), undefined, name);
  t.end();
});
