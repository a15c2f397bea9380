import { generateKeyPairSync, X509Certificate } from "node:crypto";
import fc from "fast-check";
import t from "tap";
import { type CborValue, decodeCbor, encodeCbor } from "../../../init/bytes/cbor.ts";
import { parseEnvelope, signEnvelope, verifyEnvelope } from "../../../init/trust/cose.ts";
import { ecKey, type Issued, rootCa, signer } from "./certificates.ts";

t.setTimeout(180_000); // two cores may be busy

const root = rootCa();
const leaf = signer(root);
const payload = Buffer.from("what is signed");

const sign = (by: Issued, chain: readonly Uint8Array[] = [by.der]) =>
  signEnvelope(payload, "text/x", chain, by.key.privateKey);

function isVerified(bytes: Uint8Array, by: Issued = leaf): boolean {
  const parsed = parseEnvelope(bytes);
  return parsed.is === "envelope" && verifyEnvelope(parsed.envelope, new X509Certificate(by.der));
}

/** An envelope whose parts are what a test wants. */
function envelope(change: {
  header?: ReadonlyMap<number | string, CborValue>;
  unprotected?: CborValue;
  payload?: CborValue;
  signature?: CborValue;
}): Uint8Array {
  const {
    header,
    unprotected = new Map(),
    payload: content = payload,
    signature = new Uint8Array(64),
  } = change;
  const fields =
    header ??
    new Map<number, CborValue>([
      [1, -7],
      [3, "text/x"],
      [33, leaf.der],
    ]);
  return encodeCbor([encodeCbor(fields), unprotected, content, signature]);
}

function why(bytes: Uint8Array): string {
  const parsed = parseEnvelope(bytes);
  return parsed.is === "refused" ? parsed.why : "taken";
}

t.test(
  "an envelope is verified with its signer's key, on either curve, and says what was signed",
  async (t) => {
    for (const curve of ["P-256", "P-384"]) {
      const by = signer(root, { key: ecKey(curve) });
      const bytes = sign(by, [by.der, root.der]);
      t.ok(isVerified(bytes, by), curve);
      t.match(parseEnvelope(bytes), { envelope: { contentType: "text/x", chain: [by.der, root.der] } });
    }
  },
);

t.test("another key, another curve or a key of another kind verifies nothing", async (t) => {
  const bytes = sign(leaf);
  t.notOk(isVerified(bytes, signer(root)));
  t.notOk(isVerified(bytes, signer(root, { key: ecKey("P-384") })));
  t.notOk(isVerified(bytes, signer(root, { key: generateKeyPairSync("rsa", { modulusLength: 2048 }) })));
  t.notOk(isVerified(bytes, signer(root, { key: generateKeyPairSync("ed25519") as never, name: "e" })));
});

t.test("no bit of an envelope can change", async (t) => {
  const bytes = sign(leaf);
  for (let bit = 0; bit < bytes.length * 8; bit++) {
    const changed = Buffer.from(bytes);
    changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    if (isVerified(changed)) t.fail(`bit ${bit}`);
  }
  t.ok(bytes.length > 400);
});

t.test("an envelope cut at any octet, or with one more, is refused", async (t) => {
  const bytes = sign(leaf);
  for (let length = 0; length < bytes.length; length++) {
    if (parseEnvelope(bytes.subarray(0, length)).is !== "refused") t.fail(`${length} octets`);
  }
  t.match(why(Buffer.concat([bytes, Buffer.from([0])])), /octets are left over/);
});

t.test("a signature of another length is no signature", async (t) => {
  for (const length of [0, 1, 63, 65, 70, 200])
    t.notOk(isVerified(envelope({ signature: new Uint8Array(length) })));
});

t.test("an algorithm that is not taken, or not the key's, is refused", async (t) => {
  for (const algorithm of [-257, -8, -36, 0, 5, "ES256"]) {
    const header = new Map<number, CborValue>([
      [1, algorithm],
      [3, "text/x"],
      [33, leaf.der],
    ]);
    t.match(why(envelope({ header })), /neither ES256 nor ES384/, String(algorithm));
  }
  const bytes = decodeCbor(sign(leaf), { maxBytes: 4096 });
  if (bytes.is !== "value") throw new Error(bytes.reason);
  const [, unprotected, content, signature] = bytes.value as readonly CborValue[];
  const header = new Map<number, CborValue>([
    [1, -35],
    [3, "text/x"],
    [33, leaf.der],
  ]);
  t.notOk(
    isVerified(encodeCbor([encodeCbor(header), unprotected ?? null, content ?? null, signature ?? null])),
  );
});

t.test("headers that are missing, unknown, unprotected or of a wrong type are refused", async (t) => {
  const entries: readonly (readonly [number, CborValue])[] = [
    [1, -7],
    [3, "text/x"],
    [33, leaf.der],
  ];
  for (const [label] of entries) {
    const header = new Map(entries.filter(([each]) => each !== label));
    t.match(
      why(envelope({ header })),
      /must hold algorithm, content type and certificate chain/,
      `no ${label}`,
    );
  }
  t.match(why(envelope({ header: new Map([...entries, [2, [99]]]) })), /and no more/, "crit");
  t.match(why(envelope({ unprotected: new Map([[1, -7]]) })), /unprotected/);
  t.match(why(envelope({ unprotected: [] })), /unprotected/);
  for (const chain of [null, [], [leaf.der], [leaf.der, 1], Array(33).fill(leaf.der), "x"] as CborValue[]) {
    const header = new Map<number, CborValue>([...entries.slice(0, 2), [33, chain]]);
    t.match(why(envelope({ header })), /chain is no list/);
  }
  t.match(why(envelope({ payload: null })), /no octet string/, "a detached payload");
});

t.test("an envelope with a tag, or in another encoding of the same value, is refused", async (t) => {
  const bytes = sign(leaf);
  t.match(why(Buffer.concat([Buffer.from([0xd2]), bytes])), /tag/, "18(...)");
  t.equal(bytes[0], 0x84);
  t.match(why(Buffer.concat([Buffer.from([0x98, 4]), bytes.subarray(1)])), /shortest/);
  t.match(why(Buffer.concat([Buffer.from([0x9f]), bytes.subarray(1), Buffer.from([0xff])])), /indefinite/);
});

t.test("a key without a certificate, or of another kind, signs nothing", async (t) => {
  t.throws(() => sign(leaf, []), TypeError);
  const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 });
  t.throws(() => signEnvelope(payload, "text/x", [leaf.der], rsa.privateKey), TypeError);
});

t.test("nothing that can be sent throws", async () => {
  const value: fc.Arbitrary<CborValue> = fc.letrec<{ value: CborValue }>((tie) => ({
    value: fc.oneof(
      fc.integer(),
      fc.string(),
      fc.uint8Array({ maxLength: 64 }),
      fc.constant(null),
      fc.array(tie("value"), { maxLength: 4 }),
      fc.constantFrom(
        encodeCbor(
          new Map<number, CborValue>([
            [1, -7],
            [3, "t"],
            [33, leaf.der],
          ]),
        ),
      ),
    ),
  })).value;
  fc.assert(
    fc.property(
      fc.array(value, { minLength: 3, maxLength: 5 }),
      (list) => isVerified(encodeCbor(list)) === false,
    ),
  );
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => parseEnvelope(bytes).is === "refused"));
});
