import t from "tap";
import { patchLoader } from "../../../initramfs/loader.ts";

const strings = [
  "/lib/x86_64-linux-gnu/",
  "/usr/lib/x86_64-linux-gnu/",
  "/lib/",
  "/usr/lib/",
  "/etc/ld.so.cache",
  "/etc/ld.so.preload",
];

t.test("a loader that lacks one of the paths is refused by its name", (t) => {
  for (const missing of [strings[0], strings[1], strings[4], strings[5]]) {
    const rest = strings.filter((each) => each !== missing);
    t.throws(() => patchLoader(Buffer.from(`\0${rest.join("\0")}\0`)), {
      code: "build-failed",
      message: missing,
    });
  }
  t.end();
});

t.test("patched paths keep their length, and each occurrence is patched", (t) => {
  const once = `\0${strings.join("\0")}\0`;
  const patched = patchLoader(Buffer.from(once + once)).toString();
  t.equal(patched.length, 2 * once.length);
  t.notMatch(patched, "x86_64-linux-gnu");
  t.same(
    patched
      .split("\0")
      .filter((text) => text !== "")
      .map((text) => text.length),
    [...strings, ...strings].map((text) => text.length),
  );
  t.equal(patched.split("\0").filter((text) => text === "/usr/lib/").length, 2, "other paths stay");
  t.end();
});
