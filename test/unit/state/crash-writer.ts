/** Writes one version of a file after the other until it is killed: crash.test.ts runs it. */
import { writeFileAtomic } from "../../../init/state/file.ts";

const [path] = process.argv.slice(2);
if (path === undefined) throw new Error("no path");
for (let version = 1; ; version++) {
  await writeFileAtomic(path, new Uint8Array(20_000).fill(version % 255 || 1));
  if (version === 1) process.stdout.write("ready\n");
}
