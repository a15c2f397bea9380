import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { layoutOf, writeBootPartition, writeDisk } from "../../../board/image.ts";
import { board as declared } from "../../../board/qemu-x86-64/board.ts";

const folder = mkdtempSync(join(tmpdir(), "disk-"));
t.teardown(() => rmSync(folder, { recursive: true }));
const board = { ...declared, disk: { bootBytes: 64 << 20, dataBytes: 32 << 20 } };
const uki = join(folder, "uki.efi");
writeFileSync(uki, "kernel image");
const guest = join(folder, "hello-1");
mkdirSync(guest);
writeFileSync(join(guest, "manifest.cose"), "manifest");
writeFileSync(join(guest, "root.img"), Buffer.alloc(70_000, 1));
const files = { ukiPath: uki, guestosFolders: [guest] };
const digest = (path: string) => createHash("sha256").update(readFileSync(path)).digest("hex");
const fileOn = (disk: string, path: string) =>
  execFileSync("mcopy", ["-i", `${disk}@@1048576`, `::${path}`, "-"], { maxBuffer: 1 << 20 });

t.test("a disk has the two partitions by name, and the boot partition its files", async (t) => {
  const disk = join(folder, "a.img");
  await writeDisk(disk, board, files);
  const table = JSON.parse(execFileSync("sfdisk", ["--json", disk]).toString()).partitiontable;
  const { boot, data } = layoutOf(board.disk);
  t.match(table.partitions, [
    { name: "gimbal-boot", start: boot.offsetBytes / 512, size: boot.sizeBytes / 512 },
    { name: "gimbal-data", start: data.offsetBytes / 512, size: data.sizeBytes / 512 },
  ]);
  t.equal(fileOn(disk, "/EFI/BOOT/BOOTX64.EFI").toString(), "kernel image");
  t.equal(fileOn(disk, "/gimbal/guestos/hello-1/manifest.cose").toString(), "manifest");
  t.equal(fileOn(disk, "/gimbal/guestos/hello-1/root.img").length, 70_000);
});

t.test("the same inputs give the same disk, octet by octet", async (t) => {
  const [one, two] = [join(folder, "one.img"), join(folder, "two.img")];
  await writeDisk(one, board, files);
  await new Promise((resolve) => setTimeout(resolve, 2100)); // FAT counts time in steps of two seconds
  await writeDisk(two, board, files);
  t.equal(digest(one), digest(two));
});

t.test("a boot partition written anew leaves the data partition alone", async (t) => {
  const disk = join(folder, "b.img");
  await writeDisk(disk, board, files);
  const { data } = layoutOf(board.disk);
  const fd = openSync(disk, "r+");
  writeSync(fd, "precious", data.offsetBytes);
  writeFileSync(uki, "next kernel image");
  await writeBootPartition(disk, board, { ...files, guestosFolders: [] });
  const read = Buffer.alloc(8);
  readSync(fd, read, 0, 8, data.offsetBytes);
  t.equal(read.toString(), "precious");
  t.equal(fileOn(disk, "/EFI/BOOT/BOOTX64.EFI").toString(), "next kernel image");
  t.throws(() => fileOn(disk, "/gimbal/guestos/hello-1/manifest.cose"), "what was there before is gone");
});
