/** tpm2-tools as a peer: what one names, seals, computes and quotes, the other reads. */
import { generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { decode } from "../../../init/bytes/struct.ts";
import { releasePolicyDigest } from "../../../init/measure/policy.ts";
import { releaseKeyArea } from "../../../init/tpm/keys.ts";
import { extendPcr, readPcrs } from "../../../init/tpm/pcr.ts";
import {
  afterPolicyAuthorize,
  afterPolicyNv,
  afterPolicyPcr,
  emptyPolicy,
} from "../../../init/tpm/policy-digest.ts";
import { explainResponseCode } from "../../../init/tpm/response-code.ts";
import { sealDiskKey } from "../../../init/tpm/sealing.ts";
import { nameOf, nvNameOf } from "../../../init/tpm/session.ts";
import { policyRef } from "../../../init/tpm/signed-policy.ts";
import { ensureSrk } from "../../../init/tpm/storage-key.ts";
import { nvBits, publicBuffer } from "../../../init/tpm/structures.ts";
import { haveSwtpm, haveTools, type SoftwareTpm, startSwtpm } from "./swtpm.ts";

const skip = haveSwtpm && haveTools ? {} : { skip: "swtpm or tpm2-tools are not installed" };
const octets = (text: string) => new TextEncoder().encode(text);
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const file = async (software: SoftwareTpm, name: string) =>
  new Uint8Array(await readFile(join(software.folder, name)));

t.test("our storage key is the one that the peer reads and makes", skip, async (t) => {
  await using software = await startSwtpm();
  let tpm = await software.connect();
  const ours = hex((await ensureSrk(tpm)).name);
  await tpm[Symbol.asyncDispose]();
  await software.tool("readpublic", "-c", "0x81000001", "-n", "persistent.name", "-o", "persistent.pub");
  t.equal(hex(await file(software, "persistent.name")), ours);
  // the tool takes the unique field as the C structure: two points of a length (little-endian) and 128 octets
  const coordinate = Buffer.concat([Buffer.from([32, 0]), Buffer.alloc(128)]);
  await writeFile(join(software.folder, "unique"), Buffer.concat([coordinate, coordinate]));
  await software.tool(
    "createprimary",
    "-u",
    "unique",
    "-C",
    "o",
    "-g",
    "sha256",
    "-G",
    "ecc256:aes128cfb",
    "-c",
    "peer.ctx",
    "-a",
    "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt",
  );
  await software.tool("readpublic", "-c", "peer.ctx", "-n", "peer.name");
  t.equal(hex(await file(software, "peer.name")), ours, "the same template gives the same key");
  const read = decode(publicBuffer, await file(software, "persistent.pub"));
  t.equal(read.is === "value" && hex(nameOf(read.value)), ours, "and its octets read back");
  tpm = await software.connect();
  t.equal(hex((await ensureSrk(tpm)).name), ours);
  await tpm[Symbol.asyncDispose]();
});

t.test("policy digests equal the peer's, for random PCR values", skip, async (t) => {
  await using software = await startSwtpm();
  const tool = software.tool;
  await tool("startauthsession", "-S", "trial.ctx");
  for (const pcrs of [[11], [11, 12, 13], [0, 7, 8, 15, 16, 23], [0, 1, 2, 3, 4, 5, 6, 23]]) {
    const values = new Map(pcrs.map((pcr) => [pcr, new Uint8Array(randomBytes(32))]));
    await writeFile(join(software.folder, "values"), Buffer.concat([...values.values()]));
    await tool("policyrestart", "-S", "trial.ctx");
    await tool(
      "policypcr",
      "-S",
      "trial.ctx",
      "-l",
      `sha256:${pcrs.join(",")}`,
      "-f",
      "values",
      "-L",
      "pcr.policy",
    );
    const mine = afterPolicyPcr(emptyPolicy, "sha256", values);
    t.equal(hex(mine), hex(await file(software, "pcr.policy")), `PolicyPCR ${pcrs.length}`);
    if (pcrs.length === 3) {
      const pcr11 = values.get(11) ?? new Uint8Array();
      await writeFile(join(software.folder, "values"), Buffer.concat([pcr11, Buffer.alloc(64)]));
      await tool("policyrestart", "-S", "trial.ctx");
      await tool(
        "policypcr",
        "-S",
        "trial.ctx",
        "-l",
        "sha256:11,12,13",
        "-f",
        "values",
        "-L",
        "release.policy",
      );
      t.equal(
        hex(releasePolicyDigest(pcr11)),
        hex(await file(software, "release.policy")),
        "a release's policy",
      );
    }
  }
  const { publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  await writeFile(join(software.folder, "release.pem"), publicKey.export({ format: "pem", type: "spki" }));
  await tool(
    "loadexternal",
    "-C",
    "o",
    "-G",
    "ecc",
    "-u",
    "release.pem",
    "-c",
    "release.ctx",
    "-n",
    "release.name",
  );
  const keyName = nameOf(releaseKeyArea(publicKey));
  t.equal(hex(keyName), hex(await file(software, "release.name")), "the release key's name");
  await tool("policyrestart", "-S", "trial.ctx");
  await tool(
    "policyauthorize",
    "-S",
    "trial.ctx",
    "-n",
    "release.name",
    "-i",
    "pcr.policy",
    "-q",
    hex(policyRef),
    "-L",
    "authorized.policy",
  );
  t.equal(
    hex(afterPolicyAuthorize(keyName, policyRef)),
    hex(await file(software, "authorized.policy")),
    "PolicyAuthorize",
  );
  await tool("flushcontext", "-t");
  await tool("nvdefine", "0x1800010", "-C", "o", "-s", "8", "-a", "ownerwrite|authread|no_da");
  await writeFile(join(software.folder, "floor"), Buffer.from("000000000000002b", "hex"));
  await tool("nvwrite", "0x1800010", "-C", "o", "-i", "floor");
  await writeFile(join(software.folder, "number"), Buffer.from("000000000000002c", "hex"));
  await tool("policyrestart", "-S", "trial.ctx");
  await tool("policynv", "-S", "trial.ctx", "-i", "number", "-L", "nv.policy", "0x1800010", "ule");
  const index = {
    index: 0x01800010,
    nameAlg: "sha256",
    attributes: nvBits.ownerWrite | nvBits.authRead | nvBits.noDa | nvBits.written,
    authPolicy: new Uint8Array(),
    dataBytes: 8,
  } as const;
  const operand = new Uint8Array([0, 0, 0, 0, 0, 0, 0, 0x2c]);
  t.equal(
    hex(afterPolicyNv(emptyPolicy, nvNameOf(index), operand, 0, 9)),
    hex(await file(software, "nv.policy")),
    "PolicyNV",
  );
});

t.test("the peer opens what we sealed, step by step", skip, async (t) => {
  await using software = await startSwtpm();
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const key = randomBytes(32);
  const tpm = await software.connect();
  await extendPcr(tpm, 7, octets("keys"));
  await extendPcr(tpm, 11, octets("image"));
  const pcr11 = (await readPcrs(tpm, "sha256", [11])).get(11) ?? new Uint8Array();
  const blob = await sealDiskKey(tpm, { key, releaseKey: publicKey });
  await tpm[Symbol.asyncDispose]();
  const put = (name: string, content: string | Uint8Array) => writeFile(join(software.folder, name), content);
  const approved = releasePolicyDigest(pcr11);
  await put("sealed.pub", Buffer.from(blob.public, "base64"));
  await put("sealed.priv", Buffer.from(blob.private, "base64"));
  await put("release.pem", publicKey.export({ format: "pem", type: "spki" }));
  await put("approved", approved);
  await put("message", Buffer.concat([approved, policyRef]));
  await put("signature", sign("sha256", Buffer.concat([approved, policyRef]), privateKey));
  const tool = software.tool;
  await tool(
    "loadexternal",
    "-C",
    "o",
    "-G",
    "ecc",
    "-u",
    "release.pem",
    "-c",
    "release.ctx",
    "-n",
    "release.name",
  );
  await tool(
    "verifysignature",
    "-c",
    "release.ctx",
    "-g",
    "sha256",
    "-m",
    "message",
    "-s",
    "signature",
    "-f",
    "ecdsa",
    "-t",
    "ticket",
  );
  await tool("flushcontext", "-t");
  await tool("load", "-C", "0x81000001", "-u", "sealed.pub", "-r", "sealed.priv", "-c", "sealed.ctx");
  await tool("flushcontext", "-t");
  await tool("startauthsession", "--policy-session", "-S", "session.ctx");
  await tool("policypcr", "-S", "session.ctx", "-l", "sha256:11,12,13");
  await tool(
    "policyauthorize",
    "-S",
    "session.ctx",
    "-n",
    "release.name",
    "-i",
    "approved",
    "-q",
    hex(policyRef),
    "-t",
    "ticket",
  );
  await tool("policypcr", "-S", "session.ctx", "-l", "sha256:7");
  await tool("unseal", "-c", "sealed.ctx", "-p", "session:session.ctx", "-o", "opened");
  t.equal(hex(await file(software, "opened")), key.toString("hex"));
});

t.test("response codes mean to us what they mean to the peer", skip, async (t) => {
  await using software = await startSwtpm();
  const expectations: readonly [number, RegExp, string | undefined][] = [
    [0x101, /because of a TPM failure/, undefined],
    [0x126, /policy failure/, undefined],
    [0x14b, /insufficient space/, undefined],
    [0x18b, /handle\(1\):the handle is not correct/, "handle 1"],
    [0x1c4, /parameter\(1\):value is out of range/, "parameter 1"],
    [0x2c3, /parameter\(2\):hash algorithm/, "parameter 2"],
    [0x902, /out of memory for object contexts/, undefined],
    [0x921, /lockout mode/, undefined],
    [0x922, /TPM was not able to start the command/, undefined],
    [0x99d, /session\(1\):a policy check failed/, "session 1"],
    [0x9a2, /session\(1\):authorization failure without DA/, "session 1"],
  ];
  for (const [code, words, place] of expectations) {
    t.match(
      await software.tool("rc_decode", `0x${code.toString(16)}`),
      words,
      `the peer's ${code.toString(16)}`,
    );
    const mine = explainResponseCode(code);
    t.equal(mine.place, place, `our place of ${code.toString(16)}`);
    t.match(mine.name, /^TPM_RC_[A-Z_]+$/);
  }
  t.equal(explainResponseCode(0x9a2).name, "TPM_RC_BAD_AUTH");
  t.equal(explainResponseCode(0x99d).name, "TPM_RC_POLICY_FAIL");
  t.equal(explainResponseCode(0x18b).name, "TPM_RC_HANDLE");
  t.match(explainResponseCode(0x7ff).meaning, /unknown code 0x7ff/);
  t.match(explainResponseCode(0x01e).meaning, /TPM 1.2/);
});
