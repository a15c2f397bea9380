import { generateKeyPairSync } from "node:crypto";
import fc from "fast-check";
import t, { type Test } from "tap";
import { type ChainRefusal, type VerifiedChain, verifyChain } from "../../../init/trust/chain.ts";
import { roles } from "../../../init/trust/roles.ts";
import {
  anchor,
  basicConstraints,
  caExtensions,
  day,
  der,
  ecKey,
  extendedKeyUsage,
  extension,
  type Issued,
  issue,
  keyUsage,
  leafExtensions,
  now,
  rootCa,
  signer,
  subCa,
  type Wanted,
} from "./certificates.ts";

const root = rootCa();
const sub = subCa(root);
const leaf = signer(sub);
const anchors = [anchor(root)];
const purpose = { role: "guestosSigning", at: now } as const;

const verify = (chain: readonly (Issued | Uint8Array)[], trusted = anchors, at = now): VerifiedChain =>
  verifyChain(
    chain.map((each) => ("der" in each ? each.der : each)),
    trusted,
    { ...purpose, at },
  );

function refused(t: Test, verdict: VerifiedChain, reason: ChainRefusal, why: RegExp): void {
  t.match(verdict, { is: "refused", reason, why });
}

t.test(
  "a chain of a signer and a CA to an anchor is verified, with or without the anchor in it",
  async (t) => {
    for (const chain of [
      [leaf, sub],
      [leaf, sub, root],
    ])
      t.match(verify(chain), { is: "verified", anchor: anchors[0] });
    t.match(verify([signer(root)]), { is: "verified" });
  },
);

t.test("a CA of somebody else is refused, also when it is sent along and has the same name", async (t) => {
  const foreign = rootCa();
  const foreignSub = subCa(foreign);
  refused(
    t,
    verify([signer(foreignSub), foreignSub, foreign]),
    "untrusted",
    /no trusted CA has signed "root"/,
  );
  refused(t, verify([signer(foreign)]), "untrusted", /"signer"/);
  refused(t, verify([leaf, sub], []), "untrusted", /"sub"/);
  refused(t, verify([leaf]), "untrusted", /"signer"/);
});

t.test("a self-signed signer is refused, even one that is registered", async (t) => {
  const lone = issue({ name: "lone", extensions: leafExtensions() });
  refused(t, verify([lone]), "untrusted", /"lone"/);
  refused(t, verify([lone], [anchor(lone)]), "untrusted", /"lone"/);
  const both = issue({
    name: "both",
    extensions: [...caExtensions(), extendedKeyUsage(roles.guestosSigning)],
  });
  refused(t, verify([both], [anchor(both)]), "role-missing", /"both" is a CA/);
});

t.test("a signer without the role is refused", async (t) => {
  const clientAuth = "1.3.6.1.5.5.7.3.2";
  const any = "2.5.29.37.0";
  const of = (...extensions: Buffer[]) => [signer(sub, { extensions }), sub];
  refused(
    t,
    verify(of(basicConstraints(false), keyUsage(0x80))),
    "role-missing",
    /has no GuestOS signing role/,
  );
  refused(t, verify(of(extendedKeyUsage(clientAuth, any))), "role-missing", /has no GuestOS signing role/);
  refused(
    t,
    verify(of(keyUsage(0x20), extendedKeyUsage(roles.guestosSigning))),
    "role-missing",
    /has no digitalSignature/,
  );
  t.match(verify(of(extendedKeyUsage(clientAuth, roles.guestosSigning))), { is: "verified" });
});

t.test("a CA that is for other roles makes no signer", async (t) => {
  const devices = subCa(root, "devices", {
    extensions: [...caExtensions(), extendedKeyUsage("1.3.6.1.5.5.7.3.2")],
  });
  refused(t, verify([signer(devices), devices]), "role-missing", /the CA "devices" is not for the GuestOS/);
  const guests = subCa(root, "g", {
    extensions: [...caExtensions(), extendedKeyUsage(roles.guestosSigning)],
  });
  t.match(verify([signer(guests), guests]), { is: "verified" });
});

t.test("times outside the validity are refused, with certificate and clock named", async (t) => {
  const at = (days: number) => new Date(now.getTime() + days * day);
  refused(
    t,
    verify([leaf, sub], anchors, at(31)),
    "expired",
    /"signer" was valid until .*clock says 2026-07-02T12:00Z/,
  );
  refused(t, verify([leaf, sub], anchors, at(-31)), "not-yet-valid", /"signer" is valid from/);
  refused(t, verify([leaf, sub], anchors, new Date(0)), "not-yet-valid", /clock says 1970-01-01/);
  refused(t, verify([leaf, sub], anchors, new Date("2106-02-07")), "expired", /clock says 2106/);
  const oldSub = subCa(root, "old", { until: at(-1) });
  refused(t, verify([signer(oldSub), oldSub]), "expired", /"old"/);
  const oldRoot = rootCa("oldroot", { until: at(-1) });
  refused(t, verify([signer(oldRoot)], [anchor(oldRoot)]), "expired", /"oldroot"/);
});

t.test("an anchor that was issued anew does not end what was signed before", async (t) => {
  const later = rootCa("root", {
    key: root.key,
    from: new Date(now.getTime() + day),
    until: new Date(now.getTime() + 99 * day),
  });
  t.match(verify([leaf, sub], [anchor(later)]), { is: "verified" });
});

t.test("of two anchors of one name and key the one that is valid counts, in either order", async (t) => {
  const expired = rootCa("root", { key: root.key, until: new Date(now.getTime() - day) });
  t.match(verify([leaf, sub], [anchor(expired), anchor(root)]), { is: "verified" });
  t.match(verify([leaf, sub], [anchor(root), anchor(expired)]), { is: "verified" });
});

t.test("a cross-signed CA may be sent along", async (t) => {
  const other = rootCa("other");
  const cross = subCa(other, "sub", { key: sub.key });
  t.match(verify([leaf, cross, other]), { is: "refused", reason: "untrusted" });
  t.match(verify([leaf, cross], [anchor(other)]), { is: "verified" });
  t.match(verify([leaf, cross, other], [anchor(sub)]), { is: "verified" }, "the CA itself is the anchor");
});

t.test("what is no CA signs no certificate", async (t) => {
  const notCa = (extensions: Buffer[]) => subCa(root, "no", { extensions });
  for (const [what, middle] of Object.entries({
    "CA false": notCa([basicConstraints(false), keyUsage(0x86)]),
    "no basicConstraints": notCa([keyUsage(0x86)]),
    "no extensions": notCa([]),
  })) {
    t.match(verify([signer(middle), middle]), { is: "refused", reason: "not-a-ca" }, what);
  }
  const noCertSign = notCa([basicConstraints(true), keyUsage(0x80)]);
  t.match(verify([signer(noCertSign), noCertSign]), { is: "refused" }, "no keyCertSign");
  refused(
    t,
    verify([signer(leaf), leaf, sub]),
    "not-a-ca",
    /"signer", which stands above "signer", is no CA/,
  );
});

t.test("a path length is kept, of an intermediate and of an anchor", async (t) => {
  const zero = subCa(root, "zero", { extensions: caExtensions(0) });
  t.match(verify([signer(zero), zero]), { is: "verified" });
  const below = subCa(zero, "below");
  refused(
    t,
    verify([signer(below), below, zero]),
    "path-too-long",
    /"zero" allows 0 CAs below it, and there are 1/,
  );
  const strict = rootCa("strict", { extensions: caExtensions(0) });
  const one = subCa(strict, "one");
  t.match(verify([signer(strict)], [anchor(strict)]), { is: "verified" });
  refused(t, verify([signer(one), one], [anchor(strict)]), "path-too-long", /"strict"/);
});

t.test("critical extensions that nobody knows here and name constraints are refused", async (t) => {
  const unknown = extension("1.2.3.4.5", true, der(0x05));
  refused(
    t,
    verify([signer(sub, { extensions: [...leafExtensions(), unknown] }), sub]),
    "malformed",
    /1\.2\.3\.4\.5/,
  );
  const harmless = extension("1.2.3.4.5", false, der(0x05));
  t.match(verify([signer(sub, { extensions: [...leafExtensions(), harmless] }), sub]), { is: "verified" });
  const constrained = subCa(root, "nc", {
    extensions: [...caExtensions(), extension("2.5.29.30", false, der(0x30))],
  });
  refused(t, verify([signer(constrained), constrained]), "malformed", /name constraints/);
});

t.test("extensions that stand twice or cannot be read are refused", async (t) => {
  const bad: Record<string, Buffer[]> = {
    twice: [...leafExtensions(), extendedKeyUsage(roles.guestosSigning)],
    "no sequence": [extension("2.5.29.37", true, der(0x05))],
    "octets left over": [extension("2.5.29.37", true, Buffer.concat([der(0x30), Buffer.from([0])]))],
    "key usage without bits": [
      ...leafExtensions().slice(2),
      extension("2.5.29.15", true, der(0x03, Buffer.from([0]))),
    ],
    "path length of no CA": [
      extension("2.5.29.19", true, der(0x30, der(0x02, Buffer.from([1])))),
      ...leafExtensions().slice(1),
    ],
  };
  for (const [what, extensions] of Object.entries(bad))
    t.match(verify([signer(sub, { extensions }), sub]), { is: "refused", reason: "malformed" }, what);
});

t.test("weak algorithms and keys are refused", async (t) => {
  const sha1 = "1.2.840.10045.4.1";
  refused(
    t,
    verify([signer(sub, { algorithm: sha1, hash: "sha1" }), sub]),
    "weak",
    /an algorithm that is not taken/,
  );
  const rsa = (modulusLength: number) => generateKeyPairSync("rsa", { modulusLength });
  t.match(verify([signer(sub, { key: rsa(1024) }), sub]), { is: "refused", reason: "weak" });
  t.match(verify([signer(sub, { key: ecKey("secp256k1") }), sub]), { is: "refused", reason: "weak" });
  const rsaRoot = rootCa("rsa", { key: rsa(2048), algorithm: "1.2.840.113549.1.1.11" });
  t.match(verify([signer(rsaRoot, { algorithm: "1.2.840.113549.1.1.11" })], [anchor(rsaRoot)]), {
    is: "verified",
  });
});

t.test("a certificate that names two algorithms, or is of version 1, is refused", async (t) => {
  const two = signer(sub, { innerAlgorithm: "1.2.840.10045.4.3.3" });
  refused(t, verify([two, sub]), "malformed", /names two signature algorithms/);
  t.match(verify([signer(sub, { version: 0, extensions: [] }), sub]), { is: "refused", reason: "malformed" });
});

t.test("shapes of the list: none, too many, one twice, wrong order, unrelated", async (t) => {
  refused(t, verify([]), "malformed", /has 0 certificates/);
  refused(t, verify(Array<Issued>(20).fill(leaf)), "malformed", /has 20 certificates, 1 to 6/);
  refused(t, verify([leaf, sub, sub]), "malformed", /twice/);
  refused(t, verify([sub, leaf]), "not-a-ca", /"signer"/);
  refused(
    t,
    verify([leaf, root, sub]),
    "malformed",
    /"signer" is not signed by the next certificate, "root"/,
  );
  refused(t, verify([leaf, sub, rootCa("other")]), "malformed", /"sub" is not signed by the next/);
});

t.test("octets that are no certificate, or more than one, are refused", async (t) => {
  const junk: Record<string, Uint8Array> = {
    empty: new Uint8Array(),
    "a trailing octet": Buffer.concat([leaf.der, Buffer.from([0])]),
    "two in one": Buffer.concat([leaf.der, sub.der]),
    cut: leaf.der.subarray(0, leaf.der.length - 1),
    "no certificate": der(0x30, der(0x30), der(0x30), der(0x03, Buffer.from([0]))),
    huge: der(0x30, Buffer.alloc(20_000)),
  };
  for (const [what, octets] of Object.entries(junk))
    t.match(verify([octets, sub]), { is: "refused", reason: "malformed" }, what);
});

t.test("a length that is not the shortest form is refused, though OpenSSL takes it", async (t) => {
  // 30 82 xx xx -> 30 83 00 xx xx
  t.equal(leaf.der[1], 0x82);
  const longer = Buffer.concat([Buffer.from([0x30, 0x83, 0]), leaf.der.subarray(2)]);
  refused(t, verify([longer, sub]), "malformed", /is no DER/);
  const indefinite = Buffer.concat([Buffer.from([0x30, 0x80]), leaf.der.subarray(4), Buffer.from([0, 0])]);
  refused(t, verify([indefinite, sub]), "malformed", /is no DER/);
});

t.test("no octet of signer and CA can change", async (t) => {
  let looked = 0;
  for (const [place, certificate] of [leaf, sub].entries()) {
    for (let at = 0; at < certificate.der.length; at++) {
      const changed = Buffer.from(certificate.der);
      changed[at] = (changed[at] ?? 0) ^ 0x01;
      const chain = place === 0 ? [changed, sub.der] : [leaf.der, changed];
      if (verify(chain).is !== "refused") t.fail(`octet ${at} of certificate ${place}`);
      looked++;
    }
  }
  t.ok(looked > 600);
});

t.test("names from outside are escaped and cut in the sentence", async (t) => {
  const evil = signer(rootCa(), { name: `a\u001b[2J\u202e${"b".repeat(200)}` });
  const verdict = verify([evil]);
  t.match(verdict, { is: "refused" });
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what is looked for
  if (verdict.is === "refused") t.notMatch(verdict.why, /[\u0000-\u001f\u202e]|b{100}/);
});

t.test("nothing that can be sent throws", async (t) => {
  const wanted: fc.Arbitrary<Partial<Wanted>> = fc.record(
    { version: fc.integer({ min: 0, max: 255 }), extensions: fc.array(fc.uint8Array({ maxLength: 40 })) },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(wanted, (more) => {
      const certificate = signer(sub, more);
      verify([certificate, sub]);
    }),
    { numRuns: 200 },
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (octets) => {
      t.equal(verify([octets]).is, "refused");
    }),
  );
  fc.assert(
    fc.property(fc.nat(leaf.der.length - 1), fc.uint8Array({ minLength: 1, maxLength: 8 }), (at, octets) => {
      const changed = Buffer.from(leaf.der);
      changed.set(octets.subarray(0, changed.length - at), at);
      verify([changed, sub]);
    }),
    { numRuns: 2000 },
  );
});
