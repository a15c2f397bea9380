/**
 * `make image BOARD=x86-64`: the image as it is handed out, flashed by its block map onto a disk full of something else,
 * boots from NVMe and from AHCI, with an e1000e network card, and its digests are right.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { closeSync, ftruncateSync, openSync, readFileSync, readSync, writeSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { buildForTest, repository, TestDevice } from "./harness.ts";

t.setTimeout(40 * 60_000);
const built = await buildForTest("x86-64", ["--image"]);
const folder = join(repository, "build/x86-64");
const image = join(
  folder,
  `gimbal-x86-64-${JSON.parse(readFileSync(join(repository, "package.json"), "utf8")).version}.img`,
);
const mebibyte = 1 << 20;

/** Ranges of blocks with their digests, from the block map's XML. */
function rangesOf(xml: string): { first: number; last: number; digest: string }[] {
  return [...xml.matchAll(/<Range chksum="(\w+)"> (\d+)(?:-(\d+))? <\/Range>/g)].map((match) => ({
    digest: match[1] ?? "",
    first: Number(match[2]),
    last: Number(match[3] ?? match[2]),
  }));
}

/** Writes what the block map names onto `target`, which had 0xff everywhere a boot could look. */
function flash(target: string): void {
  const xml = readFileSync(`${image}.bmap`, "utf8");
  const size = Number(/<ImageSize> (\d+) /.exec(xml)?.[1]);
  const [from, to] = [openSync(image, "r"), openSync(target, "w")];
  ftruncateSync(to, size);
  const garbage = Buffer.alloc(mebibyte, 0xff);
  for (let at = 0; at < 512 * mebibyte; at += mebibyte) writeSync(to, garbage, 0, mebibyte, at);
  writeSync(to, garbage, 0, mebibyte, size - mebibyte);
  for (const { first, last, digest } of rangesOf(xml)) {
    const hash = createHash("sha256");
    const buffer = Buffer.alloc(mebibyte);
    for (let at = first * 4096; at < (last + 1) * 4096; ) {
      const length = readSync(from, buffer, 0, Math.min(mebibyte, (last + 1) * 4096 - at), at);
      hash.update(buffer.subarray(0, length));
      writeSync(to, buffer, 0, length, at);
      at += length;
    }
    if (hash.digest("hex") !== digest) throw new Error(`blocks ${first}-${last} have another digest`);
  }
  closeSync(from);
  closeSync(to);
}

t.test("SHA256SUMS holds for the image and its block map", (t) => {
  t.match(
    execFileSync("sha256sum", ["--check", "SHA256SUMS"], { cwd: folder }).toString(),
    /\.img: OK\n.*\.bmap: OK/,
  );
  t.end();
});

const device = await TestDevice.create("image-x86-64", { board: "x86-64", guestosFolders: [] });
t.teardown(() => device[Symbol.asyncDispose]());
flash(device.diskPath);

t.test("the flashed image boots from NVMe, makes its volume, and c0 has the e1000e card", async (t) => {
  t.match(built.pcr11, /^[0-9a-f]{64}$/);
  await using boot = await device.boot({ bus: "nvme", network: "e1000e" });
  await boot.waitFor(/Secure Boot on/);
  await boot.waitFor(/RECOVERY KEY of this device/);
  const core = await boot.device();
  const output: Uint8Array[] = [];
  const ran = await core.run(
    "for i in $(seq 30); do ip -4 -br address | grep -q '10\\.0\\.2\\.' && break; sleep 1; done; ip -4 -br address",
    (chunk) => output.push(chunk),
    () => {},
  );
  t.equal(ran.status, 0);
  t.match(Buffer.concat(output).toString(), /10\.0\.2\.\d+/, "DHCP through the e1000e");
  await core.powerOff();
  t.equal(await boot.ended(), "guest-shutdown");
});

t.test("the same disk behind AHCI opens without a question", async (t) => {
  await using boot = await device.boot({ bus: "ahci", network: "e1000e" });
  const core = await boot.device();
  t.notMatch(boot.console, /RECOVERY KEY of this device|recovery key:/i);
  await core.powerOff();
  t.equal(await boot.ended(), "guest-shutdown");
});
