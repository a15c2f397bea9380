import t from "tap";
import type { CborValue } from "../../../init/bytes/cbor.ts";
import type { Result } from "../../../init/control/command.ts";
import { render, toJson } from "../../../init/control/render.ts";
import { escaped, SafeText } from "../../../init/control/safe-text.ts";

const map = (fields: { [key: string]: CborValue }) => new Map(Object.entries(fields));
const table: Result = {
  is: "rows",
  empty: "none",
  fields: [
    { key: "name", title: "NAME", help: "" },
    { key: "n", title: "N", right: true, help: "" },
    { key: "text", title: "TEXT", help: "" },
    { key: "never", title: "NEVER", help: "" },
    { key: "hidden", help: "" },
  ],
};

t.test("what a guest writes cannot act on a terminal", (t) => {
  t.equal(
    escaped("a\u001b]0;x\u0007\n\u202eb\u0085\ufeff"),
    "a\\u001b]0;x\\u0007\\u000a\\u202eb\\u0085\\ufeff",
  );
  const shown = render(table, [map({ name: "x\u001b[2J", text: ["\u009b2J", "\u2066"] })]);
  for (const sign of ["\u001b", "\u009b", "\u2066"]) t.notMatch(shown, sign);
  const fields: Result = { is: "fields", fields: [] };
  t.notMatch(
    render(fields, map({ "key\u001b": "\u001b", list: ["\u001b", "\u001b"], map: map({ "\u001b": 1 }) })),
    "\u001b",
  );
  t.notMatch(render({ is: "line", fields: [], of: () => "\u001b\n" }, null), "\u001b");
  t.end();
});

t.test("columns are aligned by what a terminal shows; one that says nothing is left out", (t) => {
  const rows = [
    map({ name: "a", n: 5, text: "x" }),
    map({ name: "\u6c34\u6c34", n: 1000, text: "e\u0301y" }),
  ];
  t.equal(
    render(table, rows),
    ["NAME     N  TEXT", "a        5  x", "\u6c34\u6c34  1000  e\u0301y", ""].join("\n"),
  );
  t.equal(render(table, []), "none\n");
  t.end();
});

t.test("a table fits the terminal: the widest columns give way, the others stay", (t) => {
  const rows = [map({ name: "web", n: 5, text: "x".repeat(100) })];
  for (const columns of [200, 80, 40, 30]) {
    const lines = render(table, rows, columns).split("\n");
    t.ok(
      lines.every((line) => line.length <= columns),
      `${columns}`,
    );
    t.match(lines[1], /^web {3}5 {2}x/);
    t.equal(lines[1]?.endsWith("\u2026"), columns < 200);
  }
  t.ok(render(table, rows, 5).length > 0, "however narrow");
  t.end();
});

t.test("values are shown as a person reads them", (t) => {
  const is: Result = {
    is: "fields",
    fields: [
      { key: "a", help: "", as: "bytes" },
      { key: "b", help: "", as: "seconds" },
      { key: "c", help: "", as: "time" },
    ],
  };
  const one = (key: string, value: CborValue) => render(is, map({ [key]: value })).slice(3, -1);
  t.same(
    [999, 1000, 1_500_000, 2e9, 3e12].map((n) => one("a", n)),
    ["999 B", "1.0 kB", "1.5 MB", "2.0 GB", "3.0 TB"],
  );
  t.same(
    [59, 60, 3600, 90_061].map((n) => one("b", n)),
    ["59 s", "1 min 0 s", "1 h 0 min", "1 d 1 h"],
  );
  t.equal(one("c", 0), "1970-01-01T00:00:00Z");
  t.equal(one("c", Number.MAX_SAFE_INTEGER), String(Number.MAX_SAFE_INTEGER), "no time at all");
  t.same(
    [null, "", [], true, false, new Uint8Array([1, 255]), map({ k: 1 }), 5n].map((value) => one("x", value)),
    ["-", "-", "-", "yes", "no", "01ff", "k=1", "5"],
  );
  t.equal(render(is, map({ long: "x", w: ["first", "second"] })), "long  x\nw     first\n      second\n");
  t.end();
});

t.test("JSON has octets in hex, and __proto__ is a key like any other", (t) => {
  const value = map({ __proto__x: 1, bytes: new Uint8Array([1, 2]), big: 2n ** 60n });
  value.set("__proto__", map({ isAdmin: true }));
  const back: unknown = JSON.parse(toJson(value));
  t.notOk((back as { isAdmin?: boolean }).isAdmin);
  t.match(back, { bytes: "0102", big: String(2n ** 60n) });
  t.end();
});

t.test("SafeText lets colours and line ends pass, wherever the octets are cut", (t) => {
  const octets = Buffer.from(
    "\u001b[1;32mOK\u001b[0m\ta\r\nb\rc\u001b[2J\u001b]0;t\u0007\u001bc\u009b\u{1f600}\u202e\u001b[",
  );
  const shown =
    "\u001b[1;32mOK\u001b[0m\ta\nb\rc\\u001b[2J\\u001b]0;t\\u0007\\u001bc\\u009b\u{1f600}\\u202e\\u001b[";
  for (let cut = 0; cut <= octets.length; cut++) {
    const safe = new SafeText();
    const all = safe.take(octets.subarray(0, cut)) + safe.take(octets.subarray(cut)) + safe.end();
    // CR LF that comes apart keeps its CR, which changes nothing on a terminal.
    if (all.replaceAll("\r\n", "\n") !== shown) t.equal(all, shown, `cut at ${cut}`);
  }
  const safe = new SafeText();
  t.equal(
    safe.take(Buffer.from(`\u001b[${"1;".repeat(40)}`)).length > 10,
    true,
    "a colour that never ends is not waited for",
  );
  t.end();
});
