/** `gimbal pki init` and `gimbal pki signer`. */
import { Command } from "commander";
import { type Output, show } from "../output.ts";

/** Loaded only when it is used: it takes longer than all else here. */
const product = () => import("../pki/product.ts");

export const pkiInit = (output: Output): Command =>
  new Command("init")
    .description("make the keys of a product in a new folder")
    .argument("<folder>", "appears whole; one that is there is never touched")
    .option("--name <name>", "product or company, in the subjects of all certificates", "gimbal product")
    .option("--json", "the result as JSON")
    .addHelpText(
      "after",
      `
The folder is what GIMBAL_KEYS names in a build (docs/boards.md):
  PK, KEK, db        who may boot                      .key .crt .esl
  release            which image opens the disk        .key .pub
  platform-ca        who may sign GuestOSes            .key .crt
  guestos-signer     signs GuestOSes                   .key .crt
Private keys are plain PEM, readable by you only. Keep them on a machine that never sees the network.`,
    )
    .action(async (folder: string, options: { name: string; json?: boolean }) => {
      const { makeProduct } = await product();
      const files = await makeProduct(folder, { name: options.name, now: new Date() });
      show(output, options, { folder, files }, `${folder}: ${files.join(" ")}`);
    });

type SignerOptions = {
  caKey: string;
  caCert: string;
  key: string;
  cert: string;
  name: string;
  json?: boolean;
};

export const pkiSigner = (output: Output): Command =>
  new Command("signer")
    .description("make another GuestOS signer under a CA")
    .requiredOption("--ca-key <file>", "private key of the CA, PEM")
    .requiredOption("--ca-cert <file>", "its certificate, PEM")
    .requiredOption("--key <file>", "where the signer's key goes")
    .requiredOption("--cert <file>", "where its certificate goes")
    .option("--name <name>", "whose signer it is, in its subject", "gimbal product")
    .option("--json", "the result as JSON")
    .action(async (options: SignerOptions) => {
      const { key, cert } = options;
      const out = { key, certificate: cert };
      const ca = { key: options.caKey, certificate: options.caCert };
      const { makeAnotherSigner } = await product();
      await makeAnotherSigner(ca, out, { name: options.name, now: new Date() });
      show(output, options, out, `${key} ${cert}`);
    });
