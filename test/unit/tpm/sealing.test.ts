import { generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import t from "tap";
import { GimbalError } from "../../../init/errors.ts";
import { signPcrPolicy } from "../../../init/measure/policy.ts";
import { parseSealedBlob, type SealedBlob } from "../../../init/tpm/blob.ts";
import { clear, createPrimary, evictControl, hierarchyChangeAuth } from "../../../init/tpm/commands.ts";
import { execute, flushQuietly } from "../../../init/tpm/execute.ts";
import { extendPcr, readPcrs } from "../../../init/tpm/pcr.ts";
import { makePrimary, readKey } from "../../../init/tpm/primary.ts";
import { sealDiskKey, unsealDiskKey } from "../../../init/tpm/sealing.ts";
import { handleEntity, nameOf, startSession } from "../../../init/tpm/session.ts";
import { parseSignedPolicies, policyRef, type SignedPolicy } from "../../../init/tpm/signed-policy.ts";
import { storageKey, storageKeyHandle, storageTemplates } from "../../../init/tpm/storage-key.ts";
import { objectBits, type PublicArea, permanentHandles } from "../../../init/tpm/structures.ts";
import type { Transport } from "../../../init/tpm/transport.ts";
import { haveSwtpm, leftHandles, meddled, startSwtpm } from "./swtpm.ts";

const skip = haveSwtpm ? {} : { skip: "swtpm is not installed" };
const octets = (text: string) => new TextEncoder().encode(text);
const key = octets("0123456789abcdef0123456789abcdef");
const release = generateKeyPairSync("ec", { namedCurve: "P-256" });

/** The signed policies of a release whose image gives this PCR 11. */
function policiesFor(pcr11: Uint8Array, privateKey: KeyObject = release.privateKey): readonly SignedPolicy[] {
  const parsed = parseSignedPolicies(octets(signPcrPolicy(privateKey, pcr11)));
  if (parsed.is === "refused") throw new Error(parsed.reason);
  return parsed.policies;
}

async function pcr11(tpm: Transport): Promise<Uint8Array> {
  return (await readPcrs(tpm, "sha256", [11])).get(11) ?? new Uint8Array();
}

/** A device that booted: PCR 7 and 11 measured, key sealed, and the release's policies for this state. */
async function bootAndSeal(tpm: Transport) {
  await extendPcr(tpm, 7, octets("secure boot state"));
  await extendPcr(tpm, 11, octets("the image"));
  const signedPolicies = policiesFor(await pcr11(tpm));
  const blob = await sealDiskKey(tpm, { key, releaseKey: release.publicKey });
  return { blob, signedPolicies };
}

async function boot(tpm: Transport, image = "the image", secureBoot = "secure boot state") {
  await extendPcr(tpm, 7, octets(secureBoot));
  if (image !== "") await extendPcr(tpm, 11, octets(image));
}

const code = (error: unknown) => (error instanceof GimbalError ? error.code : String(error));
const sentence = (error: unknown) => (error instanceof Error ? error.message : String(error));

t.test("unsealDiskKey refuses and says which PCR is off", skip, async (t) => {
  await using software = await startSwtpm();
  let tpm = await software.connect();
  const { blob, signedPolicies } = await bootAndSeal(tpm);
  const other = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const forged: SignedPolicy[] = signedPolicies.map((policy) => ({
    ...policy,
    signature: sign("sha256", Buffer.concat([policy.policyDigest, policyRef]), other.privateKey),
  }));
  const wrongRef = signedPolicies.map((policy) => ({
    ...policy,
    signature: sign("sha256", Buffer.concat([policy.policyDigest, octets("other-ref")]), release.privateKey),
  }));
  const foreignRelease = policiesFor(await pcr11(tpm), other.privateKey);

  type Case = {
    readonly name: string;
    readonly does?: (tpm: Transport) => Promise<unknown>;
    readonly image?: string;
    readonly secureBoot?: string;
    readonly policies?: readonly SignedPolicy[];
    readonly says: RegExp | readonly RegExp[];
    readonly saysNot?: RegExp;
  };
  const cases: readonly Case[] = [
    { name: "no signed policy", policies: [], says: /brings no signed policy/ },
    { name: "another release key", policies: foreignRelease, says: /no policy signed by the release key/ },
    { name: "a forged signature", policies: forged, says: /not signed by the release key/ },
    { name: "another policyRef", policies: wrongRef, says: /not signed by the release key/ },
    { name: "another image", image: "evil", says: /PCR 11 differs: the image/, saysNot: /PCR (7|12|13)/ },
    {
      name: "Secure Boot switched off",
      secureBoot: "off",
      says: /PCR 7 differs \(Secure Boot/,
      saysNot: /PCR 1/,
    },
    {
      name: "an SMBIOS string",
      does: (tpm) => extendPcr(tpm, 12, octets("evil=1")),
      says: /PCR 12 is not zero: something outside the signed image/,
      saysNot: /PCR (7|11|13)/,
    },
    {
      name: "an unsigned extension",
      does: (tpm) => extendPcr(tpm, 13, octets("raw")),
      says: /PCR 13 is not zero/,
      saysNot: /PCR (7|11|12)/,
    },
    {
      name: "the boot phase is over",
      does: (tpm) => extendPcr(tpm, 11, octets("leave-initrd")),
      says: /PCR 11 says "leave-initrd"/,
    },
    {
      name: "a kernel without its signed image",
      image: "",
      does: (tpm) => extendPcr(tpm, 11, octets("enter-initrd")),
      says: /PCR 11 holds no image/,
    },
    {
      name: "everything differs",
      image: "evil",
      secureBoot: "off",
      does: (tpm) => extendPcr(tpm, 12, octets("evil=1")),
      says: [/PCR 7 differs/, /PCR 12 is not zero/, /PCR 11 differs/],
    },
  ];
  for (const { name, does, image, secureBoot, policies, says, saysNot } of cases) {
    await tpm[Symbol.asyncDispose]();
    await software.restart();
    tpm = await software.connect();
    await boot(tpm, image, secureBoot);
    await does?.(tpm);
    const request = { blob, signedPolicies: policies ?? signedPolicies };
    const refusal = await unsealDiskKey(tpm, request).then(
      () => "unsealed",
      (error: unknown) => error,
    );
    t.equal(code(refusal), "tpm-policy-refused", name);
    for (const pattern of [says].flat()) t.match(sentence(refusal), pattern, name);
    if (saysNot) t.notMatch(sentence(refusal), saysNot, name);
    t.same(await leftHandles(tpm), [], `${name}: nothing left`);
  }
  await tpm[Symbol.asyncDispose]();
  await software.restart();
  tpm = await software.connect();
  await boot(tpm);
  t.same(
    await unsealDiskKey(tpm, { blob, signedPolicies: [...foreignRelease, ...signedPolicies] }),
    key,
    "and opens",
  );
  await tpm[Symbol.asyncDispose]();
});

t.test("the TPM itself refuses where our own checks are passed by", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  const { blob, signedPolicies } = await bootAndSeal(tpm);
  const before = await readPcrs(tpm, "sha256", [7, 11, 12, 13]);
  await extendPcr(tpm, 12, octets("evil=1"));
  // A transport that lies about PCR values gets past the comparison, and no further.
  const lying = meddled(tpm, async (_, command, pass) => {
    const response = await pass();
    if (Buffer.from(command).readUInt32BE(6) !== 0x17e) return response;
    const list = Buffer.concat(
      [7, 11, 12, 13].map((pcr) =>
        Buffer.concat([Buffer.from([0, 32]), before.get(pcr) ?? new Uint8Array()]),
      ),
    );
    return new Uint8Array(Buffer.concat([response.subarray(0, response.length - list.length), list]));
  });
  await t.rejects(unsealDiskKey(lying, { blob, signedPolicies }), { code: "tpm-policy-refused" });
  t.same(await leftHandles(tpm), []);
});

t.test("unsealDiskKey says so when the TPM was cleared or is another", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  const { blob, signedPolicies } = await bootAndSeal(tpm);
  await using other = await startSwtpm();
  await using otherTpm = await other.connect();
  await boot(otherTpm);
  const foreign = { code: "tpm-object-foreign", message: /TPM was cleared, or the disk belongs to another/ };
  await t.rejects(unsealDiskKey(otherTpm, { blob, signedPolicies }), foreign, "another TPM");
  t.same(await leftHandles(otherTpm), []);
  await execute(tpm, clear, { hierarchy: handleEntity(permanentHandles.lockout) }, {});
  await t.rejects(unsealDiskKey(tpm, { blob, signedPolicies }), foreign, "cleared");
  t.equal(await readKey(tpm, storageKeyHandle), undefined, "nothing was made persistent by a failed unseal");
  t.same(await leftHandles(tpm), []);
  await sealDiskKey(tpm, { key, releaseKey: release.publicKey });
  await t.rejects(unsealDiskKey(tpm, { blob, signedPolicies }), foreign, "cleared, with a new storage key");
  t.same(await leftHandles(tpm), []);
});

t.test("unsealDiskKey refuses a blob that was changed", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  const { blob, signedPolicies } = await bootAndSeal(tpm);
  const flip = (text: string, at: number) => {
    const changed = Buffer.from(text, "base64");
    changed[at] = (changed[at] ?? 0) ^ 1;
    return changed.toString("base64");
  };
  const evil = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const changes: Record<string, Partial<SealedBlob>> = {
    "private area": { private: flip(blob.private, 40) },
    "private area's length": { private: flip(blob.private, 1) },
    "public area": { public: flip(blob.public, 20) },
    "unique field": { public: flip(blob.public, 60) },
    "release key": { releaseKey: evil.publicKey.export({ format: "der", type: "spki" }).toString("base64") },
    "no release key": { releaseKey: "AAAA" },
    "no bound PCRs": { pcrs: {} },
  };
  for (const [name, change] of Object.entries(changes)) {
    const request = { blob: { ...blob, ...change }, signedPolicies };
    await t.rejects(unsealDiskKey(tpm, request), { code: "tpm-object-foreign" }, name);
    t.same(await leftHandles(tpm), [], name);
  }
  t.same(parseSealedBlob(JSON.parse(JSON.stringify(blob))), { is: "blob", blob }, "JSON and back");
});

t.test("sealing and unsealing leave nothing behind at whatever command they fail", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  const { blob, signedPolicies } = await bootAndSeal(tpm);
  const failed = new Uint8Array([0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x01]); // TPM_RC_FAILURE
  const ways = {
    "refused by the TPM": async () => failed,
    "never sent": async (): Promise<Uint8Array> => {
      throw new GimbalError("tpm-failure", { tried: "send", on: "the TPM", why: "the test says so" });
    },
  };
  const works = {
    seal: (tpm: Transport) => sealDiskKey(tpm, { key, releaseKey: release.publicKey }),
    unseal: (tpm: Transport) => unsealDiskKey(tpm, { blob, signedPolicies }),
  };
  for (const [workName, work] of Object.entries(works)) {
    const whole = meddled(tpm, (_, __, pass) => pass());
    await work(whole);
    t.ok(whole.count >= 5, `${workName} takes ${whole.count} commands`);
    for (const [wayName, way] of Object.entries(ways)) {
      for (let failing = 0; failing < whole.count; failing++) {
        const name = `${workName}, command ${failing} ${wayName}`;
        const bad = meddled(tpm, (index, _, pass) => (index === failing ? way() : pass()));
        const outcome = await work(bad).then(() => "done", code);
        // a failed flush is made good by the second try
        if (!["done", "tpm-failure", "tpm-object-foreign"].includes(String(outcome)))
          t.fail(`${name}: ${outcome}`);
        const left = await leftHandles(tpm);
        if (left.length > 0) t.fail(`${name}: left ${left.map((handle) => handle.toString(16))}`);
      }
    }
  }
  t.same(await works.unseal(tpm), key, "and the next one works");
});

t.test("a response altered on its way is refused, at every octet", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  const { blob, signedPolicies } = await bootAndSeal(tpm);
  const unsealCode = 0x15e;
  let length = 0;
  const alter = (at: number) =>
    meddled(tpm, async (_, command, pass) => {
      const response = Uint8Array.from(await pass());
      if (Buffer.from(command).readUInt32BE(6) !== unsealCode) return response;
      length = response.length;
      response[at] = (response[at] ?? 0) ^ 0x01;
      return response;
    });
  await unsealDiskKey(alter(9999), { blob, signedPolicies });
  t.ok(length > 100, `${length} octets`);
  let refused = 0;
  for (let at = 0; at < length; at++) {
    const outcome = await unsealDiskKey(alter(at), { blob, signedPolicies }).then(() => "unsealed", code);
    if (outcome === "unsealed") t.fail(`octet ${at} was not missed`);
    else refused++;
    if ((await leftHandles(tpm)).length > 0) t.fail(`octet ${at}: something left`);
  }
  t.equal(refused, length);
});

t.test("the key crosses the bus only encrypted, and no session repeats a nonce", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  const seen: Uint8Array[] = [];
  const tapped = meddled(tpm, async (_, command, pass) => {
    seen.push(command.slice());
    const response = await pass();
    seen.push(response.slice());
    return response;
  });
  const { blob, signedPolicies } = await bootAndSeal(tapped);
  t.same(await unsealDiskKey(tapped, { blob, signedPolicies }), key);
  t.ok(seen.length > 20);
  t.notOk(seen.some((message) => Buffer.from(message).includes(Buffer.from(key))));
});

t.test("bound PCRs are configurable, and may be none", skip, async (t) => {
  await using software = await startSwtpm();
  let tpm = await software.connect();
  await boot(tpm);
  const signedPolicies = policiesFor(await pcr11(tpm));
  const free = await sealDiskKey(tpm, { key, releaseKey: release.publicKey, boundPcrs: [] });
  const two = await sealDiskKey(tpm, { key, releaseKey: release.publicKey, boundPcrs: [4, 7] });
  t.same(Object.keys(free.pcrs), []);
  t.same(await unsealDiskKey(tpm, { blob: two, signedPolicies }), key);
  await tpm[Symbol.asyncDispose]();
  await software.restart();
  tpm = await software.connect();
  await boot(tpm, "the image", "off");
  await extendPcr(tpm, 4, octets("another loader"));
  t.same(await unsealDiskKey(tpm, { blob: free, signedPolicies }), key, "PCR 7 does not matter");
  await t.rejects(unsealDiskKey(tpm, { blob: two, signedPolicies }), {
    message: /PCR 4 differs.*PCR 7 differs/,
  });
  await tpm[Symbol.asyncDispose]();
});

t.test("an RSA storage key serves a TPM without P-256", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  await boot(tpm);
  const signedPolicies = policiesFor(await pcr11(tpm));
  const blob = await sealDiskKey(tpm, { key, releaseKey: release.publicKey, parentType: "rsa" });
  t.equal(blob.parentType, "rsa");
  t.same(await unsealDiskKey(tpm, { blob, signedPolicies }), key);
  t.same(await leftHandles(tpm), []);
});

/** Field report B08: something already sits at the storage key's handle. */
async function occupy(
  tpm: Transport,
  area: PublicArea,
  auth: Uint8Array = new Uint8Array(),
): Promise<Uint8Array> {
  const hierarchy = handleEntity(permanentHandles.owner);
  const request = {
    sensitive: { auth, data: new Uint8Array() },
    public: area,
    outsideInfo: new Uint8Array(),
    pcrs: [],
  };
  const { handle, response } = await execute(tpm, createPrimary, { hierarchy }, request);
  const object = { handle, name: nameOf(response.public) };
  await execute(tpm, evictControl, { hierarchy, object }, { persistent: storageKeyHandle });
  await flushQuietly(tpm, handle);
  return object.name;
}

t.test("a foreign key at the storage key's handle is never evicted", skip, async (t) => {
  const { ecc, rsa } = storageTemplates;
  const occupants: Record<string, { area: PublicArea; auth?: Uint8Array }> = {
    "RSA-2048": { area: rsa },
    "ECC with other attributes": { area: { ...ecc, attributes: ecc.attributes & ~objectBits.noDa } },
    "a signing key": {
      area: {
        ...ecc,
        symmetric: { is: "none" },
        attributes: (ecc.attributes & ~(objectBits.decrypt | objectBits.restricted)) | objectBits.sign,
      } as PublicArea,
    },
    "the template with an auth value": { area: ecc, auth: octets("secret") },
  };
  for (const [name, { area, auth }] of Object.entries(occupants)) {
    await using software = await startSwtpm();
    await using tpm = await software.connect();
    const occupant = await occupy(tpm, area, auth);
    const { blob, signedPolicies } = await bootAndSeal(tpm);
    t.same(await unsealDiskKey(tpm, { blob, signedPolicies }), key, `${name}: sealed and unsealed`);
    t.same((await readKey(tpm, storageKeyHandle))?.name, occupant, `${name}: still there`);
    t.same(await leftHandles(tpm), [], `${name}: nothing left`);
  }
});

t.test("a fitting key at the storage key's handle is used", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  const template = storageTemplates.ecc;
  if (template.is !== "ecc") throw new Error("not ECC");
  const occupant = await occupy(tpm, {
    ...template,
    point: { x: octets("another seed"), y: new Uint8Array() },
  });
  const { blob, signedPolicies } = await bootAndSeal(tpm);
  t.equal(blob.parentName, Buffer.from(occupant).toString("hex"));
  t.same(await unsealDiskKey(tpm, { blob, signedPolicies }), key);
});

t.test("an owner auth value is used in a session, and its lack has its own sentence", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  const ownerAuth = octets("owner secret");
  const owner = handleEntity(permanentHandles.owner);
  {
    // its salt is a transient primary, so that nothing persistent helps afterwards
    await using srk = await makePrimary(tpm, storageKey("ecc"));
    await using session = await startSession(tpm, "hmac", srk);
    const use = { session, encryptCommand: true, newAuth: ownerAuth };
    await execute(tpm, hierarchyChangeAuth, { hierarchy: owner }, { newAuth: ownerAuth }, [use]);
  }
  await t.rejects(sealDiskKey(tpm, { key, releaseKey: release.publicKey }), {
    code: "tpm-failure",
    message: /owner hierarchy has an auth value that this device does not know/,
  });
  const blob = await sealDiskKey(tpm, { key, releaseKey: release.publicKey, ownerAuth });
  await boot(tpm);
  t.match(blob.parentName, /^000b/);
});

t.test("a TPM without a SHA-256 bank is refused with its own sentence", skip, async (t) => {
  await using software = await startSwtpm({ banks: "sha384" });
  await using tpm = await software.connect();
  await t.rejects(sealDiskKey(tpm, { key, releaseKey: release.publicKey }), {
    code: "tpm-failure",
    message: /no active sha256 bank for them; activate the sha256 bank in the firmware menu/,
  });
  t.same(await leftHandles(tpm), []);
});

t.test("after 100 refused unseals the next one works", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  const { blob, signedPolicies } = await bootAndSeal(tpm);
  const lying = signedPolicies.map((policy) => ({
    ...policy,
    signature: sign("sha256", octets("x"), release.privateKey),
  }));
  for (let round = 0; round < 100; round++)
    await unsealDiskKey(tpm, { blob, signedPolicies: lying }).then(
      () => t.fail("unsealed"),
      () => undefined,
    );
  t.same(await leftHandles(tpm), []);
  t.same(await unsealDiskKey(tpm, { blob, signedPolicies }), key);
});
