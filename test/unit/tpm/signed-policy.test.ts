import { generateKeyPairSync } from "node:crypto";
import fc from "fast-check";
import t from "tap";
import { releasePolicyDigest, signPcrPolicy } from "../../../init/measure/policy.ts";
import { parseSealedBlob } from "../../../init/tpm/blob.ts";
import { parseSignedPolicies } from "../../../init/tpm/signed-policy.ts";

const octets = (text: string) => new TextEncoder().encode(text);
const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
const pcr11 = new Uint8Array(32).fill(7);
const good = signPcrPolicy(privateKey, pcr11);
type Json = { sha256: Record<string, unknown>[] };
const changed = (change: Record<string, unknown>) => {
  const json = JSON.parse(good) as Json;
  return JSON.stringify({ sha256: [{ ...json.sha256[0], ...change }] });
};

t.test("parseSignedPolicies reads what signPcrPolicy wrote", (t) => {
  const parsed = parseSignedPolicies(octets(good));
  if (parsed.is === "refused") throw new Error(parsed.reason);
  t.same(parsed.policies[0]?.pcrs, [11, 12, 13]);
  t.same(parsed.policies[0]?.policyDigest, releasePolicyDigest(pcr11));
  t.same(parsed.policies[0]?.values?.get(11), pcr11);
  t.end();
});

t.test("parseSignedPolicies refuses what is malformed, and says where", (t) => {
  const cases: [string, string, RegExp][] = [
    ["empty", "", /no JSON/],
    ["cut", good.slice(0, -3), /no JSON/],
    ["a list", "[]", /not an object/],
    ["null", "null", /not an object/],
    ["another bank", '{"sha1":[]}', /no policies for the sha256 bank/],
    ["inherited names", '{"__proto__":{"sha256":[]}}', /no policies/],
    ["too many", JSON.stringify({ sha256: Array(65).fill({}) }), /more than 64/],
    ["an unknown field", changed({ extra: 1 }), /policy 0: an unknown field/],
    ["PCR 24", changed({ pcrs: [24] }), /pcrs/],
    ["PCRs not ascending", changed({ pcrs: [12, 11] }), /pcrs/],
    ["a PCR twice", changed({ pcrs: [11, 11] }), /pcrs/],
    ["no PCR", changed({ pcrs: [] }), /pcrs/],
    ["a PCR as text", changed({ pcrs: ["11"] }), /pcrs/],
    ["a short digest", changed({ pol: "00" }), /pol/],
    ["a digest that is no hex", changed({ pol: "zz".repeat(32) }), /pol/],
    ["a long signature", changed({ sig: "A".repeat(4000) }), /sig/],
    ["base64 with line ends", changed({ sig: "AAAA\nAAAA" }), /sig/],
  ];
  for (const [name, json, reason] of cases) {
    const parsed = parseSignedPolicies(octets(json));
    t.match(parsed.is === "refused" ? parsed.reason : "accepted", reason, name);
  }
  t.equal(parseSignedPolicies(new Uint8Array(65_537)).is, "refused", "too long");
  t.equal(parseSignedPolicies(new Uint8Array([0xff, 0xfe])).is, "refused", "no UTF-8");
  t.end();
});

t.test("values that do not give the signed digest explain nothing and are dropped", (t) => {
  const parsed = parseSignedPolicies(
    octets(changed({ values: { 11: "00".repeat(32), 12: "00".repeat(32), 13: "00".repeat(32) } })),
  );
  t.equal(parsed.is === "policies" && parsed.policies[0]?.values, undefined);
  t.end();
});

t.test("signPcrPolicy takes P-256 keys only", (t) => {
  const other = generateKeyPairSync("ec", { namedCurve: "P-384" }).privateKey;
  t.throws(() => signPcrPolicy(other, pcr11), { code: "bad-argument" });
  t.throws(() => signPcrPolicy("no key", pcr11), { code: "bad-argument" });
  t.ok(signPcrPolicy(privateKey.export({ format: "pem", type: "pkcs8" }).toString(), pcr11));
  t.end();
});

t.test("parseSealedBlob never throws and refuses whatever is not exactly a blob", (t) => {
  fc.assert(fc.property(fc.jsonValue(), (value) => parseSealedBlob(value).is === "refused"));
  const blob = {
    version: 1,
    public: "AAAA",
    private: "AAAA",
    parentName: "00".repeat(34),
    parentType: "ecc",
    releaseKey: publicKey.export({ format: "der", type: "spki" }).toString("base64"),
    bank: "sha256",
    pcrs: { 7: "00".repeat(32) },
  };
  t.equal(parseSealedBlob(blob).is, "blob");
  for (const field of Object.keys(blob)) {
    for (const value of [
      undefined,
      null,
      0,
      "",
      "zz",
      [],
      {},
      { 7: "00" },
      { "07": "00".repeat(32) },
      { 99: "00".repeat(32) },
    ]) {
      if (field === "pcrs" && JSON.stringify(value) === "{}") continue; // bound to no PCR
      t.equal(
        parseSealedBlob({ ...blob, [field]: value }).is,
        "refused",
        `${field} ${JSON.stringify(value)}`,
      );
    }
  }
  t.equal(parseSealedBlob({ ...blob, version: 2 }).is, "refused");
  t.equal(parseSealedBlob({ ...blob, more: 1 }).is, "refused");
  t.end();
});
