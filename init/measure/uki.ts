/** What systemd's stub and the firmware measure of a UKI, computed from the file alone. */
import { createHash } from "node:crypto";
import { GimbalError } from "../errors.ts";
import { extended } from "../tpm/pcr.ts";
import { authenticodeDigest, type PeSection, readPe } from "./pe.ts";
import { type Phase, phaseDigest } from "./phases.ts";

/** The order in which the stub (systemd 257) measures; sections that a UKI lacks are passed over. */
const measuredNames = [
  ".linux",
  ".osrel",
  ".cmdline",
  ".initrd",
  ".ucode",
  ".splash",
  ".dtb",
  ".uname",
  ".sbat",
  ".pcrpkey",
] as const;

const zero = new Uint8Array(32);
const sha256 = (octets: Uint8Array) => new Uint8Array(createHash("sha256").update(octets).digest());
const text = (string: string) => new TextEncoder().encode(string);

/**
 * PCR 11 (SHA-256) after the stub measured `uki` and init extended `phases`. Throws "bad-argument" where the file is
 * no UKI. The section .pcrsig is not measured, so it may be added afterwards.
 * @param uki the whole file, signed or not
 */
export function predictPcr11(uki: Uint8Array, phases: readonly Phase[]): Uint8Array {
  let value: Uint8Array = zero;
  for (const { digests } of measuredSections(uki)) {
    for (const digest of digests) value = extended("sha256", value, digest);
  }
  for (const phase of phases) value = extended("sha256", value, phaseDigest(phase));
  return value;
}

/** What goes into PCR 11, by section: the digest of its name with one NUL, then that of its contents. */
export function measuredSections(
  uki: Uint8Array,
): readonly { readonly name: string; readonly digests: readonly Uint8Array[] }[] {
  const pe = readPe(uki);
  if (pe.is === "refused") throw noUki(pe.reason);
  const sections = measuredNames.flatMap((name) => pe.sections.filter((section) => section.name === name));
  if (!sections.some(({ name }) => name === ".linux")) throw noUki("it has no section .linux");
  return sections.map((section) => ({
    name: section.name,
    digests: [sha256(text(`${section.name}\0`)), contentDigest(section)],
  }));
}

/** PCR 4 (SHA-256) after the firmware booted this signed file from a boot option and loaded nothing else before it. */
export function predictPcr4(signedUki: Uint8Array): Uint8Array {
  const image = authenticodeDigest(signedUki);
  if (image.is === "refused") throw noUki(image.reason);
  const action = sha256(text("Calling EFI Application from Boot Option"));
  const separator = sha256(new Uint8Array(4));
  return [action, separator, image.digest].reduce<Uint8Array>(
    (value, digest) => extended("sha256", value, digest),
    zero,
  );
}

function contentDigest({ data, virtualBytes }: PeSection): Uint8Array {
  const hash = createHash("sha256").update(data);
  const block = new Uint8Array(65_536);
  for (let left = virtualBytes - data.length; left > 0; left -= block.length)
    hash.update(block.subarray(0, left));
  return new Uint8Array(hash.digest());
}

const noUki = (why: string) => new GimbalError("bad-argument", { tried: "measure", on: "the UKI", why });
