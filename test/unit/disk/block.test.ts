import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { findPartition, listPartitions } from "../../../init/disk/block.ts";
import { parseGpt } from "../../../init/disk/gpt.ts";

/** A machine's sysfs and /dev as folders. */
function machine() {
  const root = mkdtempSync(join(tmpdir(), "gimbal-block-"));
  const sysfs = join(root, "sys");
  const dev = join(root, "dev");
  mkdirSync(join(sysfs, "class/block"), { recursive: true });
  mkdirSync(dev);
  const addDisk = (disk: string, partitions: readonly string[], serial?: string) => {
    const folder = join(sysfs, "devices/pci0", disk);
    mkdirSync(join(folder, "queue"), { recursive: true });
    writeFileSync(join(folder, "uevent"), `DEVNAME=${disk}\nDEVTYPE=disk\n`);
    writeFileSync(join(folder, "queue/logical_block_size"), "512\n");
    if (serial) writeFileSync(join(folder, "serial"), `${serial}\n`);
    symlinkSync(folder, join(sysfs, "class/block", disk));
    writeFileSync(join(dev, disk), gpt(partitions));
    for (const [index, label] of partitions.entries()) {
      const name = `${disk}${index + 1}`;
      mkdirSync(join(folder, name));
      const facts = ["MAJOR=254", `DEVNAME=${name}`, "DEVTYPE=partition", `PARTN=${index + 1}`];
      writeFileSync(
        join(folder, name, "uevent"),
        [...facts, ...(label ? [`PARTNAME=${label}`] : [])].join("\n"),
      );
      writeFileSync(join(folder, name, "size"), "204800\n");
      symlinkSync(join(folder, name), join(sysfs, "class/block", name));
    }
  };
  return {
    root,
    sysfs,
    dev,
    addDisk,
    remove: (disk: string) => rmSync(join(sysfs, "class/block", `${disk}1`)),
  };
}

function gpt(
  labels: readonly string[],
  change: (view: DataView, octets: Uint8Array) => void = () => {},
): Uint8Array {
  const octets = new Uint8Array(65_536);
  const view = new DataView(octets.buffer);
  octets.set(Buffer.from("EFI PART"), 512);
  octets.set(
    Uint8Array.from({ length: 16 }, (_, index) => index),
    512 + 56,
  );
  view.setBigUint64(512 + 72, 2n, true);
  view.setUint32(512 + 80, 128, true);
  view.setUint32(512 + 84, 128, true);
  for (const [index, label] of labels.entries()) {
    const at = 1024 + index * 128;
    octets.fill(0xaa, at, at + 16);
    octets.set(
      Uint8Array.from({ length: 16 }, (_, octet) => octet + 16 * index),
      at + 16,
    );
    view.setBigUint64(at + 32, 2048n, true);
    octets.set(Buffer.from(label, "utf16le"), at + 56);
  }
  change(view, octets);
  return octets;
}

t.test("findPartition refuses a label that two partitions have, and names both", async (t) => {
  const it = machine();
  it.addDisk("vda", ["gimbal-boot", "gimbal-data"], "SERIAL-A");
  it.addDisk("vdb", ["gimbal-boot", "gimbal-data"], "SERIAL-B\x1b[31m");
  const found = findPartition("gimbal-data", it);
  await t.rejects(found, { code: "disk-duplicate", message: /vda2.*SERIAL-A.* and .*vdb2.*SERIAL-B/ });
  await found.catch((error: Error) => t.notMatch(error.message, "\x1b", "text from a disk is escaped"));
});

t.test("findPartition says which partitions it saw when there is none", async (t) => {
  const it = machine();
  it.addDisk("sda", ["", "other"]);
  await t.rejects(findPartition("gimbal-data", it), { code: "disk-absent", message: /sda2 "other"/ });
  await t.rejects(findPartition("x", machine()), { code: "disk-absent", message: /no partitions/ });
});

t.test("findPartition waits for a late disk", async (t) => {
  const it = machine();
  setTimeout(() => it.addDisk("sda", ["gimbal-boot", "gimbal-data"]), 80);
  const found = await findPartition("gimbal-data", { ...it, waitMs: 5000, pollMs: 20 });
  t.match(found, { name: "sda2", disk: "sda", path: join(it.dev, "sda2"), sizeBytes: 104_857_600n });
});

t.test("findPartition looks on for a copy that comes later", async (t) => {
  const it = machine();
  it.addDisk("vda", ["gimbal-data"]);
  setTimeout(() => it.addDisk("vdb", ["gimbal-data"]), 30);
  await t.rejects(findPartition("gimbal-data", { ...it, settleMs: 200 }), { code: "disk-duplicate" });
});

t.test("a partition has its serial and its unique id", async (t) => {
  const it = machine();
  it.addDisk("vda", ["gimbal-boot", "gimbal-data"], "abc");
  t.match(await findPartition("gimbal-data", it), {
    diskSerial: "abc",
    partuuid: "13121110-1514-1716-1819-1a1b1c1d1e1f",
  });
  t.equal(listPartitions(it).length, 2);
});

t.test("parseGpt refuses hostile tables without an exception", (t) => {
  const cases: [string, (view: DataView, octets: Uint8Array) => void][] = [
    ["no signature", (_, octets) => octets.fill(0, 512, 520)],
    ["2^32 entries", (view) => view.setUint32(512 + 80, 0xffffffff, true)],
    ["entries of 0 octets", (view) => view.setUint32(512 + 84, 0, true)],
    ["entries of 2^31 octets", (view) => view.setUint32(512 + 84, 0x80000000, true)],
    ["a table at sector 2^64 - 1", (view) => view.setBigUint64(512 + 72, 0xffffffffffffffffn, true)],
  ];
  for (const [name, change] of cases) t.match(parseGpt(gpt(["a"], change), 512), { is: "refused" }, name);
  t.match(parseGpt(new Uint8Array(100), 512), { is: "refused" });
  t.match(parseGpt(gpt(["a", "b"]), 512), {
    is: "gpt",
    partitions: [{ label: "a" }, { label: "b", number: 2 }],
  });
  t.end();
});
