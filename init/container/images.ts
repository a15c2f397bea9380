/**
 * Images of GuestOSes that are open now: each once, whoever uses it. Making and removing a verity device takes longer
 * than all the rest of a start, so an image stays open a moment after its last user: a guest that reboots finds it there.
 */
import type { ImageOpener, MountView, OpenImage, VerifiedGuestOs } from "./ports.ts";

type Entry = { readonly image: Promise<OpenImage>; users: number; timer: NodeJS.Timeout | undefined };

export class OpenImages implements AsyncDisposable {
  readonly #open: ImageOpener;
  readonly #lingerMs: number;
  readonly #onFailure: (error: unknown) => void;
  readonly #entries = new Map<string, Entry>();

  /** `onFailure` hears of an image that did not close when nobody waited for it any more. */
  constructor(open: ImageOpener, lingerMs: number, onFailure: (error: unknown) => void) {
    this.#open = open;
    this.#lingerMs = lingerMs;
    this.#onFailure = onFailure;
  }

  /** The manifest's digest is in the key: another version's image of the same name is another image. */
  async lease(guestOs: VerifiedGuestOs, mount: MountView): Promise<OpenImage> {
    const key = `${Buffer.from(guestOs.manifestDigest).toString("hex")}/${mount.imageFile}`;
    const known = this.#entries.get(key);
    const entry = known ?? { image: this.#open(guestOs, mount), users: 0, timer: undefined };
    if (!known) this.#entries.set(key, entry);
    entry.users++;
    clearTimeout(entry.timer);
    let held = true;
    const release = async () => {
      if (!held) return;
      held = false;
      if (--entry.users > 0) return;
      if (this.#lingerMs === 0) return this.#close(key, entry);
      entry.timer = setTimeout(
        () => void this.#close(key, entry).catch(this.#onFailure),
        this.#lingerMs,
      ).unref();
    };
    try {
      const image = await entry.image;
      return { newMount: () => image.newMount(), [Symbol.asyncDispose]: release };
    } catch (error) {
      entry.users--;
      if (this.#entries.get(key) === entry) this.#entries.delete(key);
      throw error;
    }
  }

  /** Closes what nobody uses any more, at once. */
  async [Symbol.asyncDispose](): Promise<void> {
    const idle = [...this.#entries].filter(([, { users }]) => users === 0);
    for (const [key, entry] of idle) await this.#close(key, entry);
  }

  async #close(key: string, entry: Entry): Promise<void> {
    clearTimeout(entry.timer);
    if (this.#entries.get(key) !== entry) return;
    this.#entries.delete(key);
    await (await entry.image)[Symbol.asyncDispose]();
  }
}
