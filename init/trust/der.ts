/**
 * Just enough DER (X.690) to see of a certificate what node:crypto hides: that it is one element without octets left over, and
 * its path length. Bounded; nothing throws.
 */

type Element = { readonly tag: number; readonly content: Uint8Array; readonly end: number };

/** The element at `at`; undefined where it is cut, its length is not the shortest form, or longer than `bytes`. */
function elementAt(bytes: Uint8Array, at: number): Element | undefined {
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

function cut(bytes: Uint8Array, tag: number, from: number, length: number): Element | undefined {
  const end = from + length;
  return end > bytes.length ? undefined : { tag, content: bytes.subarray(from, end), end };
}

function elementsIn(bytes: Uint8Array): readonly Element[] | undefined {
  const found: Element[] = [];
  for (let at = 0; at < bytes.length; ) {
    const element = elementAt(bytes, at);
    if (!element || found.length > 256) return undefined;
    found.push(element);
    at = element.end;
  }
  return found;
}

const basicConstraints = "0603551d13"; // 2.5.29.19

export type Constraints = { readonly pathLength: number | undefined };

/** True where `der` is one SEQUENCE of three elements that fills all octets: a certificate's outer form (RFC 5280, 4.1). */
export function isWholeCertificate(der: Uint8Array): boolean {
  const outer = elementAt(der, 0);
  return outer?.tag === 0x30 && outer.end === der.length && elementsIn(outer.content)?.length === 3;
}

/** The path length of basicConstraints (RFC 5280, 4.2.1.9); undefined where the certificate cannot be read. */
export function constraintsOf(der: Uint8Array): Constraints | undefined {
  const outer = elementAt(der, 0);
  const body = outer && elementAt(outer.content, 0);
  const fields = body && elementsIn(body.content);
  if (!fields) return undefined;
  const explicit = fields.find((field) => field.tag === 0xa3);
  if (!explicit) return { pathLength: undefined };
  const list = elementAt(explicit.content, 0);
  for (const extension of (list && elementsIn(list.content)) ?? []) {
    const parts = elementsIn(extension.content);
    const id = parts?.[0];
    if (!id || Buffer.from(extension.content.subarray(0, id.end)).toString("hex") !== basicConstraints)
      continue;
    const value = parts?.at(-1);
    const sequence = value?.tag === 0x04 ? elementAt(value.content, 0) : undefined;
    const members = sequence && elementsIn(sequence.content);
    if (!members) return undefined;
    const length = members.find((member) => member.tag === 0x02);
    if (!length) return { pathLength: undefined };
    return length.content.length === 1 ? { pathLength: length.content[0] ?? 0 } : undefined;
  }
  return { pathLength: undefined };
}
