/** Which libraries a set of programs needs, by following NEEDED through the ELF files themselves. */
import { readFileSync } from "node:fs";
import { GimbalError } from "../init/errors.ts";
import { readElf } from "./elf.ts";

/** Finds a library's file by the name that ELF files ask for; undefined where nobody has it. */
export type FindLibrary = (soname: string) => string | undefined;

/** The loader is not a library: it goes to a place of its own. */
export const loaderSoname = "ld-linux-x86-64.so.2";

/** All libraries that `programs` (paths of ELF files) need, directly or not: name -> file. */
export function librariesOf(programs: readonly string[], find: FindLibrary): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  const waiting = [...programs];
  for (let path = waiting.pop(); path !== undefined; path = waiting.pop()) {
    for (const soname of readElf(readFileSync(path), path).needed) {
      if (soname === loaderSoname || found.has(soname)) continue;
      const library = find(soname);
      if (library === undefined) {
        throw new GimbalError("build-failed", {
          tried: "find",
          on: `the library ${soname}`,
          why: `${path} needs it and no package of the image holds it`,
          todo: "add its row to board/debian/wanted.ts and run node board/debian/lock.ts",
        });
      }
      found.set(soname, library);
      waiting.push(library);
    }
  }
  return new Map([...found].sort());
}
