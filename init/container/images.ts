/** Images of GuestOSes that are open now: each once, whoever uses it, until the last user is gone. */
import type { ImageOpener, MountView, OpenImage, VerifiedGuestOs } from "./ports.ts";

type Entry = { readonly image: Promise<OpenImage>; users: number };

export class OpenImages {
  readonly #open: ImageOpener;
  readonly #entries = new Map<string, Entry>();

  constructor(open: ImageOpener) {
    this.#open = open;
  }

  /** The manifest's digest is in the key: another version's image of the same name is another image. */
  async lease(guestOs: VerifiedGuestOs, mount: MountView): Promise<OpenImage> {
    const key = `${Buffer.from(guestOs.manifestDigest).toString("hex")}/${mount.imageFile}`;
    const known = this.#entries.get(key);
    const entry = known ?? { image: this.#open(guestOs, mount), users: 0 };
    if (!known) this.#entries.set(key, entry);
    entry.users++;
    let held = true;
    const release = async () => {
      if (!held) return;
      held = false;
      if (--entry.users > 0) return;
      this.#entries.delete(key);
      await (await entry.image)[Symbol.asyncDispose]();
    };
    try {
      const image = await entry.image;
      return { newMount: () => image.newMount(), [Symbol.asyncDispose]: release };
    } catch (error) {
      held = false;
      if (--entry.users === 0 && this.#entries.get(key) === entry) this.#entries.delete(key);
      throw error;
    }
  }
}
