/** `gimbal guestos verify`: what a device that trusts these CAs would say. */
import { Command, InvalidArgumentError } from "commander";
import { storedImages } from "../../init/guestos/manifest-format.ts";
import { verifyGuestos } from "../guestos/verify.ts";
import { type Output, show } from "../output.ts";

type Options = { ca: readonly string[]; at?: Date; hardware?: string; json?: boolean };

export const guestosVerify = (output: Output): Command =>
  new Command("verify")
    .description("verify signature, chain, role and every image, as a device does")
    .argument("<path>", "the folder of a GuestOS, or its manifest.cose")
    .requiredOption("--ca <file...>", "trusted CAs, PEM")
    .option("--at <date>", "judge certificates at this time instead of now, for example 2030-01-01", date)
    .option(
      "--hardware <name>",
      "the machine it must be for: x86-64, arm64, armv7; default: the one it names",
    )
    .option("--json", "the result as JSON")
    .action(async (path: string, options: Options) => {
      const manifest = await verifyGuestos(path, {
        caFiles: options.ca,
        at: options.at ?? new Date(),
        hardware: options.hardware,
      });
      const { name, version, signer, hardware } = manifest;
      const images = storedImages(manifest).map(({ imageFile }) => imageFile);
      show(
        output,
        options,
        { name, version, hardware, signer, images, verified: true },
        `${name}-${version} is signed by "${signer}"; ${images.join(", ")} as signed`,
      );
    });

function date(text: string): Date {
  const value = new Date(text);
  if (Number.isNaN(value.getTime())) throw new InvalidArgumentError("It is no date.");
  return value;
}
