import { randomBytes } from "node:crypto";
import t from "tap";
import {
  checkGroup,
  groupCount,
  makeRecoveryKey,
  parseRecoveryKey,
  recoveryKeyLines,
  recoveryPassphrase,
} from "../../../init/disk/recovery-key.ts";
import { promptRecoveryKey, takeGroups } from "../../../init/disk/recovery-prompt.ts";

const fixed = () =>
  makeRecoveryKey((length) => Uint8Array.from({ length }, (_, index) => (index * 37 + 5) & 255));

t.test("every single wrong digit is found, in its own group", (t) => {
  const { text } = fixed();
  for (let at = 0; at < text.length; at++) {
    if (text[at] === "-") continue;
    for (let digit = 0; digit < 10; digit++) {
      if (String(digit) === text[at]) continue;
      const parsed = parseRecoveryKey(text.slice(0, at) + digit + text.slice(at + 1));
      if (parsed.is !== "refused" || parsed.wrongGroups.join() !== String(Math.floor(at / 7) + 1))
        t.fail(`digit ${at} as ${digit}: ${JSON.stringify(parsed)}`);
    }
  }
  t.pass("all digits");
  t.end();
});

t.test("every two neighbours swapped within a group are found", (t) => {
  const { groups } = fixed();
  for (const [index, group] of groups.entries())
    for (let at = 0; at < 5; at++) {
      if (group[at] === group[at + 1]) continue;
      const swapped = group.slice(0, at) + group[at + 1] + group[at] + group.slice(at + 2);
      if (checkGroup(index, swapped)) t.fail(`group ${index}: ${swapped}`);
    }
  t.pass("all neighbours");
  t.end();
});

t.test("two groups in each other's place are found, but for those eleven apart", (t) => {
  const { groups } = fixed();
  for (let a = 0; a < groupCount; a++)
    for (let b = a + 1; b < groupCount; b++)
      t.equal(checkGroup(a, groups[b] ?? ""), b - a === 11, `${a} and ${b}`);
  t.end();
});

t.test("what is no key is refused with a reason", (t) => {
  for (const [typed, why] of [
    ["", /0 digits instead of 96/],
    ["12345", /5 digits/],
    ["9".repeat(97), /97 digits/],
    ["a".repeat(96), /something else than digits/],
    ["9".repeat(96), /mistyped: group 1, /],
    ["\u0660".repeat(96), /something else/],
  ] as const) {
    const parsed = parseRecoveryKey(typed);
    t.match(parsed, { is: "refused", why }, typed.slice(0, 8));
  }
  t.end();
});

t.test("a group beyond 16 bits is refused though its check is right", (t) => {
  t.ok(checkGroup(0, String(65535 * 11)));
  t.notOk(checkGroup(0, String(65536 * 11)));
  t.notOk(checkGroup(0, "+12345"));
  t.end();
});

t.test("a key comes back however it is spaced", (t) => {
  for (let round = 0; round < 200; round++) {
    const key = makeRecoveryKey(randomBytes);
    t.equal(key.text.length, 111);
    for (const typed of [
      key.text,
      key.groups.join(""),
      key.groups.join(" "),
      ` ${recoveryKeyLines(key).join("\n")} `,
    ])
      t.same(parseRecoveryKey(typed), { is: "key", key });
  }
  t.equal(new TextDecoder().decode(recoveryPassphrase(fixed())), fixed().text);
  t.end();
});

t.test("256 bits: each of the 32 random octets is in the digits", (t) => {
  const base = Buffer.alloc(32, 0x5a);
  const texts = new Set<string>();
  for (let bit = 0; bit < 256; bit++) {
    const octets = Buffer.from(base);
    octets[bit >> 3] = (octets[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    texts.add(makeRecoveryKey(() => octets).text);
  }
  t.equal(texts.size, 256);
  t.end();
});

t.test("the prompt asks again only from the wrong group on", async (t) => {
  const { groups, text } = fixed();
  const lines = [groups.slice(0, 3).join(" "), `${groups[3]} 000001`, groups.slice(4).join("-")];
  const prompts: string[] = [];
  const key = await promptRecoveryKey(async (prompt) => {
    prompts.push(prompt);
    return lines.shift();
  });
  t.equal(key?.text, text);
  t.same(prompts, [
    "recovery key: ",
    "3 right, 13 to go\nfrom group 4 of 16 on: ",
    "group 5 is mistyped; the 4 before it are right\nfrom group 5 of 16 on: ",
  ]);
});

t.test("the prompt ends when nobody answers, and an empty line begins anew", async (t) => {
  t.equal(await promptRecoveryKey(async () => undefined), undefined);
  t.same(takeGroups(fixed().groups.slice(0, 5), "  "), { groups: [], remark: "begin with the first group" });
  t.match(takeGroups(fixed().groups, "1").remark, /more digits/);
  t.match(takeGroups([], "12345").remark, /group 1 has 5 digits/);
});
