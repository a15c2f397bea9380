import fc from "fast-check";
import t from "tap";
import { commands } from "../../../init/control/commands.ts";
import { commandHelp, overallHelp, usageOf } from "../../../init/control/help.ts";
import { parseCommandLine, UsageError } from "../../../init/control/words.ts";

const noFile = (path: string): string => {
  throw new UsageError(`no file ${path}`);
};
const fieldsOf = (...words: readonly string[]) => {
  const line = parseCommandLine(words, noFile);
  return line.is === "command" ? Object.fromEntries(line.fields) : line.is;
};

t.test("whatever the words, parseCommandLine returns or throws UsageError", (t) => {
  const word = fc.oneof(
    fc.constantFrom(
      "--json",
      "--",
      "-",
      "-h",
      "--socket",
      "--ram",
      "--env",
      "--env=",
      "-f",
      "nopty",
      "run",
      "create",
    ),
    fc.constantFrom(...commands.map(({ name }) => name)),
    fc.string(),
  );
  fc.assert(
    fc.property(fc.array(word, { maxLength: 8 }), (words) => {
      try {
        parseCommandLine(words, noFile);
      } catch (error) {
        if (!(error instanceof UsageError) || error.message.includes("\n")) throw error;
      }
    }),
    { numRuns: 5000 },
  );
  t.end();
});

t.test("flags go before, between and behind; -- ends them; run takes the rest as it is", (t) => {
  t.same(fieldsOf("logs", "-f", "debian"), { container: "debian", follow: true });
  t.same(fieldsOf("logs", "debian", "-f"), { container: "debian", follow: true });
  t.same(fieldsOf("logs", "--", "-f"), { container: "-f" });
  t.same(fieldsOf("run", "--user", "5", "c0", "ls", "--json", "-h"), {
    container: "c0",
    user: 5,
    group: 5,
    argv: ["ls", "--json", "-h"],
  });
  t.same(fieldsOf("run", "--user=5:6", "--cwd", "/tmp", "--env", "A=1", "--env=B=2", "c0", "x"), {
    container: "c0",
    user: 5,
    group: 6,
    directory: "/tmp",
    env: ["A=1", "B=2"],
    argv: ["x"],
  });
  t.same(fieldsOf("attest", "--nonce", "00FF"), { nonce: Uint8Array.of(0, 255) });
  t.match(parseCommandLine(["-s", "/x", "--json", "list"]), { is: "command", json: true, socketPath: "/x" });
  t.match(parseCommandLine(["list", "--json"]), { json: true, socketPath: undefined });
  t.end();
});

t.test("each example of the table is a command line, and each usage names its words", (t) => {
  const files = (path: string) => (path.endsWith(".json") ? '{"name": "web"}' : "text");
  let seen = 0;
  for (const command of commands) {
    t.ok(command.examples.length > 0, command.name);
    for (const example of command.examples) {
      const [control, ...words] = example
        .replace(/\$\(openssl rand -hex 32\)/, "00".repeat(32))
        .replace(/ > \S+$/, "")
        .split(" ");
      t.equal(control, "control");
      t.equal(parseCommandLine(words, files).is, "command", example);
      seen++;
    }
    for (const { shown } of command.args) t.match(usageOf(command), shown);
  }
  t.ok(seen >= commands.length);
  t.end();
});

t.test("help fits 80 columns and says what each word means", (t) => {
  for (const text of [overallHelp(), ...commands.map(commandHelp)]) {
    t.same(
      text.split("\n").filter((line) => line.length > 80 && !line.startsWith("usage: ")),
      [],
    );
    t.ok(text.endsWith("\n"));
  }
  for (const { name, summary, args, flags } of commands) {
    t.match(name, /^[a-z][a-z_]*$/);
    t.ok(summary && [...args, ...flags].every(({ help }) => help), name);
  }
  t.equal(new Set(commands.map(({ name }) => name)).size, commands.length);
  t.end();
});

t.test("the help of one command, as a person sees it", (t) => {
  const logs = commands.find(({ name }) => name === "logs");
  t.equal(
    logs && commandHelp(logs),
    [
      "usage: control logs [-f] <container>",
      "",
      "Print the console log of a container.",
      "On a terminal, control characters of the guest other than colours are shown as",
      "escapes; into a file or pipe all octets pass.",
      "",
      "  <container>  name or uuid of a container",
      "  -f           go on with what comes, until interrupted",
      "  --json       print the result as JSON and nothing else",
      "",
      "examples:",
      "  control logs debian",
      "  control logs -f debian",
      "",
    ].join("\n"),
  );
  t.end();
});
