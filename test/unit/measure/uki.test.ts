import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import { authenticodeDigest, readPe } from "../../../init/measure/pe.ts";
import { parseTcgLog } from "../../../init/measure/tcg-log.ts";
import { measuredSections, predictPcr4, predictPcr11 } from "../../../init/measure/uki.ts";
import { firmwareLog, hex } from "./fixture.ts";
import { headerBytes, peImage, sectionTable } from "./pe-image.ts";

const octets = (text: string) => new TextEncoder().encode(text);
const sha256 = (...parts: readonly Uint8Array[]) =>
  createHash("sha256").update(Buffer.concat(parts)).digest();
const refusal = (image: Uint8Array) => {
  const pe = readPe(image);
  return pe.is === "refused" ? pe.reason : "accepted";
};

// what the fixture's UKI held in its small sections
const small = {
  ".osrel": octets("ID=lab\n"),
  ".cmdline": octets("console=ttyS0 panic=-1 rdinit=/init loglevel=4"),
  ".uname": octets("6.12.118+deb13-cloud-amd64"),
};

const uki = peImage([
  { name: ".text", data: octets("code") },
  { name: ".cmdline", data: small[".cmdline"] },
  { name: ".osrel", data: small[".osrel"] },
  { name: ".linux", data: octets("kernel") },
  { name: ".uname", data: small[".uname"] },
  { name: ".pcrsig", data: octets("{}") },
]);

t.test("readPe refuses what is no PE32+ image, at every cut", (t) => {
  for (let length = 0; length < uki.length; length += length < headerBytes ? 1 : 97) {
    if (readPe(uki.subarray(0, length)).is !== "refused") t.fail(`cut at ${length}`);
  }
  const changed = (at: number, value: number, bytes = 4) => {
    const image = Buffer.from(uki);
    image.writeUIntLE(value, at, bytes);
    return image;
  };
  t.match(refusal(changed(0, 0, 2)), /MZ/);
  t.match(refusal(changed(0x3c, 0xfffffff0)), /PE signature/);
  t.match(refusal(changed(88, 0x10b, 2)), /PE32\+/);
  t.match(refusal(changed(70, 97, 2)), /more than 96 sections/);
  t.match(refusal(changed(sectionTable + 16, 0xffffffff)), /section 0 lies outside/);
  t.match(refusal(changed(sectionTable + 20, 0xfffffff0)), /section 0 lies outside/);
  t.match(refusal(changed(sectionTable + 8, 0x7fffffff)), /larger than 1 GiB/);
  t.match(
    refusal(
      peImage([
        { name: ".linux", data: octets("a") },
        { name: ".linux", data: octets("b") },
      ]),
    ),
    /two sections/,
  );
  t.end();
});

t.test("readPe and authenticodeDigest never throw, whatever octets are changed", (t) => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(sectionTable + 250), fc.nat(255)), { maxLength: 8 }), (changes) => {
      const image = Buffer.from(uki);
      for (const [at, value] of changes) image[at] = value;
      readPe(image);
      authenticodeDigest(image);
    }),
    { numRuns: 2000 },
  );
  t.end();
});

t.test("measuredSections gives the digests that a real stub logged, in its order", (t) => {
  const log = parseTcgLog(firmwareLog);
  if (log.is === "refused") throw new Error(log.reason);
  const logged = log.events.filter((event) => event.pcr === 11);
  const names = logged.map((event) => Buffer.from(event.data).toString("utf16le").replace("\0", ""));
  const measured = measuredSections(uki);
  t.same(
    measured.map(({ name }) => name),
    [".linux", ".osrel", ".cmdline", ".uname"],
  );
  for (const name of Object.keys(small)) {
    const mine = measured.find((section) => section.name === name)?.digests.map(hex);
    const theirs = logged
      .filter((_, index) => names[index] === name)
      .map((event) => hex(event.digests.get("sha256")));
    t.equal(theirs.length, 2);
    t.same(mine, theirs, name);
  }
  t.end();
});

t.test("predictPcr11 chains sections, then phases; .pcrsig does not count", (t) => {
  const chain = (start: Uint8Array, digest: Uint8Array) => sha256(start, digest);
  let value: Uint8Array = Buffer.alloc(32);
  const contents: [string, Uint8Array][] = [[".linux", octets("kernel")], ...Object.entries(small)];
  for (const [name, data] of contents) value = chain(chain(value, sha256(octets(`${name}\0`))), sha256(data));
  t.equal(hex(predictPcr11(uki, [])), hex(value));
  value = chain(value, sha256(octets("enter-initrd")));
  t.equal(hex(predictPcr11(uki, ["enter-initrd"])), hex(value));
  value = chain(value, sha256(octets("leave-initrd")));
  t.equal(hex(predictPcr11(uki, ["enter-initrd", "leave-initrd"])), hex(value));
  const other = peImage([
    { name: ".linux", data: octets("kernel") },
    { name: ".pcrsig", data: octets("x") },
  ]);
  t.equal(
    hex(predictPcr11(other, [])),
    hex(predictPcr11(peImage([{ name: ".linux", data: octets("kernel") }]), [])),
  );
  t.end();
});

t.test("a section counts with its size in memory, zeros behind its data", (t) => {
  const long = peImage([{ name: ".linux", data: octets("kernel"), virtualBytes: 70_000 }]);
  const padded = peImage([{ name: ".linux", data: Buffer.concat([octets("kernel"), Buffer.alloc(69_994)]) }]);
  t.equal(hex(predictPcr11(long, [])), hex(predictPcr11(padded, [])));
  t.end();
});

t.test("what is no UKI is refused", (t) => {
  t.throws(() => predictPcr11(octets("no PE"), []), { code: "bad-argument", message: /MZ/ });
  t.throws(() => predictPcr11(peImage([{ name: ".text", data: octets("a") }]), []), {
    message: /no section .linux/,
  });
  t.throws(() => predictPcr4(octets("no PE")), { code: "bad-argument" });
  t.end();
});

const tools = ["/usr/bin/sbsign", "/usr/bin/openssl"].every((path) => existsSync(path));
t.test(
  "authenticodeDigest is what sbsign signs, signed or not",
  tools ? {} : { skip: "sbsign is not installed" },
  (t) => {
    const folder = mkdtempSync(join(tmpdir(), "gimbal-pe-"));
    const run = (name: string, ...args: string[]) => execFileSync(name, args, { cwd: folder, stdio: "pipe" });
    try {
      run(
        "openssl",
        "req",
        "-new",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=test",
        "-keyout",
        "k",
        "-out",
        "c",
      );
      writeFileSync(join(folder, "image"), uki);
      run("sbsign", "--key", "k", "--cert", "c", "--output", "signed", "image");
      run("sbattach", "--detach", "signature", "signed");
      const signature = run("openssl", "asn1parse", "-inform", "der", "-in", "signature");
      const digest = authenticodeDigest(execFileSync("cat", [join(folder, "signed")]));
      const unsigned = authenticodeDigest(uki);
      t.ok(digest.is === "digest" && unsigned.is === "digest");
      t.match(signature.toString(), digest.is === "digest" ? hex(digest.digest).toUpperCase() : "none");
      t.same(digest, unsigned);
    } finally {
      rmSync(folder, { recursive: true });
    }
    t.end();
  },
);
