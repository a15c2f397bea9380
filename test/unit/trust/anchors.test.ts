import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { readAnchors } from "../../../init/trust/anchors.ts";
import { type Issued, rootCa, signer } from "./certificates.ts";

const folder = mkdtempSync(join(tmpdir(), "anchors-"));
t.teardown(() => rmSync(folder, { recursive: true }));
const pem = ({ der }: Issued) =>
  `-----BEGIN CERTIFICATE-----\n${der.toString("base64").replace(/.{64}/g, "$&\n")}\n-----END CERTIFICATE-----\n`;
const root = rootCa("one");

t.test("an absent folder has no anchors", async (t) => {
  t.same(readAnchors(join(folder, "none"), "platform"), { anchors: [], skipped: [] });
});

t.test("CAs are taken; all else is skipped with its reason, and stops nothing", async (t) => {
  const write = (name: string, text: string) => writeFileSync(join(folder, name), text);
  write("a.crt", pem(root) + pem(rootCa("two")));
  write("b-leaf.crt", pem(root) + pem(signer(root)));
  write("c-empty.crt", "");
  write("d-large.crt", "x".repeat(70_000));
  write("e-broken.crt", pem(root).replace("M", "!"));
  write("f-many.crt", pem(root).repeat(9));
  write("g-tail.crt", pem({ ...root, der: Buffer.concat([root.der, Buffer.from([0])]) }));
  write("ignored.pem", pem(root));
  execFileSync("mkfifo", [join(folder, "h-pipe.crt")]);
  symlinkSync("a.crt", join(folder, "i-link.crt"));
  const { anchors, skipped } = readAnchors(folder, "registered");
  t.same(
    anchors.map(({ certificate, origin }) => [certificate.subject, origin]),
    [
      ["CN=one", "registered"],
      ["CN=two", "registered"],
    ],
  );
  t.match(
    skipped.map(({ path, why }) => `${path.slice(folder.length + 1)}: ${why}`),
    [
      /^b-leaf.crt: .*"signer" is no CA/,
      /^c-empty.crt: .*no certificate/,
      /^d-large.crt: .*more than 65536 octets/,
      /^e-broken.crt: .*no certificate/,
      /^f-many.crt: .*more than 8/,
      /^g-tail.crt: .*certificate 1 is no DER/,
      /^h-pipe.crt: .*no regular file/,
      /^i-link.crt: ELOOP/,
    ],
  );
});
