/** guestos/lock.ts: what apt says of packages, and what it means when it differs from the lock. */
import t from "tap";
import { movedPackages, parseStanzas, pinsOf } from "../../../guestos/lock.ts";

const [a, b, c] = ["a", "b", "c"].map((letter) => letter.repeat(64));

t.test("a locked version with other octets ends the build", (t) => {
  t.throws(() => movedPackages("c0", { less: `668-1 ${a}` }, { less: `668-1 ${b}` }), {
    code: "build-failed",
    message: /less 668-1 for c0.*other octets/,
  });
  t.end();
});

t.test("what moved is named: another version, one more, one less; the rest is not", (t) => {
  const locked = { apt: `3.0.3 ${a}`, dash: `0.5 ${a}`, gone: `1 ${c}` };
  const present = { apt: `3.0.4 ${b}`, dash: `0.5 ${a}`, more: `2 ${c}` };
  t.same(movedPackages("debian", locked, present), ["apt", "gone", "more"]);
  t.same(movedPackages("debian", locked, locked), []);
  t.end();
});

t.test("stanzas of apt-cache show become name, version and digest, sorted", (t) => {
  const text = `Package: zlib1g
Source: zlib (1:1.3)
Version: 1:1.3.dfsg-1
Depends: libc6 (>= 2.14)
Description: a library
 Package: not a field
SHA256: ${a}

Package: apt
Version: 3.0.3
SHA256: ${b}

Package: no-digest
Version: 1
`;
  const found = parseStanzas(text);
  t.same(found, { apt: `3.0.3 ${b}`, zlib1g: `1:1.3.dfsg-1 ${a}` });
  t.same(Object.keys(found), ["apt", "zlib1g"]);
  t.end();
});

t.test("every package of a lock is pinned above what is newer", (t) => {
  t.equal(
    pinsOf({ apt: `3.0.3 ${a}`, zlib1g: `1:1.3 ${b}` }),
    "Package: apt\nPin: version 3.0.3\nPin-Priority: 1001\n\nPackage: zlib1g\nPin: version 1:1.3\nPin-Priority: 1001\n",
  );
  t.end();
});
