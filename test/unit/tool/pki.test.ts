import { execFileSync } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { keysForBuild } from "../../../board/keys.ts";
import { parseAnchors } from "../../../init/trust/anchors.ts";
import { verifyChain } from "../../../init/trust/chain.ts";
import { certificatesInPem } from "../../../init/trust/pem.ts";
import { gimbal } from "./gimbal.ts";

t.setTimeout(180_000); // two cores may be busy

const base = mkdtempSync(join(tmpdir(), "pki-"));
t.teardown(() => rmSync(base, { recursive: true }));
const keys = join(base, "keys");
const made = await gimbal("pki", "init", keys, "--name", "Example", "--json");
const text = (name: string) => readFileSync(join(keys, name), "utf8");
const openssl = (...args: string[]) => execFileSync("openssl", args).toString();

const verify = (certificate: string) =>
  verifyChain(
    certificatesInPem(readFileSync(certificate, "utf8"), 4) ?? [],
    parseAnchors(text("platform-ca.crt"), "ca").map((ca) => ({
      certificate: ca,
      origin: "platform" as const,
    })),
    { role: "guestosSigning", at: new Date() },
  );

t.test("pki init makes the folder that a production build takes", async (t) => {
  t.equal(made.status, 0, made.stderr);
  t.same(JSON.parse(made.stdout).files.toSorted(), readdirSync(keys).sort());
  const taken = await keysForBuild({ PRODUCTION: "1", GIMBAL_KEYS: keys });
  t.equal(taken.development, false);
});

t.test("private keys are for their owner only, and nothing lies beside the folder", async (t) => {
  t.equal(statSync(keys).mode & 0o777, 0o700);
  for (const name of readdirSync(keys)) {
    t.equal(statSync(join(keys, name)).mode & 0o777, name.endsWith(".key") ? 0o600 : 0o644, name);
  }
  t.same(readdirSync(base), ["keys"]);
});

t.test("keys are never overwritten, not even an empty folder is touched", async (t) => {
  const before = text("db.key");
  const again = await gimbal("pki", "init", keys);
  t.match(again, { status: 1, stdout: "", stderr: /it is there already, and keys are never overwritten/ });
  t.equal(text("db.key"), before);
  mkdirSync(join(base, "empty"));
  t.match(await gimbal("pki", "init", join(base, "empty"), "--json"), {
    status: 1,
    stdout: /"code": "build-failed"/,
  });
  rmSync(join(base, "empty"), { recursive: true });
});

t.test("every key is its certificate's, and of the kind that its reader knows", async (t) => {
  for (const name of ["PK", "KEK", "db", "platform-ca", "guestos-signer"]) {
    const publicKey = openssl("pkey", "-in", join(keys, `${name}.key`), "-pubout");
    t.equal(openssl("x509", "-in", join(keys, `${name}.crt`), "-noout", "-pubkey"), publicKey, name);
    const serial = openssl("x509", "-in", join(keys, `${name}.crt`), "-noout", "-serial");
    t.match(serial, /^serial=[0-9A-F]{30,}/, `${name}: random serial number`);
  }
  const kind = (name: string) => openssl("x509", "-in", join(keys, `${name}.crt`), "-noout", "-text");
  for (const name of ["PK", "KEK", "db"]) t.match(kind(name), /Public-Key: \(2048 bit\)/);
  t.match(kind("platform-ca"), /NIST CURVE: P-384[\s\S]*CA:TRUE, pathlen:1[\s\S]*Certificate Sign, CRL Sign/);
  t.match(kind("guestos-signer"), /CA:FALSE[\s\S]*Digital Signature\n/);
  t.match(
    openssl("pkey", "-pubin", "-in", join(keys, "release.pub"), "-noout", "-text"),
    /NIST CURVE: P-256/,
  );
  t.equal(openssl("pkey", "-in", join(keys, "release.key"), "-pubout"), text("release.pub"));
});

t.test("signature lists are those of cert-to-efi-sig-list", async (t) => {
  for (const name of ["PK", "KEK", "db"]) {
    const ours = readFileSync(join(keys, `${name}.esl`));
    const owner = ours.subarray(28, 44);
    const hex = (from: number, to: number) => Buffer.from(owner.subarray(from, to)).toString("hex");
    const little = (from: number, to: number) =>
      Buffer.from(owner.subarray(from, to)).reverse().toString("hex");
    const guid = [little(0, 4), little(4, 6), little(6, 8), hex(8, 10), hex(10, 16)].join("-");
    const theirs = join(base, "theirs.esl");
    execFileSync("cert-to-efi-sig-list", ["-g", guid, join(keys, `${name}.crt`), theirs]);
    t.ok(readFileSync(theirs).equals(ours), name);
    rmSync(theirs);
  }
});

t.test("the signer's chain is verified by the device's code and by OpenSSL", async (t) => {
  t.match(verify(join(keys, "guestos-signer.crt")), { is: "verified" });
  t.match(
    openssl("verify", "-CAfile", join(keys, "platform-ca.crt"), join(keys, "guestos-signer.crt")),
    /OK/,
  );
  const { validFromDate } = new X509Certificate(text("guestos-signer.crt"));
  t.ok(validFromDate.getTime() < Date.now() - 86_400_000, "valid from yesterday on");
});

t.test("pki signer makes another signer, and overwrites none", async (t) => {
  const at = (name: string) => join(base, name);
  const args = (key: string, cert: string) => [
    ...[
      "pki",
      "signer",
      "--ca-key",
      join(keys, "platform-ca.key"),
      "--ca-cert",
      join(keys, "platform-ca.crt"),
    ],
    ...["--key", at(key), "--cert", at(cert), "--name", "Other"],
  ];
  t.match(await gimbal(...args("s.key", "s.crt")), { status: 0 });
  t.match(verify(at("s.crt")), { is: "verified", leaf: { subject: /CN=Other GuestOS signer/ } });
  t.match(await gimbal(...args("s.key", "s2.crt")), { status: 1, stderr: /s\.key: it is there already/ });
  t.match(await gimbal(...args("s2.key", "s.crt")), { status: 1, stderr: /s\.crt: it is there already/ });
  const wrong = args("s3.key", "s3.crt").with(3, join(keys, "db.key"));
  t.match(await gimbal(...wrong), { status: 1, stderr: /no P-256 or P-384 CA/ });
  t.match(await gimbal("pki", "signer"), { status: 2, stderr: /required option/ });
});
