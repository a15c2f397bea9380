/**
 * GuestOSes that a device must refuse, put on the boot partition of a new one: each with its sentence on the screen, and none of them in
 * the list. Then images that only dm-verity can judge, and core containers that must not start. One boot serves most of it.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import { signRootHash } from "../../../guestos/signer.ts";
import { parseManifest } from "../../../init/guestos/manifest.ts";
import { roles } from "../../../init/trust/roles.ts";
import { type Boot, buildForTest, repository, TestDevice } from "../harness.ts";
import {
  builtGuest,
  foreignCa,
  harmedGuestoses,
  remade,
  signer,
  withFlippedBlock,
  withRootMount,
} from "./harmed.ts";

t.setTimeout(30 * 60_000);
execFileSync(process.execPath, [join(repository, "guestos/build.ts"), "x64"], {
  cwd: repository,
  stdio: "inherit",
});
await buildForTest();

const sources = join(repository, "build/system/guestos-refusals-sources");
rmSync(sources, { recursive: true, force: true });
t.teardown(() => rmSync(sources, { recursive: true, force: true }));

type Answer = { readonly status: number; readonly stdout: string; readonly stderr: string };
type Core = { run(line: string): Promise<Answer>; powerOff(): Promise<void> };

/** Commands in c0. */
async function coreOf(boot: Boot): Promise<Core> {
  const device = await boot.device();
  return {
    powerOff: () => device.powerOff(),
    async run(line) {
      const [output, errors]: [Uint8Array[], Uint8Array[]] = [[], []];
      const { status } = await device.run(
        line,
        (chunk) => output.push(chunk),
        (chunk) => errors.push(chunk),
      );
      return { status, stdout: Buffer.concat(output).toString(), stderr: Buffer.concat(errors).toString() };
    },
  };
}

/** Octet of the image in the middle of a file. */
function placeOf(image: string, path: string): number {
  const extents = execFileSync("dump.erofs", ["-e", `--path=${path}`, image], { encoding: "utf8" });
  const starts = [...extents.matchAll(/^ *\d+: +\d+\.\. *\d+ \| +\d+ : +(\d+)\.\./gm)].map((match) =>
    Number(match[1]),
  );
  const middle = starts[starts.length >> 1];
  if (middle === undefined) throw new Error(`no extents of ${path}`);
  return middle + 2048;
}

t.test("harmed GuestOSes are refused one by one, and images through dm-verity", async (t) => {
  const [hello, debian] = [builtGuest("hello"), builtGuest("debian")];
  const harmed = await harmedGuestoses(hello, sources);
  const folders = [
    builtGuest("c0"),
    ...harmed.map(({ folder }) => folder),
    remade(hello, sources, "good"),
    withFlippedBlock(hello, sources, "first-block", 1024),
    withFlippedBlock(debian, sources, "middle", placeOf(join(debian, "root.img"), "/usr/bin/vim.tiny")),
  ];
  await using device = await TestDevice.create("guestos-refusals", { guestosFolders: folders });
  await using boot = await device.boot();
  const core = await coreOf(boot);
  const lines = boot.console.replaceAll(/\s+/g, " ");
  for (const { name, sentence } of harmed) {
    const wanted = new RegExp(`${name}-1: ?${sentence.source}|${name}-1.{0,80}${sentence.source}`);
    t.match(lines, wanted, `${name} on the screen`);
  }
  const listed = JSON.parse((await core.run("control list_guestos --json")).stdout) as { name: string }[];
  t.same(listed.map(({ name }) => name).sort(), ["c0", "first-block", "good", "middle"]);
  for (const { name } of harmed) {
    const answer = await core.run(`control create ${name}`);
    t.equal(answer.status, 1, `no container of ${name}`);
  }
  await t.test("a bit in the first block refuses the start", async (t) => {
    t.equal((await core.run("control create first-block")).status, 0);
    const answer = await core.run("control start first-block");
    t.match(answer, { status: 1, stderr: /first blocks do not hash to the root/ });
    t.match((await core.run("control state first-block --json")).stdout, /"state": "STOPPED"/);
  });
  await t.test("a good guest beside it starts", async (t) => {
    await core.run("control create good");
    t.equal((await core.run("control start good")).status, 0);
    t.match((await core.run("control logs good")).stdout, /hello/);
  });
  await t.test(
    "a bit in the middle is an I/O error for the reader, told in the log; the guest goes on",
    async (t) => {
      await core.run("control create middle");
      t.equal((await core.run("control start middle")).status, 0);
      t.equal((await core.run("control run middle nopty cat /bin/true")).status, 0);
      const answer = await core.run("control run middle nopty cat /usr/bin/vim.tiny");
      t.match(answer, { status: 1, stderr: /Input\/output error/ });
      t.equal((await core.run("control run middle nopty true")).status, 0, "the guest goes on");
      t.equal((await core.run("control list")).status, 0, "and so does the device");
      await boot.waitFor(
        /image\s+root\.img\s+of\s+middle-1\s+is\s+damaged:\s+its\s+data\s+block\s+\d+/,
        20_000,
      );
    },
  );
  await core.powerOff();
  t.equal(await boot.ended(), "guest-shutdown");
});

/** A device whose only c0 is this one: nothing of it may start. */
async function refusesCore(t: Test, name: string, folder: string, sentence: RegExp): Promise<void> {
  await using device = await TestDevice.create(name, { guestosFolders: [folder] });
  await using boot = await device.boot();
  await boot.waitFor(sentence);
  t.notMatch(boot.console, /c0-\d+ started/);
}

t.test("a core container whose root hash is not signed for the kernel does not start", async (t) => {
  const unsigned = withRootMount((mount) => {
    const verity = new Map(mount.get("verity") as ReadonlyMap<string, never>);
    verity.delete("signature");
    return [["verity", verity]];
  });
  const folder = remade(builtGuest("c0"), join(sources, "unsigned"), "c0", { fields: unsigned });
  await refusesCore(t, "core-unsigned", folder, /its root hash is not signed for the\s+kernel/);
});

t.test("a core container whose root hash another db key signed is refused by the kernel", async (t) => {
  const keys = join(sources, "other-db");
  mkdirSync(keys, { recursive: true });
  execFileSync(
    "openssl",
    [
      ...["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=other db/"],
      ...["-keyout", join(keys, "db.key"), "-out", join(keys, "db.crt")],
    ],
    { stdio: "pipe" },
  );
  const good = builtGuest("c0");
  const { fields } = parseManifest(readFileSync(join(good, "manifest.cose")));
  const rootHash = Buffer.from(fields.mounts[0]?.verity?.rootHash ?? []).toString("hex");
  const signature = await signRootHash(
    { dbKey: join(keys, "db.key"), dbCertificate: join(keys, "db.crt") },
    rootHash,
  );
  const other = withRootMount((mount) => [
    ["verity", new Map([...(mount.get("verity") as ReadonlyMap<string, never>), ["signature", signature]])],
  ]);
  const folder = remade(good, join(sources, "other"), "c0", { fields: other });
  await refusesCore(t, "core-other-db", folder, /the kernel does not take the\s+signature of its root hash/);
});

t.test("a core container of a foreign CA does not start", async (t) => {
  const foreign = await signer({ is: "leaf", role: roles.guestosSigning }, await foreignCa());
  const folder = remade(builtGuest("c0"), join(sources, "foreign"), "c0", { signer: foreign });
  await refusesCore(t, "core-foreign", folder, /no trusted CA has signed\s+"test signer"/);
});
