import t from "tap";
import { FirmwareFilter, KeyFilter } from "../../../tool/console.ts";
import { PlainText } from "../../../tool/plain-text.ts";

t.test("every key but Ctrl-A reaches the device", (t) => {
  const keys = new KeyFilter();
  const all = Buffer.from(Array.from({ length: 256 }, (_, key) => key).filter((key) => key !== 1));
  t.same(keys.take(all), { forward: all, actions: [] });
  t.end();
});

t.test("Ctrl-A and its key are found also when they come apart", (t) => {
  const keys = new KeyFilter();
  t.same(keys.take(Buffer.from("ab\x01")), { forward: Buffer.from("ab"), actions: [] });
  t.same(keys.take(Buffer.from("xc")), { forward: Buffer.from("c"), actions: ["quit"] });
  t.same(keys.take(Buffer.from("\x01a\x01\x01")).forward, Buffer.from("\x01\x01"));
  t.same(keys.take(Buffer.from("\x01h\x01?")).actions, ["help", "help"]);
  t.same(
    keys.take(Buffer.from("\x01q")),
    { forward: Buffer.from(""), actions: [] },
    "an unknown one is swallowed",
  );
  t.end();
});

t.test("the firmware does not clear the terminal, the device may", (t) => {
  const filter = new FirmwareFilter();
  t.equal(
    filter.take(Buffer.from("\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe: loading")).toString(),
    "BdsDxe: loading",
  );
  const crossing = "\x1b[2JBdsDxe: starting Boot0001 x\r\nfirst\x1b[2J";
  t.equal(filter.take(Buffer.from(crossing)).toString(), "BdsDxe: starting Boot0001 x\r\nfirst\x1b[2J");
  t.equal(filter.take(Buffer.from("\x1b[2J")).toString(), "\x1b[2J");
  t.end();
});

const colours = "a\x1b[1;31mred\x1b[0m\r\n\x1b]0;title\x07b\x1b(Bc\x1b[?25l\r\n\xff\x00d";

t.test("plain text has no escape codes and \\n line ends; other octets pass", (t) => {
  const plain = new PlainText();
  const all = Buffer.concat([plain.take(Buffer.from(colours, "latin1")), plain.end()]);
  t.equal(all.toString("latin1"), "ared\nbc\n\xff\x00d");
  t.end();
});

t.test("plain text is the same wherever the stream is cut", (t) => {
  const bytes = Buffer.from(colours, "latin1");
  for (let at = 0; at <= bytes.length; at++) {
    const plain = new PlainText();
    const parts = [plain.take(bytes.subarray(0, at)), plain.take(bytes.subarray(at)), plain.end()];
    t.equal(Buffer.concat(parts).toString("latin1"), "ared\nbc\n\xff\x00d", `cut at ${at}`);
  }
  t.end();
});

t.test("a carriage return alone stays, and one at the end is not lost", (t) => {
  const plain = new PlainText();
  t.equal(plain.take(Buffer.from("10%\r20%\r")).toString() + plain.end().toString(), "10%\r20%\r");
  t.end();
});
