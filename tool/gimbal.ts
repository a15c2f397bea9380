#!/usr/bin/env node
/** `gimbal`: what an integrator does on the build host. `node tool/gimbal.ts --help`; docs/guests.md. */
import { runGimbal } from "./command-line.ts";

process.exitCode = await runGimbal(process.argv.slice(2), {
  out: (text) => void process.stdout.write(text),
  err: (text) => void process.stderr.write(text),
});
