/** guestos/read-back.ts against images of another tree: what a faulty mkfs.erofs would leave. */
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { mkdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { readBack } from "../../../guestos/read-back.ts";

t.setTimeout(180_000); // two cores may be busy

const base = mkdtempSync(join(tmpdir(), "read-back-"));
t.teardown(() => rmSync(base, { recursive: true }));
const at = (...parts: string[]) => join(base, ...parts);

await mkdir(at("tree", "d"), { recursive: true });
for (const bytes of [0, 1, 4095, 4096, 4097, 300_000])
  writeFileSync(at("tree", `f${bytes}`), Buffer.alloc(bytes, "ab"));
writeFileSync(at("tree", "setuid"), "x");
chmodSync(at("tree", "setuid"), 0o4755);
symlinkSync("../elsewhere", at("tree", "d", "link"));
execFileSync("mkfs.erofs", ["--quiet", "-zlz4hc", "-T0", at("image"), at("tree")]);

t.test("the image of the very tree is taken, and nothing stays", async (t) => {
  await readBack(at("image"), at("tree"), at("work"), process.getuid?.() === 0);
  t.notOk(existsSync(at("work")));
});

const harms: Record<string, (tree: string) => void> = {
  "other content of the same length": (tree) => writeFileSync(join(tree, "f4097"), Buffer.alloc(4097, "ba")),
  "a file more": (tree) => writeFileSync(join(tree, "more"), ""),
  "a file less": (tree) => rmSync(join(tree, "f0")),
  "another mode": (tree) => chmodSync(join(tree, "f1"), 0o600),
  "another target": (tree) => {
    rmSync(join(tree, "d", "link"));
    symlinkSync("../elsewhere2", join(tree, "d", "link"));
  },
  ...(process.getuid?.() === 0
    ? { "another owner": (tree: string) => chownSync(join(tree, "f1"), 7, 7) }
    : {}),
};
for (const [what, harm] of Object.entries(harms)) {
  t.test(`an image with ${what} is refused`, async (t) => {
    cpSync(at("tree"), at("other"), { recursive: true, verbatimSymlinks: true });
    harm(at("other"));
    await t.rejects(readBack(at("image"), at("other"), at("work"), process.getuid?.() === 0), {
      code: "build-failed",
      message: /this mkfs.erofs is not to be trusted/,
    });
    rmSync(at("other"), { recursive: true });
    t.notOk(existsSync(at("work")));
  });
}

t.test("an image that is cut is refused", async (t) => {
  execFileSync("truncate", ["--size=8192", at("image")]);
  await t.rejects(readBack(at("image"), at("tree"), at("work"), true), { code: "build-failed" });
});
