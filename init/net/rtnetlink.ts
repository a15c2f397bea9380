/** rtnetlink(7), the link messages: struct ifinfomsg and the IFLA_* attributes that are used here. */
import { attribute, decodeAttributes, joined, nested, text, textOf, u32 } from "./netlink.ts";

export const RTM_NEWLINK = 16;
export const RTM_DELLINK = 17;
export const RTM_GETLINK = 18;
export const IFF_UP = 1;
const IFLA_ADDRESS = 1;
const IFLA_IFNAME = 3;
const IFLA_LINKINFO = 18;
const IFLA_NET_NS_FD = 28;
const IFLA_INFO_KIND = 1;
const IFLA_INFO_DATA = 2;
const VETH_INFO_PEER = 1;
const ifinfoBytes = 16;

/** "02:00:00:00:00:01" */
export type Mac = string;

export type Link = {
  readonly index: number;
  /** What the kernel says; a guest may have chosen it. */
  readonly name: string;
  readonly up: boolean;
  readonly mac?: Mac;
  /** "veth", "bridge", ...; physical interfaces have none. */
  readonly kind?: string;
};

export type LinkEnd = {
  readonly name: string;
  readonly mac?: Mac;
  /** The namespace it is made in; left out: that of the socket. */
  readonly netnsFd?: number;
};

/** struct ifinfomsg: which link (0: named by an attribute), and which of its flags change. */
export function ifinfo(index: number, flags = 0, change = 0): Uint8Array {
  const octets = new Uint8Array(ifinfoBytes);
  const view = new DataView(octets.buffer);
  view.setInt32(4, index, true);
  view.setUint32(8, flags, true);
  view.setUint32(12, change, true);
  return octets;
}

export const named = (name: string): Uint8Array => attribute(IFLA_IFNAME, text(name));

/** The link moves into that namespace. */
export const inNamespace = (netnsFd: number): Uint8Array => attribute(IFLA_NET_NS_FD, u32(netnsFd));

/** Payload of RTM_NEWLINK for a veth pair, each end in its place from the start (facts of the engine, section 7). */
export function vethPair(outer: LinkEnd, inner: LinkEnd): Uint8Array {
  const peer = nested(VETH_INFO_PEER, ifinfo(0), ...endAttributes(inner));
  const info = nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, text("veth")), nested(IFLA_INFO_DATA, peer));
  return joined(ifinfo(0), ...endAttributes(outer), info);
}

/** Payload of RTM_NEWLINK for a link of a kind without data of its own ("dummy"). */
export const plainLink = (kind: string, end: LinkEnd): Uint8Array =>
  joined(ifinfo(0), ...endAttributes(end), nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, text(kind))));

function endAttributes({ name, mac, netnsFd }: LinkEnd): readonly Uint8Array[] {
  return [
    named(name),
    ...(mac === undefined ? [] : [attribute(IFLA_ADDRESS, macOctets(mac))]),
    ...(netnsFd === undefined || netnsFd < 0 ? [] : [inNamespace(netnsFd)]),
  ];
}

/** Reads the payload of an RTM_NEWLINK message; undefined where it is malformed. */
export function decodeLink(payload: Uint8Array): Link | undefined {
  if (payload.length < ifinfoBytes) return undefined;
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  const attributes = decodeAttributes(payload.subarray(ifinfoBytes));
  const name = attributes?.find(({ type }) => type === IFLA_IFNAME)?.value;
  if (!attributes || !name) return undefined;
  const address = attributes.find(({ type }) => type === IFLA_ADDRESS)?.value;
  const info = attributes.find(({ type }) => type === IFLA_LINKINFO)?.value;
  const kind = info && decodeAttributes(info)?.find(({ type }) => type === IFLA_INFO_KIND)?.value;
  return {
    index: view.getInt32(4, true),
    name: textOf(name),
    up: (view.getUint32(8, true) & IFF_UP) !== 0,
    ...(address?.length === 6 ? { mac: macText(address) } : {}),
    ...(kind ? { kind: textOf(kind) } : {}),
  };
}

/** Six octets in hex, colons between them. */
export const isMac = (value: string): boolean => /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(value);

const macOctets = (mac: Mac) => new Uint8Array(mac.split(":").map((part) => Number.parseInt(part, 16)));
const macText = (octets: Uint8Array) =>
  [...octets].map((octet) => octet.toString(16).padStart(2, "0")).join(":");
