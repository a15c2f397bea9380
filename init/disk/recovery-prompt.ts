/** Asks for the recovery key, group by group or all at once: each group is checked as it comes, only the wrong one is asked again. */
import { checkGroup, groupCount, groupDigits, parseRecoveryKey, type RecoveryKey } from "./recovery-key.ts";

/** Shows a prompt and resolves with a typed line; undefined when nobody answers. */
export type Ask = (prompt: string) => Promise<string | undefined>;

/** The key, once all its groups are right; undefined when nobody answers any more. An empty line begins anew. */
export async function promptRecoveryKey(ask: Ask): Promise<RecoveryKey | undefined> {
  let groups: readonly string[] = [];
  let remark = "";
  for (;;) {
    const place =
      groups.length === 0 ? "recovery key" : `from group ${groups.length + 1} of ${groupCount} on`;
    const line = await ask(`${remark}${place}: `);
    if (line === undefined) return undefined;
    const taken = takeGroups(groups, line);
    groups = taken.groups;
    remark = taken.remark === "" ? "" : `${taken.remark}\n`;
    if (groups.length < groupCount) continue;
    const parsed = parseRecoveryKey(groups.join(""));
    if (parsed.is === "key") return parsed.key;
    groups = [];
    remark = `${parsed.why}\n`;
  }
}

/** Appends the groups of a typed line as far as they are right. */
export function takeGroups(
  before: readonly string[],
  line: string,
): { readonly groups: readonly string[]; readonly remark: string } {
  const digits = line.replace(/[\s.\-_,]/g, "");
  if (digits === "") return { groups: [], remark: "begin with the first group" };
  const groups = [...before];
  for (let at = 0; at < digits.length; at += groupDigits) {
    const group = digits.slice(at, at + groupDigits);
    const number = groups.length + 1;
    if (number > groupCount) return { groups, remark: "there are more digits than a key has" };
    if (group.length < groupDigits)
      return { groups, remark: `group ${number} has ${group.length} digits instead of ${groupDigits}` };
    if (!checkGroup(groups.length, group))
      return { groups, remark: `group ${number} is mistyped; the ${groups.length} before it are right` };
    groups.push(group);
  }
  const left = groupCount - groups.length;
  return { groups, remark: left > 0 ? `${groups.length} right, ${left} to go` : "" };
}
