import { createHash } from "node:crypto";
import t from "tap";
import { activeBanks, extendPcr, readPcrs } from "../../../init/tpm/pcr.ts";
import { haveSwtpm, leftHandles, meddled, startSwtpm } from "./swtpm.ts";

const skip = haveSwtpm ? {} : { skip: "swtpm is not installed" };
const data = new TextEncoder().encode("measured");
const sha256 = (...parts: Uint8Array[]) =>
  new Uint8Array(createHash("sha256").update(Buffer.concat(parts)).digest());

t.test("readPcrs gives all 24 as one state, eight at a time", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  await extendPcr(tpm, 16, data);
  const all = Array.from({ length: 24 }, (_, index) => index);
  const values = await readPcrs(tpm, "sha256", all);
  t.same([...values.keys()], all);
  t.same(values.get(16), sha256(new Uint8Array(32), sha256(data)));
  t.same(values.get(11), new Uint8Array(32));
  t.same(values.get(17), new Uint8Array(32).fill(0xff), "DRTM PCRs start with ones");
});

t.test("readPcrs reads again when a PCR changes between two commands", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  const all = Array.from({ length: 16 }, (_, index) => index);
  const disturbed = meddled(tpm, async (index, _, pass) => {
    if (index === 1) await extendPcr(tpm, 1, data); // after 0 to 7 were read
    return pass();
  });
  const values = await readPcrs(disturbed, "sha256", all);
  t.same(values.get(1), sha256(new Uint8Array(32), sha256(data)), "the new state");
  t.ok(disturbed.count > 2);
  const restless = meddled(tpm, async (_, __, pass) => {
    const response = await pass();
    await extendPcr(tpm, 1, data);
    return response;
  });
  await t.rejects(readPcrs(restless, "sha256", all), {
    code: "tpm-failure",
    message: /changed during each of 5/,
  });
});

t.test("readPcrs refuses a bank that the TPM does not keep", skip, async (t) => {
  await using software = await startSwtpm();
  await using tpm = await software.connect();
  t.same(await activeBanks(tpm), ["sha256"]);
  await t.rejects(readPcrs(tpm, "sha384", [11]), { code: "tpm-failure", message: /no active sha384 bank/ });
});

t.test("extendPcr extends every active bank", skip, async (t) => {
  await using software = await startSwtpm({ banks: "sha1,sha256,sha384" });
  await using tpm = await software.connect();
  const digests = await extendPcr(tpm, 13, data);
  t.same([...digests.keys()].sort(), ["sha1", "sha256", "sha384"]);
  for (const bank of digests.keys()) {
    const value = (await readPcrs(tpm, bank, [13])).get(13);
    t.notOk(
      value?.every((octet) => octet === 0),
      bank,
    );
  }
  t.same(await leftHandles(tpm), []);
});
