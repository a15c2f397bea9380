import { execFileSync } from "node:child_process";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { gimbal, type Run } from "./gimbal.ts";

t.setTimeout(180_000); // two cores may be busy

const base = mkdtempSync(join(tmpdir(), "guestos-"));
t.teardown(() => rmSync(base, { recursive: true }));
const at = (name: string) => join(base, name);
const keys = at("keys");
await gimbal("pki", "init", keys);

const yaml = `name: web
hardware: x86-64
version: 1
profile: service
init_path: /usr/bin/web
mounts:
  - { image_file: root.img, mount_point: /, fs_type: erofs, mount_type: SHARED }
`;
const rootfs = at("rootfs");
for (const path of ["dev", "proc", "run", "sys", "tmp", "usr/bin"])
  mkdirSync(join(rootfs, path), { recursive: true });
writeFileSync(join(rootfs, "usr/bin/web"), "#!/bin/sh\n");
chmodSync(join(rootfs, "usr/bin/web"), 0o755);
writeFileSync(join(rootfs, "large"), Buffer.alloc(700_000, "compressible "));

function source(name: string, text = yaml): string {
  mkdirSync(at(name), { recursive: true });
  writeFileSync(join(at(name), "guestos.yaml"), text);
  return at(name);
}

const signer = ["--key", join(keys, "guestos-signer.key"), "--cert", join(keys, "guestos-signer.crt")];
const build = (folder: string, out: string, ...more: string[]): Promise<Run> =>
  gimbal("guestos", "build", folder, "--rootfs", rootfs, ...signer, "--out", at(out), ...more);
const verify = (path: string, ...more: string[]): Promise<Run> =>
  gimbal("guestos", "verify", path, "--ca", join(keys, "platform-ca.crt"), ...more);

const web = source("web");
const first = await build(web, "out", "--json");
const built = join(at("out"), "web-1");

t.test("a GuestOS is built, shown and verified", async (t) => {
  t.equal(first.status, 0, first.stderr);
  t.match(JSON.parse(first.stdout), {
    name: "web",
    version: 1,
    folder: built,
    images: [{ file: "root.img" }],
  });
  t.same(readdirSync(built).sort(), ["manifest.cose", "root.img"]);
  t.match(await gimbal("guestos", "show", built), {
    status: 0,
    stdout: /web-1 \(x86-64, service\)[\s\S]*not verified/,
  });
  t.match(JSON.parse((await gimbal("guestos", "show", join(built, "manifest.cose"), "--json")).stdout), {
    init_path: "/usr/bin/web",
    verified: false,
    mounts: [{ image_file: "root.img", verity: { data_blocks: Number } }],
  });
  t.match(await verify(built), { status: 0, stdout: /web-1 is signed by "gimbal product GuestOS signer"/ });
  t.match(JSON.parse((await verify(built, "--json")).stdout), { verified: true });
});

t.test("the image is an EROFS with the files, behind a tree that veritysetup takes", async (t) => {
  const { mounts } = JSON.parse((await gimbal("guestos", "show", built, "--json")).stdout);
  const { verity } = mounts[0];
  const image = join(built, "root.img");
  execFileSync("veritysetup", [
    "verify",
    `--hash-offset=${verity.hash_offset}`,
    image,
    image,
    verity.root_hash,
  ]);
  const out = at("extracted");
  execFileSync("fsck.erofs", [`--extract=${out}`, image]);
  t.ok(readFileSync(join(out, "large")).equals(readFileSync(join(rootfs, "large"))));
});

t.test("the same inputs give the same image, from a folder, a tar and a packed tar", async (t) => {
  const image = (out: string) => readFileSync(join(at(out), "web-1", "root.img"));
  t.equal((await build(web, "again")).status, 0);
  t.ok(image("again").equals(image("out")), "twice from a folder");
  const tar = at("root.tar");
  execFileSync("tar", [
    "--create",
    "--sort=name",
    "--owner=0",
    "--group=0",
    "--file",
    tar,
    "-C",
    rootfs,
    ".",
  ]);
  const ofTar = (out: string, path: string) =>
    gimbal("guestos", "build", web, "--rootfs", path, ...signer, "--out", at(out));
  t.match(await ofTar("tar1", tar), { status: 0 });
  t.match(await ofTar("tar2", tar), { status: 0 });
  t.ok(image("tar1").equals(image("tar2")), "twice from a tar");
  execFileSync("gzip", ["--keep", tar]);
  t.match(await ofTar("gz", `${tar}.gz`), { status: 0 });
  t.match(await verify(join(at("gz"), "web-1")), { status: 0 });
});

t.test("what is there is not replaced by itself", async (t) => {
  const before = readFileSync(join(built, "manifest.cose"));
  t.match(await build(web, "out"), { status: 1, stderr: /web-1: it is there already; raise the version/ });
  t.ok(readFileSync(join(built, "manifest.cose")).equals(before));
  t.equal((await build(web, "out", "--version", "2")).status, 0);
  t.ok(existsSync(join(at("out"), "web-2")));
  t.equal((await build(web, "out", "--version", "2", "--force")).status, 0);
});

t.test("a guestos.yaml with a fault is refused with its place, before anything is made", async (t) => {
  const cases: readonly (readonly [RegExp, string])[] = [
    [/line 3, column/, `${yaml.split("\n").slice(0, 2).join("\n")}\n\tx: [\n`],
    [/keys must be unique/, `${yaml}name: other\n`],
    [/it is no map/, "- a\n"],
    [/it has no name/, yaml.replace("name: web\n", "")],
    [/it has no list of mounts/, "name: web\nmounts: x\n"],
    [/unknown key "colour"/, `${yaml}colour: red\n`],
    [/unknown key "__proto__"/, `${yaml}__proto__: { setuid: true }\n`],
    [/field name is no name/, yaml.replace("name: web", "name: Web_1")],
    [/profile is none of service, full-os/, yaml.replace("service", "other")],
    [/version is no whole number/, yaml.replace("version: 1", "version: one")],
    [/mounts\[0\]\.mount_type is none of/, yaml.replace("SHARED", "SHARE")],
    [/fs_type is squashfs, and images are made as erofs/, yaml.replace("erofs", "squashfs")],
    [
      /mount type OVERLAY_RO is not supported/,
      yaml
        .replace("mounts:", "mounts:")
        .replace(
          /(\s+- \{.*\})/,
          "$1\n  - { image_file: f.img, mount_point: /f, fs_type: erofs, mount_type: OVERLAY_RO }",
        ),
    ],
    [
      /nothing says what is in it; use --image data.img=/,
      yaml.replace(
        /(\s+- \{.*\})/,
        "$1\n  - { image_file: data.img, mount_point: /d, fs_type: erofs, mount_type: SHARED }",
      ),
    ],
    [/description is no text/, `${yaml}description: &a [*a]\n`],
  ];
  for (const [index, [why, text]] of cases.entries()) {
    const more = String(why).includes("OVERLAY_RO") ? ["--image", `f.img=${rootfs}`] : [];
    const run = await build(source(`bad-${index}`, text), "bad-out", ...more);
    t.match(run, { status: 1, stdout: "", stderr: why }, String(why));
    t.notMatch(run.stderr, /at .*\.ts:/, "no stack");
  }
  t.notOk(existsSync(at("bad-out")));
});

t.test("a second image comes from its own folder", async (t) => {
  mkdirSync(at("data"));
  writeFileSync(join(at("data"), "file"), "data");
  mkdirSync(join(rootfs, "d"), { recursive: true });
  const two = source(
    "two",
    yaml.replace(
      /(\s+- \{.*\})/,
      "$1\n  - { image_file: data.img, mount_point: /d, fs_type: erofs, mount_type: SHARED }",
    ),
  );
  t.match(await build(two, "two-out", "--image", `data.img=${at("data")}`), {
    status: 0,
    stdout: /data\.img/,
  });
  t.match(await verify(join(at("two-out"), "web-1")), { status: 0, stdout: /root.img, data.img/ });
  t.match(await build(two, "two-out", "--image", "x"), { status: 2, stderr: /not FILE=FOLDER/ });
  t.match(await build(web, "x-out", "--image", `other.img=${at("data")}`), {
    status: 1,
    stderr: /no mount has this image_file/,
  });
});

t.test("a root without what every start needs is refused by name, and nothing is left", async (t) => {
  const poor = at("poor");
  mkdirSync(join(poor, "dev"), { recursive: true });
  writeFileSync(join(poor, "proc"), "");
  const run = await gimbal("guestos", "build", web, "--rootfs", poor, ...signer, "--out", at("poor-out"));
  t.match(run, {
    status: 1,
    stderr: /\/proc is no directory in it.*\/sys is no directory.*init_path \/usr\/bin\/web is not in it/,
  });
  t.same(readdirSync(at("poor-out")), []);
  t.match(await gimbal("guestos", "build", web, "--rootfs", at("none"), ...signer, "--out", at("poor-out")), {
    status: 1,
    stderr: /none: it is not there/,
  });
});

t.test("programs with setuid bits that the manifest does not speak of are told", async (t) => {
  const copy = at("setuid-root");
  cpSync(rootfs, copy, { recursive: true });
  chmodSync(join(copy, "usr/bin/web"), 0o4755);
  const run = await gimbal("guestos", "build", web, "--rootfs", copy, ...signer, "--out", at("setuid-out"));
  t.match(run, { status: 0, stderr: /gimbal: warning: without "setuid: true".*\/usr\/bin\/web/ });
});

t.test("who may not sign is told before the build", async (t) => {
  const by = (key: string, cert: string) =>
    gimbal(
      "guestos",
      "build",
      web,
      "--rootfs",
      rootfs,
      "--key",
      join(keys, key),
      "--cert",
      join(keys, cert),
      "--out",
      at("no"),
    );
  t.match(await by("platform-ca.key", "platform-ca.crt"), {
    status: 1,
    stderr: /is a CA, and a CA signs no GuestOSes/,
  });
  t.match(await by("db.key", "db.crt"), { status: 1, stderr: /neither P-256 nor P-384/ });
  t.match(await by("release.key", "guestos-signer.crt"), { status: 1, stderr: /belongs to another key/ });
  t.match(await by("guestos-signer.crt", "guestos-signer.crt"), {
    status: 1,
    stderr: /no private key in PEM/,
  });
  t.match(await by("guestos-signer.key", "release.pub"), {
    status: 1,
    stderr: /holds no certificate in PEM/,
  });
  t.match(await by("guestos-signer.key", "none"), { status: 1, stderr: /ENOENT/ });
  t.notOk(existsSync(at("no")));
});

t.test("--db-key signs root hashes so that OpenSSL, and the kernel, take them", async (t) => {
  const db = ["--db-key", join(keys, "db.key"), "--db-cert", join(keys, "db.crt")];
  t.equal((await build(web, "db-out", ...db)).status, 0);
  const { verity } = JSON.parse(
    (await gimbal("guestos", "show", join(at("db-out"), "web-1"), "--json")).stdout,
  ).mounts[0];
  writeFileSync(at("sig"), Buffer.from(verity.signature, "hex"));
  writeFileSync(at("hash"), verity.root_hash);
  execFileSync(
    "openssl",
    [
      ...["smime", "-verify", "-inform", "der", "-in", at("sig"), "-content", at("hash"), "-binary"],
      ...["-certfile", join(keys, "db.crt"), "-noverify", "-nointern", "-out", at("said")],
    ],
    { stdio: "pipe" },
  );
  t.match(await build(web, "db-out", ...db.slice(0, 2)), {
    status: 2,
    stderr: /--db-key and --db-cert go together/,
  });
});

t.test("verify refuses what a device refuses", async (t) => {
  const harmed = (name: string, harm: (folder: string) => void) => {
    cpSync(built, at(name), { recursive: true });
    harm(at(name));
    return at(name);
  };
  const code = (run: Run) => (run.status === 1 ? JSON.parse(run.stdout).error.code : `status ${run.status}`);
  const image = (folder: string) => join(folder, "root.img");
  const flip = (path: string, place: number) => {
    const bytes = readFileSync(path);
    const index = place < 0 ? bytes.length + place : place;
    bytes[index] = (bytes[index] ?? 0) ^ 1;
    writeFileSync(path, bytes);
  };
  const cut = harmed("h1", (folder) => truncateSync(image(folder), 4096));
  t.equal(code(await verify(cut, "--json")), "image-truncated");
  for (const place of [0, 5000, -1])
    t.equal(
      code(
        await verify(
          harmed(`h-${place}`, (folder) => flip(image(folder), place)),
          "--json",
        ),
      ),
      "guestos-altered",
    );
  const missing = harmed("h2", (folder) => rmSync(image(folder)));
  t.equal(code(await verify(missing, "--json")), "guestos-incomplete");
  const altered = harmed("h3", (folder) => flip(join(folder, "manifest.cose"), -1));
  t.equal(code(await verify(altered, "--json")), "guestos-signature");
  t.equal(code(await verify(built, "--json", "--at", "2099-01-01")), "guestos-expired");
  t.equal(code(await verify(built, "--json", "--hardware", "arm64")), "guestos-hardware");
  await gimbal("pki", "init", at("others"));
  t.equal(
    code(await gimbal("guestos", "verify", built, "--json", "--ca", join(at("others"), "platform-ca.crt"))),
    "guestos-untrusted",
  );
  t.equal(code(await verify(at("web"), "--json")), "manifest-malformed");
});

t.test("help and mistakes of usage", async (t) => {
  t.match(await gimbal("--help"), { status: 0, stdout: /Usage: gimbal/ });
  t.match(await gimbal("guestos", "build", "--help"), { status: 0, stdout: /--rootfs <folder\|tar>/ });
  t.match(await gimbal(), { status: 2, stderr: /Usage: gimbal/ });
  t.match(await gimbal("frob"), { status: 2, stderr: /unknown command/ });
  t.match(await gimbal("guestos", "verify", built), { status: 2, stderr: /--ca/ });
  t.match(await build(web, "out", "--version", "0"), { status: 2, stderr: /no whole number/ });
});
