/**
 * The unified kernel image: stub, kernel, initramfs and command line in one PE file, with the release key's word about
 * PCR 11, signed for Secure Boot. Unsigned it is the same octets for the same inputs.
 */
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { signPcrPolicy } from "../init/measure/policy.ts";
import { predictPcr11 } from "../init/measure/uki.ts";
import { cached, digestOf, fileDigest } from "../initramfs/cache.ts";
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
  const files = [
    inputs.stubPath,
    inputs.kernelPath,
    inputs.initramfsPath,
    signer.keyPath,
    signer.certificatePath,
  ];
  const texts = [inputs.kernelVersion, inputs.cmdline, inputs.osRelease, inputs.releaseKey];
  const key = digestOf(...(await Promise.all(files.map(fileDigest))), ...texts, "2");
  const { path } = await cached("uki", key, async (folder) => {
    await mkdir(folder);
    await step(
      "UKI",
      "signed kernel image",
      () => writeUki(folder, inputs, signer),
      () => join(folder, "uki.efi"),
    );
  });
  return { path: join(path, "uki.efi"), pcr11: await readFile(join(path, "pcr11"), "utf8") };
}

async function writeUki(folder: string, inputs: UkiInputs, signer: Signer): Promise<void> {
  const sections = await measuredSections(inputs);
  const stub = await readFile(inputs.stubPath);
  const pcr11 = pcr11Of(appendSections(stub, sections));
  const policy = { name: ".pcrsig", data: Buffer.from(signPcrPolicy(inputs.releaseKey, pcr11)) };
  const unsigned = join(folder, "unsigned.efi");
  await writeFile(unsigned, appendSections(stub, [...sections, policy]));
  await signEfi(unsigned, join(folder, "uki.efi"), signer);
  await rm(unsigned);
  await writeFile(join(folder, "pcr11"), Buffer.from(pcr11).toString("hex"));
}

/** Signs an EFI program for Secure Boot. */
export async function signEfi(from: string, to: string, { keyPath, certificatePath }: Signer): Promise<void> {
  await command("sbsign", ["--key", keyPath, "--cert", certificatePath, "--output", to, from]);
}
