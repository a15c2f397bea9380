import t from "tap";
import {
  checkImageSize,
  hasMagic,
  type Image,
  treeBlocks,
  verityParameters,
} from "../../../init/disk/image.ts";

const image = (change: Partial<Image> = {}, verity: Partial<Image["verity"]> = {}): Image => ({
  path: "/data/guestos/debian-1/root.img",
  sizeBytes: 4096 * (300 + 1 + 4),
  fsType: "erofs",
  name: "debian-1-root",
  ...change,
  verity: {
    rootHash: "ab".repeat(32),
    salt: "cd".repeat(32),
    hashOffsetBytes: 300 * 4096,
    dataBlocks: 300,
    ...verity,
  },
});

t.test("an impossible description is refused", (t) => {
  const cases: Image[] = [
    image({}, { rootHash: "ab" }),
    image({}, { rootHash: `${"AB".repeat(32)}` }),
    image({}, { rootHash: `${"ab".repeat(31)} 1` }),
    image({}, { salt: "c" }),
    image({}, { salt: "cd".repeat(257) }),
    image({}, { salt: "cd 1 restart_on_corruption" }),
    image({}, { hashOffsetBytes: 4095 }),
    image({}, { hashOffsetBytes: 299 * 4096 }),
    image({}, { dataBlocks: 0 }),
    image({}, { dataBlocks: 1.5 }),
    image({ name: "a b" }),
    image({ name: "../x" }),
    image({ name: "" }),
    image({ sizeBytes: -1 }),
    image({ fsType: "__proto__" as Image["fsType"] }),
  ];
  for (const bad of cases) t.throws(() => verityParameters(bad, "/dev/loop0"), { code: "bad-argument" });
  t.end();
});

t.test("a truncated image is refused by its size", (t) => {
  checkImageSize(image(), image().sizeBytes);
  for (const actual of [0, 1, image().sizeBytes - 1, image().sizeBytes + 1])
    t.throws(() => checkImageSize(image(), actual), {
      code: "image-truncated",
      message: new RegExp(`${actual} octets`),
    });
  const short = image({ sizeBytes: 301 * 4096 });
  t.throws(() => checkImageSize(short, short.sizeBytes), { code: "image-truncated", message: /hash tree/ });
  t.end();
});

t.test("treeBlocks counts as veritysetup does", (t) => {
  for (const [data, tree] of [
    [1, 0],
    [2, 1],
    [128, 1],
    [129, 3],
    [300, 4],
    [16384, 129],
    [16385, 132],
  ] as const)
    t.equal(treeBlocks(data), tree, `${data}`);
  t.end();
});

t.test("the table line is what the kernel wants", (t) => {
  t.equal(
    verityParameters(image(), "/dev/loop7"),
    `1 /dev/loop7 /dev/loop7 4096 4096 300 301 sha256 ${"ab".repeat(32)} ${"cd".repeat(32)}`,
  );
  t.match(verityParameters(image({}, { salt: new Uint8Array() }), "/dev/loop7"), / -$/);
  t.match(
    verityParameters(
      image({ onCorruption: "restart" }, { rootHash: new Uint8Array(32) }),
      "/dev/loop7",
      "gimbal:x",
    ),
    new RegExp(
      ` ${"00".repeat(32)} ${"cd".repeat(32)} 3 restart_on_corruption root_hash_sig_key_desc gimbal:x$`,
    ),
  );
  t.end();
});

t.test("the magic number is looked for in its place", (t) => {
  const start = new Uint8Array(4096);
  t.notOk(hasMagic("erofs", start));
  start.set([0xe2, 0xe1, 0xf5, 0xe0], 1024);
  t.ok(hasMagic("erofs", start));
  t.notOk(hasMagic("squashfs", start));
  t.end();
});
