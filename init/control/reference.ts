/** Prints docs/control.md: `node init/control/reference.ts`. */
import { referenceText } from "./help.ts";

process.stdout.write(referenceText());
