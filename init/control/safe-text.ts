/** What a guest wrote, made safe for a person's terminal. */

/** Control characters, and marks that are invisible or turn the direction of writing. */
const unsafe = /[\p{Cc}\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/gu;

const escapeOf = (sign: string): string => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`;

const esc = "\u001b";
const colour = new RegExp(`(${esc}\\[[\\d;:]{0,32}m)`);
const begunColour = new RegExp(`^${esc}(\\[[\\d;:]{0,32})?$`);

/** One line: everything unsafe becomes an escape. */
export function escaped(text: string): string {
  return text.replace(unsafe, escapeOf);
}

/**
 * A stream for a terminal: line ends, tabs and colours pass (ECMA-48 SGR), all else that could move, ask or retitle the terminal
 * becomes visible. What belongs together may come in pieces.
 */
export class SafeText {
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #held = "";

  take(octets: Uint8Array): string {
    const text = this.#held + this.#decoder.decode(octets, { stream: true });
    // A colour that has begun waits for its end, but not for ever.
    const begun = text.lastIndexOf(esc);
    const isPart = begun >= 0 && begunColour.test(text.slice(begun));
    this.#held = isPart ? text.slice(begun) : "";
    return show(isPart ? text.slice(0, begun) : text);
  }

  end(): string {
    return show(this.#held + this.#decoder.decode());
  }
}

function show(text: string): string {
  return text
    .split(colour)
    .map((part, index) => (index % 2 === 1 ? part : part.replaceAll("\r\n", "\n").replace(unsafe, showSign)))
    .join("");
}

const showSign = (sign: string): string =>
  sign === "\n" || sign === "\t" || sign === "\r" ? sign : escapeOf(sign);
