/** Octet for octet against veritysetup, at every size where the tree changes its form. */
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { appendHashTree, blockBytes, rootHashOf } from "../../../tool/verity-tree.ts";

t.setTimeout(180_000); // two cores may be busy

const folder = mkdtempSync(join(tmpdir(), "verity-"));
t.teardown(() => rmSync(folder, { recursive: true }));
const uuid = "6d1c0c1e-55a0-4ae5-9c9b-7b1d6f3a9e10";
const [ours, theirs] = [join(folder, "ours"), join(folder, "theirs")];

function image(blocks: number): void {
  writeFileSync(ours, randomBytes(Math.min(blocks, 300) * blockBytes));
  truncateSync(ours, blocks * blockBytes);
}

for (const blocks of [1, 2, 127, 128, 129, 255, 300, 128 * 128, 128 * 128 + 1]) {
  t.test(`a tree over ${blocks} blocks is veritysetup's`, async (t) => {
    image(blocks);
    const salt = randomBytes(32).toString("hex");
    copyFileSync(ours, theirs);
    const format = ["--hash=sha256", `--salt=${salt}`, `--uuid=${uuid}`];
    const out = execFileSync("veritysetup", [
      ...["format", ...format, "--data-block-size=4096", "--hash-block-size=4096"],
      ...[`--data-blocks=${blocks}`, `--hash-offset=${blocks * blockBytes}`, theirs, theirs],
    ]).toString();
    const tree = await appendHashTree(ours, { salt, uuid });
    t.equal(tree.rootHash, /Root hash:\s+([0-9a-f]{64})/.exec(out)?.[1]);
    t.same(tree, { ...tree, salt, dataBlocks: blocks, hashOffsetBytes: blocks * blockBytes });
    t.ok(readFileSync(ours).equals(readFileSync(theirs)), "the whole file");
    t.equal(await rootHashOf(ours, blocks, salt), tree.rootHash, "the tree behind the data changes nothing");
  });
}

t.test("without a salt, too", async (t) => {
  image(3);
  copyFileSync(ours, theirs);
  execFileSync("veritysetup", [
    ...["format", "--salt=-", `--uuid=${uuid}`, "--data-blocks=3", "--hash-offset=12288", theirs, theirs],
  ]);
  await appendHashTree(ours, { salt: "", uuid });
  t.ok(readFileSync(ours).equals(readFileSync(theirs)));
});

t.test("one bit anywhere in the data gives another root hash", async (t) => {
  image(130);
  const { rootHash } = await appendHashTree(ours, { salt: "00", uuid });
  for (const at of [0, 4095, 4096, 128 * blockBytes, 130 * blockBytes - 1]) {
    const bytes = readFileSync(ours);
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    writeFileSync(theirs, bytes);
    t.not(await rootHashOf(theirs, 130, "00"), rootHash, `octet ${at}`);
  }
});

t.test("an image that is cut, empty or no whole number of blocks is refused", async (t) => {
  image(2);
  await t.rejects(rootHashOf(ours, 3, ""), /ended at octet 8192/);
  truncateSync(ours, 5000);
  await t.rejects(appendHashTree(ours, { salt: "", uuid }), /no whole number of blocks/);
  truncateSync(ours, 0);
  await t.rejects(appendHashTree(ours, { salt: "", uuid }), /no whole number of blocks/);
});
