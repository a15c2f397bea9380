/**
 * The disk room on Debian's kernel with device-mapper, which the build host lacks: LUKS2, ext4, dm-verity, power cuts. A direct kernel
 * boot (no firmware) of the built initramfs, in which inside.ts takes the place of init.
 */
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { usableAccelerator } from "../../../board/accelerator.ts";
import { command } from "../../../initramfs/command.ts";
import { directory, file, writeCpio } from "../../../initramfs/cpio.ts";
import { buildExecutable } from "../../../initramfs/executable.ts";
import { buildForTest, repository } from "../harness.ts";

t.setTimeout(50 * 60_000);
const bootMs = 120_000;
const partitionBytes = 192 * 1024 * 1024;
const work = mkdtempSync(join(tmpdir(), "gimbal-dm-"));
const logs = join(repository, "build/system/device-mapper");
mkdirSync(logs, { recursive: true });
let boots = 0;
t.teardown(() => rmSync(work, { recursive: true, force: true }));

const built = await buildForTest();
const initramfs = await initramfsWithTest();
const accelerator = await usableAccelerator(built.kernelPath, built.firmwarePath);

/** An EROFS image with a hash tree, as the GuestOS build makes one. */
async function makeImage(): Promise<{ image: Buffer; description: object; signature: Buffer }> {
  const folder = join(work, "root");
  mkdirSync(folder);
  writeFileSync(join(folder, "hello"), "hello\n");
  writeFileSync(join(folder, "big"), Buffer.alloc(1_200_000, "gimbal "));
  const path = join(work, "image.img");
  await command("mkfs.erofs", [path, folder], {});
  const dataBlocks = Math.ceil(readFileSync(path).length / 4096);
  await command("truncate", ["-s", String(dataBlocks * 4096), path], {});
  const salt = "cd".repeat(32);
  const offset = dataBlocks * 4096;
  const args = ["format", path, path, `--hash-offset=${offset}`, `--salt=${salt}`];
  const said = (await command("veritysetup", args, {})).toString();
  const rootHash = /Root hash:\s+([0-9a-f]{64})/.exec(said)?.[1];
  const key = ["-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=nobody/"];
  await command("openssl", ["req", "-new", ...key, "-keyout", join(work, "k"), "-out", join(work, "c")], {});
  writeFileSync(join(work, "root.txt"), rootHash ?? "");
  const sign = ["smime", "-sign", "-nocerts", "-noattr", "-binary", "-in", join(work, "root.txt")];
  const by = [
    "-inkey",
    join(work, "k"),
    "-signer",
    join(work, "c"),
    "-outform",
    "der",
    "-out",
    join(work, "p7s"),
  ];
  await command("openssl", [...sign, ...by], {});
  const image = readFileSync(path);
  const verity = { rootHash, salt, hashOffsetBytes: offset, dataBlocks };
  const description = { sizeBytes: image.length, fsType: "erofs", verity };
  return { image, description, signature: readFileSync(join(work, "p7s")) };
}

async function initramfsWithTest(): Promise<string> {
  const { image, description, signature } = await makeImage();
  const executable = await buildExecutable({ entry: join(import.meta.dirname, "inside.ts") });
  const entries = [
    file("usr/lib/gimbal/gimbal", { path: executable }, 0o755),
    directory("test"),
    file("test/image.img", image),
    file("test/image.json", JSON.stringify(description)),
    file("test/image.p7s", signature),
  ];
  const archive = join(work, "test.cpio");
  await writeFile(archive, writeCpio(entries, 0, 900_000));
  await command("zstd", ["-q", "-1", "--rm", archive], {});
  const path = join(work, "initramfs");
  await writeFile(
    path,
    Buffer.concat([await readFile(built.initramfsPath), await readFile(`${archive}.zst`)]),
  );
  return path;
}

/** A disk with one partition of that GPT label. */
async function makeDisk(name: string): Promise<string> {
  const path = join(work, name);
  await command("truncate", ["-s", String(partitionBytes + 2 * 1024 * 1024), path], {});
  const table = `label: gpt\nstart=2048, size=${partitionBytes / 512}, name="gimbal-data"\n`;
  await command("sh", ["-c", `printf '%s' "$1" | sfdisk -q "$2"`, "sh", table, path], {});
  return path;
}

type Name =
  | "end"
  | "machine"
  | "partition"
  | "shown"
  | "opened"
  | "mounted"
  | "counter"
  | "written"
  | "image"
  | "held"
  | "gone"
  | "refusals"
  | "after-refusals"
  | "middle"
  | "end-of-images"
  | "closed"
  | "again"
  | "resealed"
  | "recovered"
  | "devices";
type Steps = Readonly<Partial<Record<Name, unknown>>>;

/** Boots until the guest powers off, or for `killAfter`, then reads what it said. Later lines of a name win. */
async function boot(
  disk: string,
  part: string,
  kill?: (text: string) => number | undefined,
): Promise<Steps & { text: string }> {
  const cmdline = `console=ttyS0 panic=-1 quiet loglevel=3 lockdown=integrity module.sig_enforce=1 gimbal.step=${part} NODE_OPTIONS=--jitless`;
  const child = spawn(
    "qemu-system-x86_64",
    [
      ...[
        "-accel",
        accelerator === "kvm" ? "kvm" : "tcg,thread=multi",
        "-machine",
        "q35",
        "-cpu",
        "max",
        "-smp",
        "2",
      ],
      ...[
        "-m",
        "1536",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-monitor",
        "none",
        "-no-reboot",
        "-nic",
        "none",
      ],
      ...["-device", "i6300esb", "-kernel", built.kernelPath, "-initrd", initramfs, "-append", cmdline],
      ...["-drive", `if=none,id=d,format=raw,cache=writeback,file=${disk}`],
      ...["-device", "virtio-blk-pci,drive=d,serial=TESTDISK"],
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  let text = "";
  let planned = false;
  child.stdout.on("data", (chunk: Buffer) => {
    text += chunk.toString("latin1");
    const afterMs = planned ? undefined : kill?.(text);
    if (afterMs === undefined) return;
    planned = true;
    setTimeout(() => child.kill("SIGKILL"), afterMs);
  });
  const limit = setTimeout(() => child.kill("SIGKILL"), bootMs);
  await new Promise((resolve) => child.once("close", resolve));
  clearTimeout(limit);
  boots++;
  writeFileSync(join(logs, `boot-${boots}-${part}.log`), text);
  const lines = [...text.matchAll(/^STEP (\S+) (.*)\r?$/gm)];
  const steps = Object.fromEntries(lines.map(([, name, value]) => [name, parsed(value ?? "")]));
  return { ...steps, text };
}

/** A line may be cut by the kill. */
function parsed(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    return undefined;
  }
}

t.test("the machine, the data volume and the images on a real kernel", async (t) => {
  const disk = await makeDisk("disk.img");
  const first = await boot(disk, "all");
  if (first.end !== true) t.comment(first.text);
  t.match(first, { end: true, machine: { pid: 1, missing: [], failed: [], watchdog: 60, efi: false } });
  t.match(first.machine, { ima: { is: "written" }, links: [{ name: "lo", up: true }] });
  t.match(first.machine, {
    secureBoot: { firmware: "none", lockdown: "integrity", moduleSignatures: true },
  });
  t.match(first.machine, { gone: ["NODE_OPTIONS"] }, "words that came as environment are gone");
  t.match(first.partition, { path: "/dev/vda1", diskSerial: "TESTDISK", sizeBytes: partitionBytes });
  t.match(first.partition, { partuuid: /^[0-9a-f-]{36}$/ });
  t.match(first, { shown: 16, opened: { is: "initialised" }, counter: 0, mounted: { fileSystem: "clean" } });
  t.match(first.mounted, { options: /ext4 rw,nosuid,nodev,noexec,noatime/ });
  t.match(first, { image: { content: "gimbahello", second: true, corrupted: false } });
  t.match(first, { held: { content: true }, gone: { dm: [] } }, "an image lives as long as its last mount");
  t.match(first.refusals, {
    "flipped superblock": "verity-mismatch",
    "flipped first block": "verity-mismatch",
    "flipped tree": "verity-mismatch",
    "wrong root": "verity-mismatch",
    truncated: "image-truncated",
    "shorter than its tree": "image-truncated",
    "another file system": "image-malformed",
    "signed by nobody the kernel knows": "verity-signature",
    "signature of rubbish": "verity-signature",
    absent: "image-truncated",
  });
  t.match(first["after-refusals"], { dm: [], loops: 0 }, "nothing stays of what was refused");
  t.match(first, { middle: { reading: /EIO/, corrupted: true }, "end-of-images": { dm: [], loops: 0 } });
  t.match(first, { closed: [], again: { is: "unsealed", slot: 0 }, resealed: { is: "unsealed", slot: 2 } });
  t.match(first, { recovered: { is: "recovered", slot: 1, why: /no TPM/ }, devices: { dm: [] } });
  const second = await boot(disk, "short");
  t.match(second, { end: true, opened: { is: "unsealed", slot: 2 }, counter: 1 });
});

t.test("a first boot cut at any instant is done again, or complete", async (t) => {
  for (const name of ["shown", "note", "partition"]) {
    const disk = await makeDisk(`cut-${name}.img`);
    // Several cuts in a row on the same disk, then it must come up.
    for (const afterMs of [0, 250])
      await boot(disk, "short", (text) => (text.includes(`STEP ${name}`) ? afterMs : undefined));
    const last = await boot(disk, "short");
    if (last.end !== true) t.comment(last.text);
    t.match(last, { end: true, mounted: { fileSystem: /clean|repaired/ } }, name);
    t.match((await boot(disk, "short")).opened, { is: "unsealed" }, "and then it opens by itself");
    rmSync(disk);
  }
});

t.test(
  "a state file written again and again is whole after each power cut, and never goes back",
  async (t) => {
    const disk = await makeDisk("write.img");
    let floor = 0;
    for (let round = 0; round < 4; round++) {
      const cut = await boot(disk, "write", (text) =>
        text.includes("STEP written") ? 300 * round + Math.random() * 200 : undefined,
      );
      const said = Number(cut.written ?? 0);
      t.ok(Number(cut.counter) >= floor, `round ${round}: ${cut.counter} is at least ${floor}`);
      floor = said;
    }
    const last = await boot(disk, "short");
    t.ok(Number(last.counter) >= floor);
    t.ok(floor > 0);
  },
);
