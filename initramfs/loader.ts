/**
 * The dynamic loader of /usr/lib/gimbal: Debian's own, with three built-in paths overwritten in place by paths of the
 * same length. It then finds the libraries beside it first, whatever the environment says nothing about and whatever
 * other libraries the surrounding system has: PID 1 is started with no environment at all, and the control client runs
 * inside c0, a Debian with libraries of its own. A wrapper that sets LD_LIBRARY_PATH would leak into children.
 */
import { GimbalError } from "../init/errors.ts";

/** old -> new; "./" fills up to the old length, since the loader knows each length as a constant. */
const replacements: readonly (readonly [string, string])[] = [
  ["/lib/x86_64-linux-gnu/", "/usr/lib/gimbal/lib/./"],
  ["/usr/lib/x86_64-linux-gnu/", "/usr/lib/gimbal/lib/./././"],
  ["/etc/ld.so.cache", "/etc/ld.so.none "],
  ["/etc/ld.so.preload", "/etc/ld.so.none   "],
];

/** @throws GimbalError "build-failed" where the loader holds none of a path: then it was built in another way */
export function patchLoader(original: Buffer): Buffer {
  const bytes = Buffer.from(original);
  for (const [from, to] of replacements) {
    if (from.length !== to.length) throw new Error(`${to} must be as long as ${from}`);
    let found = 0;
    // Whole strings only: "/usr/lib/x/" contains "/lib/x/".
    for (let at = bytes.indexOf(`\0${from}\0`); at >= 0; at = bytes.indexOf(`\0${from}\0`, at + 1)) {
      bytes.write(to, at + 1, "latin1");
      found++;
    }
    if (found === 0) {
      throw new GimbalError("build-failed", {
        tried: "patch",
        on: "the dynamic loader",
        why: `it holds no string ${from}`,
      });
    }
  }
  return bytes;
}
