/** `gimbal guestos build`. */
import { Command, InvalidArgumentError, Option } from "commander";
import { megabytes } from "../../initramfs/step.ts";
import { buildGuestos } from "../guestos/build.ts";
import { readSigner } from "../guestos/signing.ts";
import { readYaml } from "../guestos/yaml.ts";
import { type Output, show, table, warn } from "../output.ts";

type Options = {
  rootfs: string;
  image: ReadonlyMap<string, string>;
  key: string;
  cert: string;
  out: string;
  version?: number;
  dbKey?: string;
  dbCert?: string;
  force?: boolean;
  json?: boolean;
};

export const guestosBuild = (output: Output): Command =>
  new Command("build")
    .description("make a signed GuestOS of guestos.yaml and a root file system")
    .argument("<source>", "guestos.yaml, or the folder it lies in")
    .requiredOption(
      "--rootfs <folder|tar>",
      "content of the root image; a tar may be packed with gzip or zstd",
    )
    .addOption(
      new Option("--image <file=folder|tar>", "content of another image, by its image_file; again for each")
        .argParser(images)
        .default(new Map(), "none"),
    )
    .requiredOption("--key <file>", "the signer's private key, PEM, P-256 or P-384")
    .requiredOption("--cert <file>", "its certificate, PEM, followed by intermediate CAs if there are any")
    .requiredOption("--out <folder>", "gets <name>-<version>/")
    .option("--version <number>", "instead of the version in guestos.yaml", wholeNumber)
    .option("--db-key <file>", "key in the firmware's db: signs root hashes for the kernel, as c0 needs it")
    .option("--db-cert <file>", "its certificate")
    .option("--force", "replace what is in the output folder")
    .option("--json", "the result as JSON")
    .action(async (path: string, options: Options) => {
      const { dbKey, dbCert } = options;
      const source = await readYaml(path);
      const built = await buildGuestos({
        source,
        roots: new Map([[String(source.mounts[0]?.["image_file"]), options.rootfs], ...options.image]),
        signer: await readSigner(options.key, options.cert, new Date()),
        kernelSigner:
          dbKey !== undefined && dbCert !== undefined ? { dbKey, dbCertificate: dbCert } : undefined,
        version: options.version,
        outFolder: options.out,
        force: options.force === true,
      });
      warn(output, built.warnings);
      const { folder, images: made, digest } = built;
      const rows = made.map(
        ({ file, sizeBytes, rootHash }) =>
          [file, `${megabytes(sizeBytes).padStart(8)} MB  ${rootHash}`] as const,
      );
      show(
        output,
        options,
        built,
        `${folder}\n${table([...rows, ["manifest.cose", `${"".padStart(11)}  ${digest}`]])}`,
      );
    })
    .hook("preAction", (command) => {
      const { dbKey, dbCert } = command.opts<Options>();
      if ((dbKey === undefined) !== (dbCert === undefined))
        command.error("error: --db-key and --db-cert go together");
    });

function images(text: string, before: ReadonlyMap<string, string>): ReadonlyMap<string, string> {
  const at = text.indexOf("=");
  if (at < 1 || at === text.length - 1) throw new InvalidArgumentError("It is not FILE=FOLDER or FILE=TAR.");
  return new Map([...before, [text.slice(0, at), text.slice(at + 1)]]);
}

function wholeNumber(text: string): number {
  if (!/^[1-9]\d{0,15}$/.test(text)) throw new InvalidArgumentError("It is no whole number from 1 on.");
  return Number(text);
}
