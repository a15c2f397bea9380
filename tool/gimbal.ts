#!/usr/bin/env node
/** `gimbal`: what an integrator does on the build host. `node tool/gimbal.ts --help`; docs/guests.md. Exit status: 0, 1 refused, 2 usage. */
import { Command, CommanderError } from "commander";
import { guestosBuild } from "./commands/guestos-build.ts";
import { guestosShow } from "./commands/guestos-show.ts";
import { guestosVerify } from "./commands/guestos-verify.ts";
import { pkiInit, pkiSigner } from "./commands/pki.ts";
import { usageStatus } from "./output.ts";

const program = new Command("gimbal")
  .description("Keys, GuestOSes and images of gimbal devices.")
  .helpCommand(false)
  .showHelpAfterError("(--help lists what there is)");
const pki = program.command("pki").description("the keys of a product").helpCommand(false);
const guestos = program.command("guestos").description("build, show and verify GuestOSes").helpCommand(false);
for (const command of [pkiInit, pkiSigner]) pki.addCommand(command);
for (const command of [guestosBuild, guestosShow, guestosVerify]) guestos.addCommand(command);

for (const command of [program, pki, guestos, ...pki.commands, ...guestos.commands]) command.exitOverride();
try {
  await program.parseAsync();
} catch (error) {
  if (!(error instanceof CommanderError)) throw error;
  process.exitCode = error.exitCode === 0 ? 0 : usageStatus;
}
