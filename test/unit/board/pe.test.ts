import t from "tap";
import { appendSections } from "../../../board/pe.ts";

/** The smallest PE32+ image that has what the writer looks at: one section, room for four more. */
function stub(): Buffer {
  const image = Buffer.alloc(0x400);
  image.write("MZ", 0);
  image.writeUInt32LE(0x40, 0x3c);
  image.write("PE\0\0", 0x40, "latin1");
  image.writeUInt16LE(1, 0x46); // NumberOfSections
  image.writeUInt16LE(112 + 16 * 8, 0x54); // SizeOfOptionalHeader
  const optional = 0x58;
  image.writeUInt16LE(0x20b, optional);
  image.writeUInt32LE(0x1000, optional + 32);
  image.writeUInt32LE(0x200, optional + 36);
  const section = optional + 112 + 128;
  image.write(".text", section);
  image.writeUInt32LE(0x10, section + 8);
  image.writeUInt32LE(0x1000, section + 12);
  image.writeUInt32LE(0x200, section + 16);
  image.writeUInt32LE(0x200, section + 20);
  return image;
}

const section = (name: string, length = 1) => ({ name, data: Buffer.alloc(length, 0x61) });

t.test("what is no unsigned PE32+ image is refused", (t) => {
  const changes: Record<string, (image: Buffer) => void> = {
    "no MZ": (image) => image.write("XX", 0),
    "no PE": (image) => image.write("XX", 0x40),
    "32 bit": (image) => image.writeUInt16LE(0x10b, 0x58),
    "signed already": (image) => image.writeUInt32LE(1, 0x58 + 112 + 32),
  };
  for (const [name, change] of Object.entries(changes)) {
    const image = stub();
    change(image);
    t.throws(() => appendSections(image, [section(".a")]), { code: "build-failed" }, name);
  }
  t.throws(() => appendSections(stub(), [section(".toolongname")]), { code: "build-failed" });
  t.throws(
    () =>
      appendSections(
        stub(),
        "abcdefghij".split("").map((name) => section(name)),
      ),
    { code: "build-failed" },
  );
  t.end();
});

t.test("sections lie behind each other, aligned in file and memory", (t) => {
  const image = appendSections(stub(), [section(".one", 0x201), section(".two", 3)]);
  const header = (index: number) => {
    const at = 0x58 + 112 + 128 + 40 * index;
    return [8, 12, 16, 20].map((offset) => image.readUInt32LE(at + offset));
  };
  t.equal(image.readUInt16LE(0x46), 3);
  t.same(header(1), [0x201, 0x2000, 0x400, 0x400], ".one: size, address, raw size, raw offset");
  t.same(header(2), [3, 0x3000, 0x200, 0x800], ".two");
  t.equal(image.readUInt32LE(0x58 + 56), 0x4000, "SizeOfImage");
  t.equal(image.toString("latin1", 0x800, 0x804), "aaa\0");
  t.equal(image.length, 0xa00);
  t.end();
});

t.test("the same inputs give the same octets", (t) => {
  t.ok(appendSections(stub(), [section(".a", 99)]).equals(appendSections(stub(), [section(".a", 99)])));
  t.end();
});
