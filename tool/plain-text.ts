/** Output for programs: no escape codes, lines ended by \n. */

// CSI, OSC and DCS strings, and the two-octet escapes; ECMA-48, 5.4 and 5.6
const escapes =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters to remove
  /\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\^-~])/g;
// The beginning of a sequence whose rest has not come yet
// biome-ignore lint/suspicious/noControlCharactersInRegex: as above
const unfinished = /(?:\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]{0,4000}\x1b?|[ -/]*)|\r)$/;

/** Takes a stream apart chunk by chunk; octets that are no escape code pass unchanged, whatever their encoding. */
export class PlainText {
  #held = "";

  take(chunk: Uint8Array): Buffer {
    const text = this.#held + Buffer.from(chunk).toString("latin1");
    const at = unfinished.exec(text)?.index ?? text.length;
    this.#held = text.slice(at);
    return Buffer.from(text.slice(0, at).replace(escapes, "").replaceAll("\r\n", "\n"), "latin1");
  }

  /** What was held back in case more would follow. */
  end(): Buffer {
    const rest = this.#held;
    this.#held = "";
    return Buffer.from(rest.startsWith("\x1b") ? "" : rest, "latin1");
  }
}
