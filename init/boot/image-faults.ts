/**
 * A block of an image that does not verify gives its reader an I/O error, and the kernel's log a line that names a loop device. Here the
 * line gets the image's name, for the screen, the log and the audit log; the guest and all others go on.
 */
import type { OpenImage } from "../disk/verity.ts";
import { parseVerityFault } from "../disk/verity-fault.ts";
import { reasonOf } from "../errors.ts";
import { followKernelLog } from "../machine/kernel-log.ts";
import type { Verified } from "./trust.ts";

/** Takes over an image under a name for sentences; disposing the result ends the watch and the image. */
export type ImageWatch = (image: OpenImage, name: string) => OpenImage;

/** A broken disk must not fill the audit log: so many blocks of each image are told. */
const maxBlocks = 16;

type Watched = { readonly name: string; readonly blocks: Set<string> };

export function watchImages({
  kernel,
  log,
  screen,
  audit,
}: Pick<Verified, "kernel" | "log" | "screen" | "audit">): ImageWatch {
  const images = new Map<string, Watched>();
  const take = (text: string) => {
    const fault = parseVerityFault(text);
    const image = fault && images.get(fault.device);
    if (!fault || !image) return;
    const block = `${fault.kind} block ${fault.block}`;
    if (image.blocks.has(block) || image.blocks.size >= maxBlocks) return;
    image.blocks.add(block);
    const sentence = `the image ${image.name} is damaged: its ${block} does not verify; install the GuestOS again`;
    log.error(sentence);
    screen.warn(sentence);
    void audit.append(
      "image-damaged",
      new Map([
        ["image", image.name],
        ["block", block],
      ]),
    );
  };
  try {
    followKernelLog(kernel, take);
  } catch (error) {
    log.warn(`damaged images will not be named: ${reasonOf(error)}`);
  }
  return (image, name) => {
    const watched = { name, blocks: new Set<string>() };
    images.set(image.backing, watched);
    return {
      ...image,
      async [Symbol.asyncDispose]() {
        if (images.get(image.backing) === watched) images.delete(image.backing);
        await image[Symbol.asyncDispose]();
      },
    };
  };
}
