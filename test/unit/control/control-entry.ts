/** `control` as a process of its own, as main.ts starts it. */
import { main } from "../../../init/control/client.ts";

process.exitCode = await main(process.argv.slice(2));
