/** The command line of `gimbal`: words -> command -> exit status. */
import { Command, CommanderError } from "commander";
import { guestosBuild } from "./commands/guestos-build.ts";
import { guestosShow } from "./commands/guestos-show.ts";
import { guestosVerify } from "./commands/guestos-verify.ts";
import { pkiInit, pkiSigner } from "./commands/pki.ts";
import { type Output, showRefusal, usageStatus } from "./output.ts";

/** Runs the words behind the program's name. 0: done; 1: refused, with a sentence; 2: the words make no command. */
export async function runGimbal(words: readonly string[], output: Output): Promise<number> {
  try {
    await program(output).parseAsync(words, { from: "user" });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : usageStatus;
    return showRefusal(output, words.includes("--json"), error);
  }
}

function program(output: Output): Command {
  const group = (name: string, description: string, commands: readonly Command[]) =>
    commands.reduce(
      (whole, each) => whole.addCommand(each),
      new Command(name).description(description).helpCommand(false),
    );
  const whole = group("gimbal", "Keys and GuestOSes of gimbal devices.", [
    group("pki", "the keys of a product", [pkiInit(output), pkiSigner(output)]),
    group("guestos", "build, show and verify GuestOSes", [
      guestosBuild(output),
      guestosShow(output),
      guestosVerify(output),
    ]),
  ]);
  prepare(whole, output);
  return whole;
}

/** A command takes no settings from the one that it is added to. */
function prepare(command: Command, output: Output): void {
  command
    .exitOverride()
    .showHelpAfterError("(--help lists what there is)")
    .configureOutput({ writeOut: (text) => output.out(text), writeErr: (text) => output.err(text) });
  for (const below of command.commands) prepare(below, output);
}
