/** Chains and signatures against OpenSSL's command line: what it makes is taken, what it refuses is refused. */
import { execFileSync } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { parseAnchors } from "../../../init/trust/anchors.ts";
import { verifyChain } from "../../../init/trust/chain.ts";
import { parseEnvelope, signEnvelope } from "../../../init/trust/cose.ts";
import { certificatesInPem } from "../../../init/trust/pem.ts";
import { roles } from "../../../init/trust/roles.ts";

const folder = mkdtempSync(join(tmpdir(), "openssl-"));
t.teardown(() => rmSync(folder, { recursive: true }));
const at = (name: string) => join(folder, name);
const openssl = (...args: string[]) => execFileSync("openssl", args, { stdio: ["ignore", "pipe", "pipe"] });

const curve: Record<string, string> = { root: "P-384", sub: "P-384", leaf: "P-256", big: "P-384" };
function make(name: string, issuer: string | undefined, extensions: readonly string[]): Buffer {
  const signedBy = issuer === undefined ? [] : ["-CA", at(`${issuer}.crt`), "-CAkey", at(`${issuer}.key`)];
  openssl(
    ...[
      "req",
      "-new",
      "-x509",
      "-newkey",
      "ec",
      "-pkeyopt",
      `ec_paramgen_curve:${curve[name] ?? "P-256"}`,
      "-nodes",
    ],
    ...[
      "-days",
      "30",
      "-subj",
      `/O=Test/CN=${name}/`,
      "-keyout",
      at(`${name}.key`),
      "-out",
      at(`${name}.crt`),
    ],
    ...signedBy,
    ...extensions.flatMap((each) => ["-addext", each]),
  );
  return Buffer.from(new X509Certificate(readFileSync(at(`${name}.crt`))).raw);
}

const ca = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"];
const role = `extendedKeyUsage=critical,${roles.guestosSigning}`;
const leafExtensions = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature", role];
const root = make("root", undefined, ca);
const sub = make("sub", "root", [...ca.slice(1), "basicConstraints=critical,CA:TRUE,pathlen:0"]);
const leaf = make("leaf", "sub", leafExtensions);
const big = make("big", "sub", leafExtensions);
const anchors = [{ certificate: new X509Certificate(root), origin: "platform" as const }];
const verify = (...chain: Buffer[]) =>
  verifyChain(chain, anchors, { role: "guestosSigning", at: new Date() });
const opensslSays = (certificate: string, ...between: string[]): boolean => {
  try {
    openssl(
      "verify",
      "-CAfile",
      at("root.crt"),
      ...between.flatMap((each) => ["-untrusted", at(each)]),
      at(certificate),
    );
    return true;
  } catch {
    return false;
  }
};

t.test("a chain that OpenSSL made is verified", async (t) => {
  t.match(verify(leaf, sub), { is: "verified" });
  t.match(verify(leaf, sub, root), { is: "verified" });
  t.ok(opensslSays("leaf.crt", "sub.crt"));
});

t.test("what OpenSSL's own verification refuses is refused", async (t) => {
  const deeper = make("deeper", "sub", ca);
  const tooDeep = make("tooDeep", "deeper", leafExtensions);
  t.notOk(opensslSays("tooDeep.crt", "deeper.crt", "sub.crt"));
  t.match(verify(tooDeep, deeper, sub), { is: "refused", reason: "path-too-long" });
  const underLeaf = make("underLeaf", "leaf", leafExtensions);
  t.notOk(opensslSays("underLeaf.crt", "leaf.crt", "sub.crt"));
  t.match(verify(underLeaf, leaf, sub), { is: "refused", reason: "not-a-ca" });
  const odd = make("odd", "sub", [...leafExtensions, "1.2.3.4=critical,ASN1:NULL"]);
  t.notOk(opensslSays("odd.crt", "sub.crt"));
  t.match(verify(odd, sub), { is: "refused", reason: "malformed" });
});

t.test("PEM files as OpenSSL and people write them give their certificates", async (t) => {
  const text = ["leaf", "sub", "root"]
    .map((name) => readFileSync(at(`${name}.crt`), "utf8"))
    .join("comment\n");
  t.same(certificatesInPem(text, 3), [leaf, sub, root]);
  t.same(certificatesInPem(text.replaceAll("\n", "\r\n"), 3), [leaf, sub, root]);
  t.same(certificatesInPem(readFileSync(at("root.key"), "utf8"), 3), [], "a key is none");
  t.equal(certificatesInPem(text, 2), undefined, "more than wanted");
  t.equal(certificatesInPem(text.slice(0, -30), 3), undefined, "the last one is cut");
  t.equal(certificatesInPem(text.replace("MI", "M!"), 3), undefined, "no base64");
  t.throws(() => parseAnchors(text, "x.crt"), { code: "ca-refused", message: /"leaf" is no CA/ });
  t.equal(parseAnchors(readFileSync(at("root.crt"), "utf8"), "root.crt").length, 1);
});

t.test("OpenSSL verifies the signature of an envelope over a Sig_structure written by hand", async (t) => {
  const payload = Buffer.from("manifest");
  for (const [name, certificate, algorithm, digest] of [
    ["leaf", leaf, 0x26, "-sha256"],
    ["big", big, 0x3822, "-sha384"],
  ] as const) {
    const bytes = signEnvelope(
      payload,
      "text/x",
      [certificate, sub],
      readFileSync(at(`${name}.key`), "utf8"),
    );
    const parsed = parseEnvelope(bytes);
    if (parsed.is === "refused") throw new Error(parsed.why);
    const { signature, protectedHeader } = parsed.envelope;
    const bstr = (octets: Uint8Array) =>
      Buffer.concat([
        Buffer.from(
          octets.length < 24
            ? [0x40 + octets.length]
            : octets.length < 256
              ? [0x58, octets.length]
              : [0x59, octets.length >> 8, octets.length & 0xff],
        ),
        octets,
      ]);
    // {1: algorithm, 3: "text/x", 33: [leaf, sub]} (RFC 9052, 3.1; RFC 9360, 2)
    const header = Buffer.concat([
      Buffer.from([0xa3, 0x01, ...(algorithm > 0xff ? [algorithm >> 8, algorithm & 0xff] : [algorithm])]),
      Buffer.from([0x03, 0x66]),
      Buffer.from("text/x"),
      Buffer.from([0x18, 33, 0x82]),
      bstr(certificate),
      bstr(sub),
    ]);
    t.same(Buffer.from(protectedHeader), header, "the protected header");
    // ["Signature1", protected, external_aad, payload] (RFC 9052, 4.4)
    const signed = Buffer.concat([
      Buffer.from([0x84, 0x6a]),
      Buffer.from("Signature1"),
      bstr(header),
      Buffer.from([0x40]),
      bstr(payload),
    ]);
    const half = signature.length / 2;
    const integer = (octets: Uint8Array) => {
      const trimmed = Buffer.from(octets.subarray(octets.findIndex((octet) => octet !== 0)));
      const body = (trimmed[0] ?? 0) >= 0x80 ? Buffer.concat([Buffer.from([0]), trimmed]) : trimmed;
      return Buffer.concat([Buffer.from([0x02, body.length]), body]);
    };
    const body = Buffer.concat([integer(signature.subarray(0, half)), integer(signature.subarray(half))]);
    writeFileSync(at("sig"), Buffer.concat([Buffer.from([0x30, body.length]), body]));
    writeFileSync(at("signed"), signed);
    openssl("x509", "-in", at(`${name}.crt`), "-noout", "-pubkey", "-out", at("pub"));
    const said = openssl("dgst", digest, "-verify", at("pub"), "-signature", at("sig"), at("signed"));
    t.match(said.toString(), /Verified OK/, name);
  }
});
