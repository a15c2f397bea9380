/**
 * What a tar may hold that is to become an image: looked at whole before anything is unpacked, so that no entry writes outside, and
 * nothing is lost without a word. Refused: names that lead out, entries behind links, the same name twice, links to what comes
 * later, devices outside dev/, owners that no container has, attributes that an image cannot keep.
 */
import { GimbalError, quoted } from "../../init/errors.ts";
import { type TarEntry, TarError, tarEntries, tarStream } from "./tar-reader.ts";

/** A container has this many ids (init/container/ids.ts). */
const idCount = 65_536;
const maxPathBytes = 4095;
const maxNameBytes = 255;
const maxEntries = 2_000_000;

/** @throws {GimbalError} "build-failed", naming the entry */
export async function checkTar(path: string): Promise<{ readonly entries: number }> {
  const seen = new Map<string, TarEntry["type"]>();
  try {
    for await (const entry of tarEntries(await tarStream(path))) {
      const name = partsOf(entry.path);
      const why = typeof name === "string" ? name : fault(entry, name, seen);
      if (why) throw new TarError(`${quoted(entry.path)} ${why}`);
      if (seen.size >= maxEntries) throw new TarError(`it has more than ${maxEntries} entries`);
      seen.set((name as string[]).join("/"), entry.type);
    }
  } catch (error) {
    if (!(error instanceof TarError)) throw error;
    const todo = "make the archive anew from an unpacked root file system";
    throw new GimbalError("build-failed", { tried: "take", on: path, why: error.message, todo }, error);
  }
  if (seen.size === 0)
    throw new GimbalError("build-failed", { tried: "take", on: path, why: "the archive is empty" });
  return { entries: seen.size };
}

/** The components of a name below the root, or why it is none. */
function partsOf(path: string): string[] | string {
  if (path === "" || path.startsWith("/")) return "is no name below the root";
  if (path.includes("\0")) return "holds NUL";
  if (Buffer.byteLength(path) > maxPathBytes) return "is longer than a path can be";
  const parts = path.split("/").filter((part) => part !== "" && part !== ".");
  if (parts.includes("..")) return "leads out of the root";
  if (parts.some((part) => Buffer.byteLength(part) > maxNameBytes)) return "has a component that is too long";
  return parts;
}

function fault(
  entry: TarEntry,
  parts: readonly string[],
  seen: ReadonlyMap<string, string>,
): string | undefined {
  for (let length = 1; length < parts.length; length++) {
    const above = seen.get(parts.slice(0, length).join("/"));
    if (above !== undefined && above !== "directory")
      return `lies behind ${quoted(parts.slice(0, length).join("/"))}, a ${above}`;
  }
  const before = seen.get(parts.join("/"));
  if (before !== undefined && !(before === "directory" && entry.type === "directory"))
    return "stands in it twice";
  if (entry.type === "hard-link") {
    const target = partsOf(entry.link);
    if (typeof target === "string") return `is a hard link to ${quoted(entry.link)}, which ${target}`;
    const type = seen.get(target.join("/"));
    if (type !== "file" && type !== "hard-link" && type !== "symlink")
      return `is a hard link to ${quoted(entry.link)}, which is no earlier file`;
  }
  if ((entry.type === "character" || entry.type === "block") && parts[0] !== "dev") return "is a device";
  if (entry.uid >= idCount || entry.gid >= idCount)
    return `belongs to ${entry.uid}:${entry.gid}, and a container has the ids below ${idCount}`;
  const attribute = entry.attributes.find(
    (each) => !each.startsWith("user.") && each !== "security.capability",
  );
  return attribute === undefined
    ? undefined
    : `has the attribute ${quoted(attribute)}, which an image does not keep`;
}
