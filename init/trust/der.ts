/**
 * DER (ITU-T X.690), bounded and strict, for what node:crypto hides or forgives. Lengths in their shortest form, no indefinite
 * ones, booleans of 0 or 255, shortest integers. Left out: tags above 30, the order of SET members. Nothing here throws.
 */

export type DerElement = { readonly tag: number; readonly content: Uint8Array; readonly end: number };

export const tags = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  oid: 0x06,
  sequence: 0x30,
} as const;

const maxDepth = 12;
const maxElements = 1024;

/** True where `der` is one element, and it and everything in it is DER and ends where its parent ends. */
export function isStrictDer(der: Uint8Array): boolean {
  const budget = { left: maxElements };
  const element = elementAt(der, 0);
  return element?.end === der.length && isStrict(element, 0, budget);
}

function isStrict(element: DerElement, depth: number, budget: { left: number }): boolean {
  if (depth > maxDepth || --budget.left < 0) return false;
  const { tag, content } = element;
  if (tag === tags.boolean) return content.length === 1 && (content[0] === 0 || content[0] === 0xff);
  if (tag === tags.integer) return isShortest(content);
  if ((tag & 0x20) === 0) return true;
  const members = elementsIn(content);
  return members?.every((member) => isStrict(member, depth + 1, budget)) ?? false;
}

/** At least one octet, and no octet at the start that only repeats the sign. */
function isShortest(content: Uint8Array): boolean {
  const [first, second] = content;
  if (first === undefined) return false;
  if (second === undefined) return true;
  return !(first === 0 && second < 0x80) && !(first === 0xff && second >= 0x80);
}

/** The element at `at`; undefined where it is cut, or its length is not the shortest form. */
export function elementAt(bytes: Uint8Array, at: number): DerElement | undefined {
  const tag = bytes[at];
  const first = bytes[at + 1];
  if (tag === undefined || first === undefined || (tag & 0x1f) === 0x1f) return undefined;
  if (first < 0x80) return cut(bytes, tag, at + 2, first);
  const size = first & 0x7f;
  if (size === 0 || size > 4) return undefined;
  let length = 0;
  for (let i = 0; i < size; i++) length = length * 256 + (bytes[at + 2 + i] ?? 0);
  if (length < 0x80 || length < 256 ** (size - 1)) return undefined;
  return cut(bytes, tag, at + 2 + size, length);
}

function cut(bytes: Uint8Array, tag: number, from: number, length: number): DerElement | undefined {
  const end = from + length;
  return end > bytes.length ? undefined : { tag, content: bytes.subarray(from, end), end };
}

/** The elements that fill `bytes`; undefined where they do not, or are too many. */
export function elementsIn(bytes: Uint8Array): readonly DerElement[] | undefined {
  const found: DerElement[] = [];
  for (let at = 0; at < bytes.length; ) {
    const element = elementAt(bytes, at);
    if (!element || found.length >= maxElements) return undefined;
    found.push(element);
    at = element.end;
  }
  return found;
}

/** An object identifier's content in dotted form; undefined where it is none, or has an arc above 2^53. */
export function dottedOid(content: Uint8Array): string | undefined {
  const arcs: number[] = [];
  let arc = 0;
  let isInside = false;
  for (const octet of content) {
    if (!isInside && octet === 0x80) return undefined;
    arc = arc * 128 + (octet & 0x7f);
    if (!Number.isSafeInteger(arc)) return undefined;
    isInside = octet >= 0x80;
    if (isInside) continue;
    if (arcs.length === 0) {
      const root = Math.min(Math.floor(arc / 40), 2);
      arcs.push(root, arc - root * 40);
    } else arcs.push(arc);
    arc = 0;
  }
  return isInside || arcs.length === 0 ? undefined : arcs.join(".");
}
