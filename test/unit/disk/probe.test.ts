import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { setMarker } from "../../../init/disk/marker.ts";
import { probePartition } from "../../../init/disk/probe.ts";
import { header } from "./luks-fixture.ts";

const sizeBytes = 64 * 1024 * 1024;
const dir = mkdtempSync(join(tmpdir(), "gimbal-probe-"));
let count = 0;

/** A sparse image with these octets at these places; a negative place counts from the end. */
function image(...parts: readonly [at: number, octets: string | Uint8Array][]): string {
  const path = join(dir, `image-${count++}`);
  const fd = openSync(path, "w+");
  ftruncateSync(fd, sizeBytes);
  for (const [at, octets] of parts) {
    const bytes = typeof octets === "string" ? Buffer.from(octets, "latin1") : octets;
    writeSync(fd, bytes, 0, bytes.length, at < 0 ? sizeBytes + at : at);
  }
  closeSync(fd);
  return path;
}

const probe = (path: string) => probePartition(path, BigInt(sizeBytes));

t.test("what others put there is named", async (t) => {
  const cases: [RegExp, number, string][] = [
    [/ext2\/3\/4/, 1080, "\x53\xef"],
    [/XFS/, 0, "XFSB"],
    [/btrfs/, 0x10040, "_BHRfS_M"],
    [/LVM/, 512, "LABELONE"],
    [/RAID \(md 1.2\)/, 4096, "\xfc\x4e\x2b\xa9"],
    [/RAID \(md 1.0\)/, -8192, "\xfc\x4e\x2b\xa9"],
    [/RAID \(md 0.90\)/, -65536, "\xfc\x4e\x2b\xa9"],
    [/GPT/, 512, "EFI PART"],
    [/GPT/, -512, "EFI PART"],
    [/MBR/, 510, "\x55\xaa"],
    [/FAT/, 82, "FAT32   "],
    [/squashfs/, 0, "hsqs"],
    [/EROFS/, 1024, "\xe2\xe1\xf5\xe0"],
    [/swap/, 4086, "SWAPSPACE2"],
    [/LUKS1/, 0, "LUKS\xba\xbe\x00\x01"],
    [/unknown kind/, 0, "x"],
    [/unknown kind/, 700_000, "x"],
    [/unknown kind/, -1, "x"],
  ];
  for (const [what, at, octets] of cases)
    t.match(await probe(image([at, octets])), { is: "foreign", what }, `${at}`);
});

t.test("a used partition with a wiped start is not empty", async (t) => {
  const used = image([32 * 1024 * 1024 - ((32 * 1024 * 1024) % 4096), Buffer.alloc(65_536, 1)]);
  t.match(await probe(used), { is: "foreign" });
});

t.test("zeros are empty", async (t) => {
  t.same(await probe(image()), { is: "empty" });
});

t.test("a LUKS2 header is read, and its octets are kept", async (t) => {
  const read = await probe(image([0, header()]));
  t.match(read, { is: "luks2", header: { label: "gimbal-data" } });
  t.equal(read.is === "luks2" && read.octets.length, 2 * 0x4000 + 2 * 1024 * 1024);
});

t.test("damage of both headers is damage", async (t) => {
  const bad = header();
  bad[50] = 1;
  bad[0x4000 + 50] = 1;
  t.match(await probe(image([0, bad])), { is: "luks2-damaged" });
});

t.test("a file system over an old header counts, not the old second header", async (t) => {
  const overwritten = header();
  overwritten.fill(0, 0, 4096);
  overwritten.set([0x53, 0xef], 1080);
  t.match(await probe(image([0, overwritten])), { is: "foreign", what: /ext/ });
});

t.test("our own unfinished initialisation is known at each of its steps", async (t) => {
  const steps = {
    "nothing but the mark": image(),
    "random key slots, no header": image([32_768, Buffer.alloc(100_000, 0xa5)]),
    "half a header": image([0, header().subarray(0, 4096)], [32_768, Buffer.alloc(100_000, 0xa5)]),
    "a header with the new label": image([0, header({ label: "gimbal-new" })]),
  };
  for (const [name, path] of Object.entries(steps)) {
    await setMarker(path, BigInt(sizeBytes), true);
    t.same(await probe(path), { is: "unfinished" }, name);
  }
  const labelled = image([0, header({ label: "gimbal-new" })]);
  t.same(await probe(labelled), { is: "unfinished" }, "without the mark");
});

t.test("the mark does not make what others put there ours", async (t) => {
  const ext4 = image([1080, "\x53\xef"]);
  await setMarker(ext4, BigInt(sizeBytes), true);
  t.match(await probe(ext4), { is: "foreign" });
  const complete = image([0, header()]);
  await setMarker(complete, BigInt(sizeBytes), true);
  t.match(await probe(complete), { is: "luks2" }, "nor a complete volume unfinished");
});

t.test("the mark goes away whole", async (t) => {
  const path = image();
  await setMarker(path, BigInt(sizeBytes), true);
  await setMarker(path, BigInt(sizeBytes), false);
  t.same(await probe(path), { is: "empty" });
  t.equal(readFileSync(path).length, sizeBytes);
});

t.test("an unreadable or too short device is an error, not emptiness", async (t) => {
  await t.rejects(probePartition(join(dir, "none"), BigInt(sizeBytes)), { code: "kernel-refused" });
  await t.rejects(probePartition(image(), BigInt(sizeBytes) * 2n), { code: "kernel-refused" });
});
