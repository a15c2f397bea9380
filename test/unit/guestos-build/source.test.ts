/** guestos/source.ts and release.ts: guestos.yaml of every guest becomes a manifest that a device reads. */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { countedVersion } from "../../../guestos/release.ts";
import { type BuiltImage, manifestOf, mountPointsOf, readSource } from "../../../guestos/source.ts";
import { decodeManifest } from "../../../init/guestos/manifest-format.ts";

const scratch = mkdtempSync(join(tmpdir(), "gimbal-source-"));
t.teardown(() => rmSync(scratch, { recursive: true }));

const image: BuiltImage = {
  sizeBytes: 16_384,
  sha256: "ab".repeat(32),
  tree: { rootHash: "cd".repeat(32), salt: "ef".repeat(32), hashOffsetBytes: 8192, dataBlocks: 2 },
  signature: new Uint8Array([1, 2, 3]),
};
const facts = {
  version: 7,
  buildDate: 1_767_225_600,
  upstreamVersion: "Debian 13.2",
  images: new Map([["root.img", image]]),
};
const guests = readdirSync("guestos", { withFileTypes: true }).filter((entry) => entry.isDirectory());

t.test("a guestos.yaml without name, version or mounts is refused", async (t) => {
  for (const text of [
    "",
    "name: x\nversion: 1\n",
    "version: 1\nmounts: []\n",
    "name: x\nversion: one\nmounts: []\n",
  ]) {
    writeFileSync(join(scratch, "guestos.yaml"), text);
    await t.rejects(readSource(scratch), { code: "manifest-malformed" }, JSON.stringify(text));
  }
});

t.test("an unknown key is refused by name", async (t) => {
  const source = await readSource("guestos/hello");
  t.throws(() => manifestOf({ ...source, colour: "red" }, facts), {
    code: "manifest-malformed",
    message: /colour/,
  });
});

t.test("every guest's manifest says what the build found out, and what guestos.yaml says", async (t) => {
  t.ok(guests.length >= 3);
  for (const { name } of guests) {
    const source = await readSource(join("guestos", name));
    const manifest = decodeManifest(manifestOf(source, facts));
    t.match(manifest, { name, version: 7, hardware: "x86-64", buildDate: facts.buildDate });
    t.equal(manifest.upstreamVersion, "Debian 13.2");
    const [root] = manifest.mounts;
    t.match(root, { mountPoint: "/", imageSize: 16_384, verity: { hashOffset: 8192, dataBlocks: 2 } });
    t.equal(Buffer.from(root?.imageSha256 ?? []).toString("hex"), image.sha256);
    t.same(root?.verity?.signature, image.signature);
  }
  t.same(mountPointsOf(await readSource("guestos/debian")), ["/home"]);
});

t.test("a development version counts on with the content and stays with it", async (t) => {
  const source = { name: "c0", version: 3, mounts: [] };
  t.equal(await countedVersion(scratch, source, "one"), 3, "the first has guestos.yaml's number");
  t.equal(await countedVersion(scratch, source, "one"), 3, "the same content keeps it");
  t.equal(await countedVersion(scratch, source, "two"), 4, "other content, another version");
  t.equal(await countedVersion(scratch, source, "one"), 5, "a version never goes back");
  t.equal(await countedVersion(scratch, { ...source, version: 9 }, "one"), 9, "guestos.yaml may jump ahead");
  t.equal(await countedVersion(scratch, { ...source, name: "debian" }, "two"), 3, "each guest has its own");
});
