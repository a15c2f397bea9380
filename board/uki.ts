/**
 * The unified kernel image: stub, kernel, initramfs and command line in one PE file, with the release key's word about
 * PCR 11, signed for Secure Boot. Unsigned it is the same octets for the same inputs.
 */
import { readFile, rm } from "node:fs/promises";
import { signPcrPolicy } from "../init/measure/policy.ts";
import { predictPcr11 } from "../init/measure/uki.ts";
import { cached, digestOf, fileDigest, writeAtomic } from "../initramfs/cache.ts";
import { command } from "../initramfs/command.ts";
import { step } from "../initramfs/step.ts";
import { appendSections, type Section } from "./pe.ts";

export type UkiInputs = {
  readonly stubPath: string;
  readonly kernelPath: string;
  readonly initramfsPath: string;
  readonly kernelVersion: string;
  readonly cmdline: string;
  readonly osRelease: string;
  /** P-256 private key, PEM. */
  readonly releaseKey: string;
};

export type Signer = { readonly keyPath: string; readonly certificatePath: string };

/** The sections that the stub measures into PCR 11; the order in the file does not matter to it. */
async function measuredSections(inputs: UkiInputs): Promise<Section[]> {
  return [
    { name: ".osrel", data: Buffer.from(inputs.osRelease) },
    { name: ".cmdline", data: Buffer.from(inputs.cmdline) },
    { name: ".uname", data: Buffer.from(inputs.kernelVersion) },
    { name: ".linux", data: await readFile(inputs.kernelPath) },
    { name: ".initrd", data: await readFile(inputs.initramfsPath) },
  ];
}

/** The UKI without the PCR policy: what PCR 11 is predicted from. Deterministic. */
export async function unsignedUki(inputs: UkiInputs): Promise<Buffer> {
  return appendSections(await readFile(inputs.stubPath), await measuredSections(inputs));
}

/** PCR 11 at the moment of unsealing. */
export const pcr11Of = (uki: Uint8Array): Uint8Array => predictPcr11(uki, ["enter-initrd"]);

/** The finished, signed UKI as a file in the cache, with the PCR 11 it will have at unsealing. */
export async function buildUki(inputs: UkiInputs, signer: Signer): Promise<{ path: string; pcr11: string }> {
  const sections = await measuredSections(inputs);
  const stub = await readFile(inputs.stubPath);
  const pcr11 = pcr11Of(appendSections(stub, sections));
  const key = digestOf(
    ...sections.flatMap(({ name, data }) => [name, data]),
    stub,
    inputs.releaseKey,
    await fileDigest(signer.keyPath),
    await fileDigest(signer.certificatePath),
    "1",
  );
  const { path } = await cached("uki", key, async (target) => {
    await step(
      "UKI",
      "signed kernel image",
      async () => {
        const policy = Buffer.from(signPcrPolicy(inputs.releaseKey, pcr11));
        const unsigned = `${target}.unsigned`;
        await writeAtomic(unsigned, appendSections(stub, [...sections, { name: ".pcrsig", data: policy }]));
        try {
          await signEfi(unsigned, target, signer);
        } finally {
          await rm(unsigned, { force: true });
        }
        return target;
      },
      (made) => made,
    );
  });
  return { path, pcr11: Buffer.from(pcr11).toString("hex") };
}

/** Signs an EFI program for Secure Boot. */
export async function signEfi(from: string, to: string, { keyPath, certificatePath }: Signer): Promise<void> {
  await command("sbsign", ["--key", keyPath, "--cert", certificatePath, "--output", to, from]);
}
