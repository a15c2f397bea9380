/**
 * The data volume with the real cryptsetup, mke2fs and e2fsck on an image file. Only opening is played: this machine may have no
 * device-mapper, so "open" proves the key with --test-passphrase and puts an empty file in the mapper's place.
 */
import { createHash, randomBytes } from "node:crypto";
import {
  existsSync,
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
import type { StorageKey } from "../../../init/disk/adoption.ts";
import type { Partition } from "../../../init/disk/block.ts";
import { openDataVolume, type VolumeDeps } from "../../../init/disk/data-volume.ts";
import { checkExt4 } from "../../../init/disk/ext4.ts";
import { resealVolume, rotateRecoveryKey } from "../../../init/disk/keys.ts";
import { luks } from "../../../init/disk/luks.ts";
import { probePartition } from "../../../init/disk/probe.ts";
import { makeRecoveryKey, type RecoveryKey, recoveryPassphrase } from "../../../init/disk/recovery-key.ts";
import { GimbalError } from "../../../init/errors.ts";
import { type RunTool, runTool } from "../../../init/machine/process.ts";
import type { SealedBlob } from "../../../init/tpm/blob.ts";

const programs = {
  cryptsetup: "/usr/sbin/cryptsetup",
  mke2fs: "/usr/sbin/mke2fs",
  e2fsck: "/usr/sbin/e2fsck",
};
const missing = Object.values(programs).filter((path) => !existsSync(path));
if (missing.length > 0) {
  t.plan(0, `not installed: ${missing.join(", ")}`);
  process.exit(0);
}

t.setTimeout(240_000); // tap's own 30 s are for the whole file, and the machine may be busy
const sizeBytes = 24 * 1024 * 1024;

/** A TPM made of a map: what is sealed gets a number. */
function playedTpm() {
  const keys = new Map<string, Uint8Array>();
  return {
    keys,
    seal: async (key: Uint8Array): Promise<SealedBlob> => {
      const name = Buffer.from(randomBytes(8)).toString("base64");
      keys.set(name, Uint8Array.from(key));
      const rest = { version: 1, bank: "sha256", parentType: "ecc", pcrs: { "7": "00".repeat(32) } } as const;
      return {
        ...rest,
        public: name,
        private: "cHI=",
        releaseKey: "a2V5",
        parentName: `000b${"ab".repeat(32)}`,
      };
    },
    unseal: async (blob: SealedBlob): Promise<Uint8Array> => {
      const key = keys.get(blob.public);
      if (key) return Uint8Array.from(key);
      throw new GimbalError("tpm-object-foreign", {
        tried: "unseal",
        on: "the key",
        why: "another TPM sealed it",
      });
    },
  };
}

/** cryptsetup, but for the mapping itself. */
function withoutMapper(mapper: string, before: (args: readonly string[]) => void = () => undefined): RunTool {
  return async (path, args, options) => {
    before(args);
    if (path !== programs.cryptsetup || args.includes("--test-passphrase"))
      return runTool(path, args, options);
    if (args.includes("close")) {
      rmSync(join(mapper, args.at(-1) ?? ""));
      return { status: 0, stdout: new Uint8Array(), stderr: "" };
    }
    if (!args.includes("open")) return runTool(path, args, options);
    const name = args.at(-1) ?? "";
    const result = await runTool(path, [...args.slice(0, -1), "--test-passphrase"], options);
    if (result.status === 0 && !existsSync(join(mapper, name))) {
      writeFileSync(join(mapper, name), "");
      truncateSync(join(mapper, name), sizeBytes - 4 * 1024 * 1024);
    }
    return result;
  };
}

function device(change: Partial<VolumeDeps> = {}, before?: (args: readonly string[]) => void) {
  const folder = mkdtempSync(join(tmpdir(), "gimbal-volume-"));
  const path = join(folder, "partition");
  writeFileSync(path, "");
  truncateSync(path, sizeBytes);
  const mapper = mkdtempSync(join(tmpdir(), "gimbal-mapper-"));
  const tpm = playedTpm();
  const shown: RecoveryKey[] = [];
  const notes: string[] = [];
  const asked: string[] = [];
  const deps: VolumeDeps = {
    runTool: withoutMapper(mapper, before),
    tpm: "present",
    seal: tpm.seal,
    unseal: tpm.unseal,
    askRecoveryKey: async (why) => {
      asked.push(why);
      return undefined;
    },
    showRecoveryKey: async (key) => {
      shown.push(key);
    },
    note: (text) => notes.push(text),
    programs: { ...programs, mapper },
    runFolder: join(folder, "run"),
    wait: async () => undefined,
    ...change,
  };
  const partition: Partition = {
    path,
    name: "vda2",
    disk: "vda",
    label: "gimbal-data",
    sizeBytes: BigInt(sizeBytes),
  };
  const open = (more: Partial<VolumeDeps> = {}, provisioned = false, storageKey: StorageKey = "tpm") =>
    openDataVolume({ ...deps, ...more }, { partition, provisioned, storageKey });
  const digest = () => createHash("sha256").update(readFileSync(path)).digest("hex");
  return { deps, partition, open, digest, tpm, shown, notes, asked, mapper, folder };
}

t.test("an empty partition becomes the volume, opens by TPM, then by recovery key", async (t) => {
  const it = device();
  const made = await it.open();
  t.match(made, { how: { is: "initialised" }, devicePath: join(it.mapper, "gimbal-data") });
  t.equal(it.shown.length, 1, "the recovery key was shown once");
  t.equal(await checkExt4(runTool, made.devicePath), "clean");
  await made.close();
  t.same(readdirSync(it.mapper), []);

  const second = await it.open();
  t.same(second.how, { is: "unsealed", slot: 0 });
  t.equal(second.uuid, made.uuid);
  await second.close();
  t.equal(it.shown.length, 1);
  t.same(readdirSync(join(it.folder, "run")), [], "no header stays in memory");

  it.tpm.keys.clear();
  const recovered = await it.open({ askRecoveryKey: async () => it.shown[0] });
  t.match(recovered.how, { is: "recovered", slot: 1, why: /another TPM sealed it/ });
  await recovered.close();
});

t.test("plain cryptsetup takes the recovery key as it was shown", async (t) => {
  const it = device();
  await (await it.open()).close();
  const stdin = Buffer.from(it.shown[0]?.text ?? "");
  const result = await runTool(
    programs.cryptsetup,
    ["open", "--test-passphrase", "--key-file=-", it.partition.path],
    { stdin, timeoutMs: 60_000 },
  );
  t.equal(result.status, 0, result.stderr);
});

t.test("wrong recovery keys only cost time; nobody answering ends with the reason", async (t) => {
  const it = device();
  await (await it.open()).close();
  it.tpm.keys.clear();
  const waits: number[] = [];
  const answers = [makeRecoveryKey(), makeRecoveryKey(), makeRecoveryKey(), makeRecoveryKey(), it.shown[0]];
  const volume = await it.open({
    askRecoveryKey: async () => answers.shift(),
    wait: async (ms) => waits.push(ms),
  });
  t.match(volume.how, { is: "recovered" });
  t.same(waits, [1000, 2000]);
  await volume.close();
  await t.rejects(it.open(), { code: "recovery-key-refused", message: /another TPM/ });
});

t.test("what is refused stays as it is, octet by octet", async (t) => {
  const plain = device();
  await runTool(programs.mke2fs, ["-q", "-F", "-t", "ext4", plain.partition.path], { timeoutMs: 60_000 });
  const unknown = device();
  await luks(runTool).format(unknown.partition.path, randomBytes(32), { label: "backup", subsystem: "" });
  const other = device();
  await (await other.open()).close();
  other.tpm.keys.clear();
  const damaged = device();
  await (await damaged.open()).close();
  const octets = readFileSync(damaged.partition.path);
  octets.fill(0xff, 4096, 8192);
  octets.fill(0xff, 16384 + 4096, 16384 + 8192);
  writeFileSync(damaged.partition.path, octets);
  const emptied = device();
  const cases = [
    [plain, "disk-foreign", false],
    [plain, "disk-foreign", true],
    [unknown, "luks-header-foreign", false],
    [other, "recovery-key-refused", false],
    [damaged, "luks-header-damaged", false],
    [emptied, "disk-emptied", true],
  ] as const;
  for (const [it, code, provisioned] of cases) {
    const before = it.digest();
    await t.rejects(it.open({}, provisioned), { code }, code);
    t.equal(it.digest(), before, `${code}: untouched`);
    t.same(readdirSync(it.mapper), [], "nothing is open");
  }
});

t.test("an initialisation cut at any step is known as ours and done again", async (t) => {
  const whole = device();
  const steps: string[] = [];
  await (await whole.open({ note: (text) => steps.push(text) })).close();
  t.ok(steps.length >= 5);
  for (let cut = 1; cut <= 12; cut++) {
    let calls = 0;
    let reached = false;
    const it = device({}, () => {
      calls++;
      reached ||= calls === cut;
      if (calls === cut) throw new Error("the power went");
    });
    const result = await it
      .open()
      .then((volume) => volume.close())
      .then(
        () => "complete",
        () => "cut",
      );
    if (!reached) {
      t.equal(result, "complete");
      t.ok(cut > 5, "every program was cut once");
      break;
    }
    const probe = await probePartition(it.partition.path, it.partition.sizeBytes);
    // The last calls come after the volume is complete (its close).
    t.match(probe.is, /^(unfinished|luks2)$/, `cut ${cut}`);
    if (probe.is === "luks2") t.equal(it.shown.length, 1, "complete only once the recovery key was shown");
    for (const name of readdirSync(it.mapper)) rmSync(join(it.mapper, name)); // as a restart does
    const volume = await it.open();
    t.equal(volume.how.is, probe.is === "luks2" ? "unsealed" : "initialised");
    await volume.close();
  }
});

t.test("a seal or a screen that fails leaves no complete volume", async (t) => {
  for (const change of ["seal", "showRecoveryKey"] as const) {
    const it = device();
    const fails = async () => {
      throw new GimbalError("tpm-failure", {
        tried: "seal",
        on: "the key",
        why: "the TPM is in failure mode",
      });
    };
    await t.rejects(it.open({ [change]: fails }), { code: "tpm-failure" });
    t.match(await probePartition(it.partition.path, it.partition.sizeBytes), { is: "unfinished" });
    t.same(readdirSync(it.mapper), []);
  }
});

t.test("a damaged first header is repaired after the volume was opened from the second", async (t) => {
  const it = device();
  await (await it.open()).close();
  const octets = readFileSync(it.partition.path);
  octets.fill(0xff, 4096, 8192);
  writeFileSync(it.partition.path, octets);
  const volume = await it.open();
  t.match(volume.how, { is: "unsealed" });
  await volume.close();
  t.match(await probePartition(it.partition.path, it.partition.sizeBytes), { header: { copies: "both" } });
});

t.test("boards without a TPM: the operator's key, or the key beside the lock", async (t) => {
  const operator = device({ tpm: "absent" });
  await (await operator.open({}, false, "recovery-only")).close();
  const recovered = await operator.open(
    { askRecoveryKey: async () => operator.shown[0] },
    false,
    "recovery-only",
  );
  t.match(recovered.how, { is: "recovered", slot: 1 });
  await recovered.close();

  const none = device({ tpm: "absent" });
  await (await none.open({}, false, "none")).close();
  const volume = await none.open({}, true, "none");
  t.same(volume.how, { is: "clear", slot: 0 });
  await volume.close();
  await t.rejects(
    none.open({ tpm: "present" }),
    { code: "luks-header-foreign" },
    "but not on a board with one",
  );
});

t.test("reseal and a new recovery key: added, proved, then the old ones go", async (t) => {
  const it = device();
  await (await it.open()).close();
  const [old] = it.shown;
  if (!old) throw new Error("no key was shown");
  it.tpm.keys.clear(); // the TPM was cleared
  await t.rejects(resealVolume(it.deps, it.partition, randomBytes(32)), { code: "luks-key-refused" });
  await resealVolume(it.deps, it.partition, recoveryPassphrase(old));
  const volume = await it.open();
  t.same(volume.how, { is: "unsealed", slot: 2 });
  await volume.close();
  await resealVolume(it.deps, it.partition, recoveryPassphrase(old));
  const again = await it.open();
  t.same(again.how, { is: "unsealed", slot: 0 }, "the slots take turns");
  await again.close();
  t.equal(it.tpm.keys.size, 2);

  const keys: RecoveryKey[] = [];
  await rotateRecoveryKey(it.deps, it.partition, recoveryPassphrase(old), async (key) => {
    keys.push(key);
  });
  const [fresh] = keys;
  if (!fresh) throw new Error("no key was shown");
  const tool = luks(runTool);
  await t.rejects(tool.slotOfKey(it.partition.path, recoveryPassphrase(old)), { code: "luks-key-refused" });
  t.equal(await tool.slotOfKey(it.partition.path, recoveryPassphrase(fresh)), 3);
});

t.test("a reseal cut at any step leaves a volume that opens, and the next one works", async (t) => {
  for (let cut = 1; cut <= 9; cut++) {
    const it = device();
    await (await it.open()).close();
    const [recovery] = it.shown;
    if (!recovery) throw new Error("no key was shown");
    let calls = 0;
    const cutting: RunTool = async (path, args, options) => {
      if (++calls >= cut) throw new Error("the power went");
      return it.deps.runTool(path, args, options);
    };
    const proof = recoveryPassphrase(recovery);
    const done = await resealVolume({ ...it.deps, runTool: cutting }, it.partition, proof).then(
      () => true,
      () => false,
    );
    const volume = await it.open();
    t.match(volume.how, { is: "unsealed" }, `cut ${cut}`);
    await volume.close();
    await resealVolume(it.deps, it.partition, proof);
    const after = await it.open();
    t.match(after.how, { is: "unsealed" });
    await after.close();
    if (done) {
      t.ok(cut > 5);
      break;
    }
  }
});
