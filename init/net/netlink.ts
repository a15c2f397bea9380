/**
 * netlink(7): messages and attributes. Native byte order (all our architectures are little-endian), everything aligned to 4.
 * Nothing here throws on what the kernel sends; lengths are checked before they are used.
 */

export type Message = {
  readonly type: number;
  readonly flags: number;
  readonly payload: Uint8Array;
};

export type Messages =
  | { readonly is: "messages"; readonly messages: readonly Message[] }
  | { readonly is: "refused"; readonly reason: string; readonly offset: number };

export type Attribute = { readonly type: number; readonly value: Uint8Array };

export const NLM_F_REQUEST = 1;
export const NLM_F_ACK = 4;
export const NLM_F_DUMP = 0x300;
export const NLM_F_EXCL = 0x200;
export const NLM_F_CREATE = 0x400;
export const NLMSG_ERROR = 2;
export const NLMSG_DONE = 3;

const headerBytes = 16;
const attributeHeaderBytes = 4;
const messagesMax = 65_536;
/** NLA_F_NESTED and NLA_F_NET_BYTEORDER are not part of the type. */
const typeMask = 0x3fff;

const aligned = (length: number) => (length + 3) & ~3;

/** One request. */
export function encodeMessage(
  type: number,
  flags: number,
  sequence: number,
  payload: Uint8Array,
): Uint8Array {
  const octets = new Uint8Array(aligned(headerBytes + payload.length));
  const view = new DataView(octets.buffer);
  view.setUint32(0, headerBytes + payload.length, true);
  view.setUint16(4, type, true);
  view.setUint16(6, flags, true);
  view.setUint32(8, sequence, true);
  octets.set(payload, headerBytes);
  return octets;
}

/** The messages of one datagram, in order. */
export function decodeMessages(datagram: Uint8Array): Messages {
  const view = new DataView(datagram.buffer, datagram.byteOffset, datagram.length);
  const messages: Message[] = [];
  for (let at = 0; at < datagram.length; ) {
    if (datagram.length - at < headerBytes) return { is: "refused", reason: "a header is cut", offset: at };
    const length = view.getUint32(at, true);
    if (length < headerBytes || length > datagram.length - at)
      return { is: "refused", reason: "a length is impossible", offset: at };
    if (messages.length === messagesMax) return { is: "refused", reason: "too many messages", offset: at };
    messages.push({
      type: view.getUint16(at + 4, true),
      flags: view.getUint16(at + 6, true),
      payload: datagram.subarray(at + headerBytes, at + length),
    });
    at += aligned(length);
  }
  return { is: "messages", messages };
}

/** One attribute with its padding. */
export function attribute(type: number, value: Uint8Array): Uint8Array {
  const length = attributeHeaderBytes + value.length;
  const octets = new Uint8Array(aligned(length));
  const view = new DataView(octets.buffer);
  view.setUint16(0, length, true);
  view.setUint16(2, type, true);
  octets.set(value, attributeHeaderBytes);
  return octets;
}

/** An attribute that holds others. */
export const nested = (type: number, ...inner: readonly Uint8Array[]): Uint8Array =>
  attribute(type, joined(...inner));

/** The attributes that `octets` consist of; undefined where they are malformed. */
export function decodeAttributes(octets: Uint8Array): readonly Attribute[] | undefined {
  const view = new DataView(octets.buffer, octets.byteOffset, octets.length);
  const attributes: Attribute[] = [];
  for (let at = 0; at < octets.length; ) {
    if (octets.length - at < attributeHeaderBytes) return undefined;
    const length = view.getUint16(at, true);
    if (length < attributeHeaderBytes || length > octets.length - at) return undefined;
    attributes.push({
      type: view.getUint16(at + 2, true) & typeMask,
      value: octets.subarray(at + attributeHeaderBytes, at + length),
    });
    at += aligned(length);
  }
  return attributes;
}

export function u32(value: number): Uint8Array {
  const octets = new Uint8Array(4);
  new DataView(octets.buffer).setUint32(0, value, true);
  return octets;
}

/** Text with its NUL. */
export const text = (value: string): Uint8Array => new TextEncoder().encode(`${value}\0`);

export function joined(...parts: readonly Uint8Array[]): Uint8Array {
  const octets = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    octets.set(part, at);
    at += part.length;
  }
  return octets;
}

/** Text up to its NUL. */
export function textOf(octets: Uint8Array): string {
  const end = octets.indexOf(0);
  return new TextDecoder().decode(end < 0 ? octets : octets.subarray(0, end));
}

/** errno of an NLMSG_ERROR message: 0 is an acknowledgement; undefined where it is too short. */
export function errnoOf(payload: Uint8Array): number | undefined {
  if (payload.length < 4) return undefined;
  return -new DataView(payload.buffer, payload.byteOffset, 4).getInt32(0, true);
}
