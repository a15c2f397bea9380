import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { blockMap, usedPart } from "../../../board/block-map.ts";

const folder = mkdtempSync(join(tmpdir(), "bmap-"));
t.teardown(() => rmSync(folder, { recursive: true }));
const path = join(folder, "image");
const image = Buffer.alloc(5 * 1048576);
image.write("table", 0);
image.write("file", 1048576 + 4096);
image.write("end", 5 * 1048576 - 3);
writeFileSync(path, image);
const sha256 = (bytes: Uint8Array | string) => createHash("sha256").update(bytes).digest("hex");

t.test("usedPart ends behind the last octet that is not zero, in whole MiB", async (t) => {
  t.same(await usedPart(path, { offsetBytes: 1048576, sizeBytes: 3 * 1048576 }), {
    offsetBytes: 1048576,
    sizeBytes: 1048576,
  });
  t.same(await usedPart(path, { offsetBytes: 2097152, sizeBytes: 1048576 }), {
    offsetBytes: 2097152,
    sizeBytes: 0,
  });
});

t.test("a block map names ranges with their digests, and its own", async (t) => {
  const xml = await blockMap(path, [
    { offsetBytes: 0, sizeBytes: 2097152 },
    { offsetBytes: 5 * 1048576 - 4096, sizeBytes: 4096 },
  ]);
  t.match(xml, "<ImageSize> 5242880 </ImageSize>");
  t.match(xml, "<MappedBlocksCount> 513 </MappedBlocksCount>");
  t.match(xml, `<Range chksum="${sha256(image.subarray(0, 2097152))}"> 0-511 </Range>`);
  t.match(xml, `<Range chksum="${sha256(image.subarray(-4096))}"> 1279 </Range>`);
  const own = /<BmapFileChecksum> (\w{64}) </.exec(xml)?.[1] ?? "";
  t.equal(own, sha256(xml.replace(own, "0".repeat(64))));
});
