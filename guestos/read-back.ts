/**
 * Reads an image back before it is signed: versions of mkfs.erofs have ended with status 0 and left files that nobody could read, or
 * with other content. Every file is unpacked and compared with the tree that the image was made of.
 */
import { mkdir } from "node:fs/promises";
import { GimbalError, reasonOf } from "../init/errors.ts";
import { asRoot } from "./as-root.ts";

/**
 * Type, mode, owners, target of a link, path. Hard links are not compared: fsck.erofs unpacks each name as a file of its own, and that
 * both names have the same content is what diff has seen.
 */
const plain = "%y %m %l %P\\0";
const withOwners = "%y %m %U %G %l %P\\0";

/**
 * @param work a folder that is not there yet and goes again
 * @param owners false where all files became root's
 * @throws GimbalError "build-failed"
 */
export async function readBack(image: string, root: string, work: string, owners: boolean): Promise<void> {
  try {
    await mkdir(work);
    await asRoot("fsck.erofs", [`--extract=${work}/root`, "--preserve", image]);
    await asRoot("diff", ["--recursive", "--brief", "--no-dereference", root, `${work}/root`]);
    const [before, after] = [await listing(root, owners), await listing(`${work}/root`, owners)];
    const other = before.find((line, index) => line !== after[index]) ?? after[before.length];
    if (other !== undefined)
      throw new Error(`type, mode, owner or target differ at ${JSON.stringify(other)}`);
  } catch (cause) {
    throw new GimbalError(
      "build-failed",
      {
        tried: "take",
        on: `the image that mkfs.erofs made of ${root}`,
        why: reasonOf(cause),
        todo: "this mkfs.erofs is not to be trusted: try another version of erofs-utils",
      },
      cause,
    );
  } finally {
    await asRoot("rm", ["-rf", "--one-file-system", work]);
  }
}

async function listing(folder: string, owners: boolean): Promise<string[]> {
  const format = owners ? withOwners : plain;
  const found = await asRoot("find", [folder, "-mindepth", "1", "-xdev", "-printf", format]);
  // fsck.erofs changes the owner last, and so takes setuid and setgid away from what it unpacks
  const masked = (line: string) =>
    line.replace(/^f (\d+) /, (_, mode: string) => `f ${(Number.parseInt(mode, 8) & 0o1777).toString(8)} `);
  return found.toString().split("\0").map(masked).sort();
}
