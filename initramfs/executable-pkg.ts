/**
 * `node executable-pkg.ts FOLDER NODE OUTPUT`: pkg's SEA step over FOLDER/init.cjs. A process of its own, because pkg
 * changes its working directory. The script's name inside the executable is relative, so that the same bundle gives the
 * same octets wherever it was built: pkg works in TMPDIR/pkg-sea-*, and TMPDIR is FOLDER.
 */
import { createRequire } from "node:module";
import { join } from "node:path";
import { execArgv } from "./executable.ts";

type Sea = (entry: string, options: Readonly<Record<string, unknown>>) => Promise<void>;
const { default: sea } = createRequire(import.meta.url)("@yao-pkg/pkg/lib-es5/sea") as { default: Sea };

const [folder, nodePath, output] = process.argv.slice(2);
if (folder === undefined || nodePath === undefined || output === undefined)
  throw new Error("usage: FOLDER NODE OUTPUT");
process.env["TMPDIR"] = folder;
await sea(join(folder, "init.cjs"), {
  nodePath,
  seaConfig: {
    main: "../init.cjs",
    disableExperimentalSEAWarning: true,
    useSnapshot: false,
    useCodeCache: false,
    execArgv,
    execArgvExtension: "none",
  },
  targets: [{ nodeRange: "node24", platform: "linux", arch: "x64", output }],
});
