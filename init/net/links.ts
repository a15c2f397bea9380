/** Network links in a namespace of choice: `netnsFd` is a descriptor of /proc/PID/ns/net, -1 is this process's own. */
import { getSystemErrorName } from "node:util";
import { GimbalError, quoted } from "../errors.ts";
import type { Kernel } from "../kernel.ts";
import { isErrno, kernelReason } from "../machine/kernel-refusal.ts";
import {
  decodeMessages,
  encodeMessage,
  errnoOf,
  joined,
  type Message,
  NLM_F_ACK,
  NLM_F_CREATE,
  NLM_F_DUMP,
  NLM_F_EXCL,
  NLM_F_REQUEST,
  NLMSG_DONE,
  NLMSG_ERROR,
} from "./netlink.ts";
import {
  decodeLink,
  IFF_UP,
  ifinfo,
  inNamespace,
  isMac,
  type Link,
  type LinkEnd,
  named,
  plainLink,
  RTM_DELLINK,
  RTM_GETLINK,
  RTM_NEWLINK,
  vethPair,
} from "./rtnetlink.ts";

const NETLINK_ROUTE = 0;
const linksMax = 4096;

/** All links of the namespace, by index. Throws "netlink-refused". */
export function listLinks(kernel: Kernel, netnsFd = -1): readonly Link[] {
  const messages = exchange(kernel, netnsFd, "list", "the network links", RTM_GETLINK, NLM_F_DUMP, ifinfo(0));
  const links = messages.filter(({ type }) => type === RTM_NEWLINK).map(({ payload }) => decodeLink(payload));
  const whole = links.filter((link) => link !== undefined);
  if (whole.length !== links.length || whole.length > linksMax)
    throw refused("list", "the network links", "the kernel's answer is malformed");
  return whole.toSorted((a, b) => a.index - b.index);
}

/** The link of that name; throws "not-found". */
export function findLink(kernel: Kernel, netnsFd: number, name: string): Link {
  const link = listLinks(kernel, netnsFd).find((link) => link.name === name);
  if (link) return link;
  throw new GimbalError("not-found", {
    tried: "find",
    on: `the network link ${quoted(name)}`,
    why: "there is none",
  });
}

/** Brings a link up or down. */
export function setLinkUp(kernel: Kernel, netnsFd: number, name: string, up: boolean): void {
  const { index } = findLink(kernel, netnsFd, name);
  const payload = ifinfo(index, up ? IFF_UP : 0, IFF_UP);
  change(kernel, netnsFd, `bring ${up ? "up" : "down"}`, name, RTM_NEWLINK, 0, payload);
}

/** A new namespace has its loopback down, and then nothing in it reaches its own address. */
export const bringLoopbackUp = (kernel: Kernel, netnsFd = -1): void => setLinkUp(kernel, netnsFd, "lo", true);

/** Renames a link; it is down meanwhile and afterwards. */
export function renameLink(kernel: Kernel, netnsFd: number, name: string, newName: string): void {
  checkName(newName);
  const { index, up } = findLink(kernel, netnsFd, name);
  if (up) setLinkUp(kernel, netnsFd, name, false);
  change(kernel, netnsFd, "rename", name, RTM_NEWLINK, 0, joined(ifinfo(index), named(newName)));
}

/** Moves a link into another namespace, under `newName` if given. Its addresses are lost, and it is down there. */
export function moveLink(kernel: Kernel, from: number, name: string, to: number, newName = name): void {
  checkName(newName);
  const { index } = findLink(kernel, from, name);
  const payload = joined(ifinfo(index), named(newName), inNamespace(to));
  change(kernel, from, "move", name, RTM_NEWLINK, 0, payload);
}

/** Makes a veth pair with one request, each end in its namespace. Deleting one end, or its namespace, takes both. */
export function createVeth(kernel: Kernel, outer: LinkEnd, inner: LinkEnd): void {
  for (const end of [outer, inner]) checkEnd(end);
  change(kernel, -1, "make", outer.name, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, vethPair(outer, inner));
}

/** A link without a wire, for tests and as a place for addresses. */
export function createDummy(kernel: Kernel, end: LinkEnd): void {
  checkEnd(end);
  change(kernel, -1, "make", end.name, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, plainLink("dummy", end));
}

/** Deletes a virtual link; one that is gone already is fine. */
export function deleteLink(kernel: Kernel, netnsFd: number, name: string): void {
  const link = listLinks(kernel, netnsFd).find((link) => link.name === name);
  if (link) change(kernel, netnsFd, "delete", name, RTM_DELLINK, 0, ifinfo(link.index));
}

function change(
  kernel: Kernel,
  netnsFd: number,
  tried: string,
  name: string,
  type: number,
  flags: number,
  payload: Uint8Array,
): void {
  exchange(kernel, netnsFd, tried, `the network link ${quoted(name)}`, type, flags | NLM_F_ACK, payload);
}

/** One request and all messages of its answer. An errno in it is the refusal. */
function exchange(
  kernel: Kernel,
  netnsFd: number,
  tried: string,
  on: string,
  type: number,
  flags: number,
  payload: Uint8Array,
): readonly Message[] {
  const request = encodeMessage(type, NLM_F_REQUEST | flags, 1, payload);
  const messages = ask(kernel, netnsFd, request, tried, on).flatMap((datagram) => {
    const decoded = decodeMessages(datagram);
    if (decoded.is === "refused")
      throw refused(tried, on, `the kernel's answer is malformed: ${decoded.reason}`);
    return decoded.messages;
  });
  const last = messages.find((message) => message.type === NLMSG_ERROR || message.type === NLMSG_DONE);
  if (!last) throw refused(tried, on, "the kernel's answer has no end");
  const errno = errnoOf(last.payload) ?? (last.type === NLMSG_DONE ? 0 : -1);
  if (errno !== 0) throw refused(tried, on, errnoName(errno));
  return messages;
}

function ask(
  kernel: Kernel,
  netnsFd: number,
  request: Uint8Array,
  tried: string,
  on: string,
): readonly Uint8Array[] {
  try {
    return kernel.netlink(netnsFd, NETLINK_ROUTE, request);
  } catch (error) {
    throw refused(
      tried,
      on,
      isErrno(error, "EAGAIN") ? "the kernel did not answer" : kernelReason(error),
      error,
    );
  }
}

const errnoName = (errno: number) =>
  errno > 0 && errno < 4096
    ? `the kernel says ${getSystemErrorName(-errno)}`
    : "the kernel's answer is malformed";

function checkEnd({ name, mac }: LinkEnd): void {
  checkName(name);
  if (mac !== undefined && !isMac(mac)) throw refusedArgument(name, "its MAC address is malformed");
}

/** dev_valid_name() of the kernel, and only signs that no terminal or rule stumbles over. */
function checkName(name: string): void {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$/.test(name))
    throw refusedArgument(name, "a name has 1 to 15 letters, digits, . _ -");
}

const refusedArgument = (name: string, why: string) =>
  new GimbalError("bad-argument", { tried: "make", on: `the network link ${quoted(name)}`, why });

const refused = (tried: string, on: string, why: string, cause?: unknown) =>
  new GimbalError("netlink-refused", { tried, on, why }, cause);
