import { execFileSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readdirSync, rmSync, unlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { keysForBuild, makeDevelopmentKeys } from "../../../board/keys.ts";

const root = mkdtempSync(join(tmpdir(), "keys-"));
t.teardown(() => rmSync(root, { recursive: true }));
const folder = join(root, "keys");
await makeDevelopmentKeys(folder);

t.test("a production build refuses development keys and says how to make real ones", async (t) => {
  const env = { PRODUCTION: "1", GIMBAL_KEYS: folder };
  await t.rejects(keysForBuild(env), { code: "build-failed", message: /development keys.*docs\/boards\.md/ });
});

t.test("taking the mark off does not help: the certificates say it, too", async (t) => {
  const copy = join(root, "copy");
  execFileSync("cp", ["-r", folder, copy]);
  unlinkSync(join(copy, "DEVELOPMENT"));
  await t.rejects(keysForBuild({ PRODUCTION: "1", GIMBAL_KEYS: copy }), { message: /development keys/ });
});

t.test("a production build without keys refuses and names the first that is missing", async (t) => {
  const empty = mkdtempSync(join(root, "empty-"));
  await t.rejects(keysForBuild({ PRODUCTION: "1", GIMBAL_KEYS: empty }), { message: /db\.key is missing/ });
});

t.test("a development build with a folder that lacks one names it", async (t) => {
  const partial = mkdtempSync(join(root, "partial-"));
  for (const name of readdirSync(folder).filter((each) => each !== "release.pub")) {
    copyFileSync(join(folder, name), join(partial, name));
  }
  await t.rejects(keysForBuild({ GIMBAL_KEYS: partial }), { message: /release\.pub is missing/ });
});

t.test("keys have the kinds that firmware, TPM and GuestOS signatures need", async (t) => {
  const keys = await keysForBuild({ GIMBAL_KEYS: folder });
  t.equal(keys.development, true);
  const text = (...args: string[]) => execFileSync("openssl", args).toString();
  t.match(text("x509", "-in", keys.dbCertificate, "-noout", "-text"), /Public-Key: \(2048 bit\)/);
  t.match(text("pkey", "-in", keys.releaseKey, "-noout", "-text"), /NIST CURVE: P-256/);
  const ca = text("x509", "-in", keys.platformCaCertificate, "-noout", "-text");
  t.match(ca, /NIST CURVE: P-384/);
  t.match(ca, /CA:TRUE, pathlen:1/);
  t.match(ca, /Certificate Sign, CRL Sign/);
});

t.test("private keys are readable by their owner only", async (t) => {
  const modes = execFileSync("find", [folder, "-name", "*.key", "-not", "-perm", "600"]).toString();
  t.equal(modes, "");
});
