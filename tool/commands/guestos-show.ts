/** `gimbal guestos show`: what a manifest says. It verifies nothing, and says so. */
import { Command } from "commander";
import { isStored } from "../../init/guestos/manifest-format.ts";
import { parseCertificate } from "../../init/trust/certificate.ts";
import { megabytes } from "../../initramfs/step.ts";
import { type Found, findGuestos, plainFields } from "../guestos/read.ts";
import { type Output, type Shown, show, table } from "../output.ts";

export const guestosShow = (output: Output): Command =>
  new Command("show")
    .description("show what a manifest says, without verifying it")
    .argument("<path>", "manifest.cose, or the folder it lies in")
    .option("--json", "all fields as JSON")
    .action(async (path: string, options: Shown) => {
      const found = await findGuestos(path);
      show(output, options, asJson(found), asText(found));
    });

const chainOf = ({ claimed }: Found): string[] =>
  claimed.envelope.chain.map((der) => {
    const parsed = parseCertificate(der);
    return parsed.is === "certificate" ? parsed.certificate.name : `(${parsed.why})`;
  });

function asJson(found: Found): unknown {
  const { fields, digest } = found.claimed;
  return {
    ...plainFields(fields),
    digest: Buffer.from(digest).toString("hex"),
    chain: chainOf(found),
    verified: false,
  };
}

function asText(found: Found): string {
  const { fields, digest } = found.claimed;
  const rows: [string, string][] = [
    ["name", `${fields.name}-${fields.version} (${fields.hardware}, ${fields.profile})`],
    ["description", JSON.stringify(fields.description)],
    ["built", new Date(fields.buildDate * 1000).toISOString()],
    ["init", JSON.stringify([fields.initPath, ...fields.initParam])],
    ...fields.mounts.map((mount): [string, string] => [
      mount.mountPoint,
      isStored(mount)
        ? `${mount.mountType} ${mount.fsType} ${mount.imageFile}, ${megabytes(mount.imageSize)} MB`
        : `${mount.mountType} ${mount.fsType} ${mount.imageFile}`,
    ]),
    ["digest", Buffer.from(digest).toString("hex")],
    ["signed by", `${chainOf(found).join(", under ")} (not verified: gimbal guestos verify)`],
  ];
  return table(rows);
}
