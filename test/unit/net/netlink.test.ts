import fc from "fast-check";
import t from "tap";
import type { Kernel } from "../../../init/kernel.ts";
import { createVeth, listLinks, moveLink, setLinkUp } from "../../../init/net/links.ts";
import {
  attribute,
  decodeAttributes,
  decodeMessages,
  encodeMessage,
  errnoOf,
  joined,
  text,
  u32,
} from "../../../init/net/netlink.ts";
import { decodeLink, ifinfo, vethPair } from "../../../init/net/rtnetlink.ts";

t.test("malformed datagrams and attributes are refused, whatever they hold", (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (octets) => {
      const decoded = decodeMessages(octets);
      const attributes = decodeAttributes(octets);
      decodeLink(octets);
      return (
        ["messages", "refused"].includes(decoded.is) && (attributes === undefined || attributes.length < 100)
      );
    }),
  );
  t.match(decodeMessages(new Uint8Array(15)), { is: "refused", offset: 0 });
  const short = encodeMessage(16, 0, 1, new Uint8Array(8));
  new DataView(short.buffer).setUint32(0, 15, true);
  t.match(decodeMessages(short), { is: "refused" });
  new DataView(short.buffer).setUint32(0, 0xffffffff, true);
  t.match(decodeMessages(short), { is: "refused" });
  t.equal(decodeAttributes(Uint8Array.from([3, 0, 1, 0])), undefined);
  t.equal(errnoOf(new Uint8Array(3)), undefined);
  t.end();
});

t.test("messages and attributes come back, cut at every octet they do not", (t) => {
  const payload = joined(
    ifinfo(7),
    attribute(3, text("eth0")),
    attribute(1, Uint8Array.of(2, 0, 0, 0, 0, 9)),
  );
  const message = encodeMessage(16, 5, 1, payload);
  t.equal(message.length % 4, 0);
  const decoded = decodeMessages(message);
  const [only] = decoded.is === "messages" ? decoded.messages : [];
  t.match(only && decodeLink(only.payload), { index: 7, name: "eth0", mac: "02:00:00:00:00:09", up: false });
  for (let length = 1; length < message.length; length++)
    t.equal(decodeMessages(message.subarray(0, length)).is, "refused", `${length}`);
  t.end();
});

t.test("a veth pair is one request, octet by octet after rtnetlink(7)", (t) => {
  // struct ifinfomsg, IFLA_IFNAME "o", IFLA_LINKINFO { KIND "veth", DATA { PEER { ifinfomsg, IFLA_IFNAME "i", NET_NS_FD 9 } } }
  const expected = joined(
    new Uint8Array(16),
    Uint8Array.of(6, 0, 3, 0, 0x6f, 0, 0, 0),
    Uint8Array.of(56, 0, 18, 0),
    Uint8Array.of(9, 0, 1, 0, 0x76, 0x65, 0x74, 0x68, 0, 0, 0, 0),
    Uint8Array.of(40, 0, 2, 0),
    Uint8Array.of(36, 0, 1, 0),
    new Uint8Array(16),
    Uint8Array.of(6, 0, 3, 0, 0x69, 0, 0, 0),
    Uint8Array.of(8, 0, 28, 0, 9, 0, 0, 0),
  );
  t.same(vethPair({ name: "o" }, { name: "i", netnsFd: 9 }), expected);
  t.end();
});

/** A kernel that answers each request with what `answer` makes of it. */
function kernel(answer: (request: Uint8Array, netnsFd: number) => readonly Uint8Array[]): Kernel {
  return { netlink: (netnsFd: number, _: number, request: Uint8Array) => answer(request, netnsFd) } as Kernel;
}
const error = (errno: number) => encodeMessage(2, 0, 1, joined(u32(-errno >>> 0), new Uint8Array(16)));
const links = joined(
  encodeMessage(16, 2, 1, joined(ifinfo(2), attribute(3, text("eth0")))),
  encodeMessage(16, 2, 1, joined(ifinfo(1, 1), attribute(3, text("lo")))),
);
const done = encodeMessage(3, 2, 1, u32(0));

t.test("a refusal of the kernel names the errno and the link", (t) => {
  const refusing = kernel(() => [error(17)]);
  t.throws(() => createVeth(refusing, { name: "veth0" }, { name: "eth0" }), {
    code: "netlink-refused",
    message: /"veth0": the kernel says EEXIST/,
  });
  t.throws(() => listLinks(kernel(() => [new Uint8Array(3)])), { code: "netlink-refused" });
  t.throws(() => listLinks(kernel(() => [links])), { code: "netlink-refused", message: /no end/ });
  t.throws(() => listLinks(kernel(() => [encodeMessage(16, 0, 1, ifinfo(1)), done])), {
    message: /malformed/,
  });
  t.throws(
    () =>
      setLinkUp(
        kernel(() => [links, done]),
        -1,
        "wlan0",
        true,
      ),
    { code: "not-found" },
  );
  t.end();
});

t.test("names that could not be an interface are refused before the kernel is asked", (t) => {
  const never = kernel(() => t.fail("asked") as never);
  for (const name of ["", ".", "-x", "a/b", "a b", "0123456789abcdef", "a\0b"])
    t.throws(
      () => createVeth(never, { name }, { name: "ok" }),
      { code: "bad-argument" },
      JSON.stringify(name),
    );
  t.throws(() => createVeth(never, { name: "a", mac: "zz" }, { name: "b" }), { code: "bad-argument" });
  t.throws(() => moveLink(never, -1, "a", 5, "../b"), { code: "bad-argument" });
  t.end();
});

t.test("links are listed by index, and asked for in the namespace that was named", (t) => {
  const asked: number[] = [];
  const answering = kernel((_, netnsFd) => {
    asked.push(netnsFd);
    return [links, done];
  });
  t.match(listLinks(answering, 12), [
    { index: 1, name: "lo", up: true },
    { index: 2, name: "eth0", up: false },
  ]);
  t.same(asked, [12]);
  t.end();
});
