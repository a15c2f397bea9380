/** The house itself: imports go one way, each room explains itself, nothing of a machine stands in the tree. */
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import t from "tap";
import { errorCodes } from "../../init/errors.ts";

const tracked = execFileSync("git", ["ls-files", "-co", "--exclude-standard"], { encoding: "utf8" })
  .trim()
  .split("\n")
  .filter((file) => existsSync(file));
const read = (file: string) => readFileSync(file, "utf8");

t.test("imports go one way", (t) => {
  const roots = ["init", "addon", "initramfs", "board", "guestos", "tool", "test"];
  const run = spawnSync(
    process.execPath,
    ["node_modules/dependency-cruiser/bin/dependency-cruiser.mjs", ...roots, "--output-type", "json"],
    { encoding: "utf8", maxBuffer: 2 ** 28 },
  );
  const report: unknown = JSON.parse(run.stdout);
  const { summary, modules } = report as {
    summary: { violations: { rule: { name: string }; from: string; to: string }[] };
    modules: { source: string }[];
  };
  const seen = new Set(modules.map((module) => module.source));
  const files = tracked.filter((file) => /\.ts$/.test(file) && !/\.d\.ts$/.test(file));
  t.same(
    files.filter((file) => roots.includes(file.split("/")[0] ?? "") && !seen.has(file)),
    [],
    "every file was looked at",
  );
  t.same(
    summary.violations.map(({ rule, from, to }) => `${rule.name}: ${from} -> ${to}`),
    [],
  );
  t.end();
});

t.test("each folder with code has a README.md", (t) => {
  const folders = new Set(tracked.filter((file) => /\.(ts|cc|c|h)$/.test(file)).map((file) => dirname(file)));
  const wanted = [...folders].filter((folder) => folder !== "." && !folder.startsWith("test/"));
  t.ok(wanted.length > 10);
  t.same(
    wanted.filter((folder) => !existsSync(`${folder}/README.md`)),
    [],
  );
  t.end();
});

t.test("the top level holds what the design names and nothing else", (t) => {
  const top = new Set(
    tracked.map((file) => file.split("/")[0] ?? "").filter((name) => !name.startsWith(".")),
  );
  const named =
    "CHANGELOG.md CONTRIBUTING.md LICENSE Makefile README.md SECURITY.md addon biome.json board docs guestos init initramfs package-lock.json package.json test tool tsconfig.json";
  t.same([...top].sort(), named.split(" ").sort());
  t.end();
});

t.test("every error code has a row in docs/errors.md, and every row a code", (t) => {
  const rows = [...read("docs/errors.md").matchAll(/^\| `([a-z0-9-]+)` \|/gm)].map((match) => match[1] ?? "");
  t.same(rows, [...rows].sort(), "rows are sorted");
  t.same([...errorCodes], [...errorCodes].sort(), "codes are sorted");
  t.same(rows, [...errorCodes]);
  t.end();
});

t.test("no path of a machine and no registry's host name stands in the tree", (t) => {
  const own = /\/work\/|\/root\/\.(cache|npm|config)/;
  const text = tracked.filter((file) =>
    /\.(ts|cc|c|h|md|json|yaml|sh|txt|svg)$|Makefile$|\.ci\/run$/.test(file),
  );
  t.ok(text.length > 30);
  const bad = text.filter((file) => file !== "test/unit/house.test.ts" && own.test(read(file)));
  t.same(bad, []);
  t.notMatch(read("package-lock.json"), /"resolved"/);
  t.end();
});

/** Formats whose specifications name a field so. */
const formatWords = ["board/pe.ts", "board/block-map.ts", "tool/guestos/tar-reader.ts"];

/** Banned word -> what to write instead. */
const words: Record<string, string> = {
  checksum: "digest (or say which group check it is)",
  whitelist: "allow-list",
  blacklist: "deny-list",
  FIXME: "an issue's words",
};

t.test("the field's words are used", (t) => {
  const bad: string[] = [];
  for (const file of tracked.filter((file) =>
    /^(init|addon|board|initramfs|tool|guestos)\/.*\.(ts|cc|c|h)$/.test(file),
  )) {
    if (formatWords.includes(file)) continue;
    for (const [word, instead] of Object.entries(words)) {
      if (new RegExp(`\\b${word}\\b`, "i").test(read(file))) bad.push(`${file}: ${word} -> ${instead}`);
    }
  }
  t.same(bad, []);
  t.end();
});
