/**
 * The recovery key: 256 random bits as 16 groups of 6 digits, each group carrying 16 bits and its own check.
 *   group i = value * 11 + (i mod 11), so a group is valid in its place only where group mod 11 = i mod 11.
 * That finds every wrong digit and every two neighbours swapped inside a group, and nearly all groups out of order.
 * LUKS gets the text itself, hyphens and all, so that plain cryptsetup on any Linux takes what the operator reads off.
 */
import { randomBytes } from "node:crypto";

export const groupCount = 16;
export const groupDigits = 6;

export type RecoveryKey = {
  /** 16 times 6 digits. */
  readonly groups: readonly string[];
  /** The groups joined by hyphens: 111 characters, the passphrase of its key slot. */
  readonly text: string;
};

export type ParsedKey =
  | { readonly is: "key"; readonly key: RecoveryKey }
  | {
      readonly is: "refused";
      readonly why: string;
      /** Counted from 1; empty where the number of digits is wrong. */
      readonly wrongGroups: readonly number[];
    };

/** Makes a key from `random` (32 octets). Whoever gets it shows it once and forgets it. */
export function makeRecoveryKey(random: (length: number) => Uint8Array = randomBytes): RecoveryKey {
  const octets = random(2 * groupCount);
  const groups = Array.from({ length: groupCount }, (_, index) => {
    const value = ((octets[2 * index] ?? 0) << 8) | (octets[2 * index + 1] ?? 0);
    return String(value * 11 + (index % 11)).padStart(groupDigits, "0");
  });
  octets.fill(0);
  return keyOf(groups);
}

/** True where these six digits can stand as group `index` (from 0): checked while an operator types. */
export function checkGroup(index: number, digits: string): boolean {
  if (!/^[0-9]{6}$/.test(digits)) return false;
  const number = Number(digits);
  return number % 11 === index % 11 && (number - (index % 11)) / 11 <= 0xffff;
}

/** Reads what an operator typed: digits, with spaces, hyphens, dots or nothing between them. Never throws. */
export function parseRecoveryKey(typed: string): ParsedKey {
  const digits = typed.slice(0, 1000).replace(/[\s.\-_,\u2010-\u2015]/g, "");
  const foreign = /[^0-9]/.exec(digits);
  if (foreign) return { is: "refused", why: "it holds something else than digits", wrongGroups: [] };
  if (digits.length !== groupCount * groupDigits)
    return {
      is: "refused",
      why: `it has ${digits.length} digits instead of ${groupCount * groupDigits}`,
      wrongGroups: [],
    };
  const groups = digits.match(/.{6}/g) ?? [];
  const wrongGroups = groups.flatMap((group, index) => (checkGroup(index, group) ? [] : [index + 1]));
  if (wrongGroups.length > 0)
    return {
      is: "refused",
      why: `mistyped: group ${wrongGroups.join(", ")} of ${groupCount}`,
      wrongGroups,
    };
  return { is: "key", key: keyOf(groups) };
}

/** The octets that open the recovery key's slot. */
export const recoveryPassphrase = (key: RecoveryKey): Uint8Array => new TextEncoder().encode(key.text);

/** Four lines of four groups, for a screen. */
export function recoveryKeyLines(key: RecoveryKey): readonly string[] {
  return [0, 4, 8, 12].map((at) => key.groups.slice(at, at + 4).join("-"));
}

const keyOf = (groups: readonly string[]): RecoveryKey => ({ groups, text: groups.join("-") });
