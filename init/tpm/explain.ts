/** Why a policy does not fit the PCRs as they are, in words. It only explains: the TPM decides. */
import { hashOf, sameOctets } from "./crypto.ts";
import { extended } from "./pcr.ts";
import { afterPolicyPcr, emptyPolicy } from "./policy-digest.ts";
import type { SignedPolicy } from "./signed-policy.ts";

type Values = ReadonlyMap<number, Uint8Array>;

const zero = new Uint8Array(32);
const isZero = (value: Uint8Array | undefined) => value !== undefined && sameOctets(value, zero);

/** True where PolicyPCR of these values is what was signed. */
export function fits(policy: SignedPolicy, current: Values): boolean {
  return sameOctets(digestWith(policy, current, []), policy.policyDigest);
}

/** The policy's digest for the PCRs as they are, with some of them taken for zero. */
function digestWith(policy: SignedPolicy, current: Values, zeroed: readonly number[]): Uint8Array {
  const values = new Map(
    policy.pcrs.map((pcr) => [pcr, zeroed.includes(pcr) ? zero : (current.get(pcr) ?? zero)]),
  );
  return afterPolicyPcr(emptyPolicy, policy.bank, values);
}

/** PCRs that were bound at sealing and now differ. */
export function boundDifferences(bound: Values, current: Values): readonly string[] {
  return [...bound]
    .filter(([pcr, value]) => !sameOctets(value, current.get(pcr) ?? zero))
    .map(([pcr]) =>
      pcr === 7
        ? "PCR 7 differs (Secure Boot keys or state)"
        : `PCR ${pcr} differs from what it was when the disk was sealed`,
    );
}

const added = {
  12: "PCR 12 is not zero: something outside the signed image was added (SMBIOS string, credential)",
  13: "PCR 13 is not zero: something was measured before the guests (unsigned system extension)",
} as const;

/** Which PCRs keep each of a release's policies from fitting. Call it only where none fits. */
export function releaseDifferences(policies: readonly SignedPolicy[], current: Values): readonly string[] {
  const sentences = ([12, 13] as const)
    .filter((pcr) => policies.some((policy) => policy.pcrs.includes(pcr)) && !isZero(current.get(pcr)))
    .map((pcr) => added[pcr]);
  const onlyAdded = policies.some((policy) =>
    sameOctets(digestWith(policy, current, [12, 13]), policy.policyDigest),
  );
  return onlyAdded ? sentences : [...sentences, imageDifference(policies, current)];
}

/** PCR 11 after one of the words that init itself extends (measure/phases.ts). */
function afterPhase(value: Uint8Array, phase: "enter-initrd" | "leave-initrd"): Uint8Array {
  return extended("sha256", value, hashOf("sha256", new TextEncoder().encode(phase)));
}

function imageDifference(policies: readonly SignedPolicy[], current: Values): string {
  const now = current.get(11) ?? zero;
  const is = (value: Uint8Array) => sameOctets(now, value);
  if (is(zero) || is(afterPhase(zero, "enter-initrd")))
    return "PCR 11 holds no image: no boot stub measured one (a kernel started without its signed image)";
  const signed = policies.flatMap((policy) => policy.values?.get(11) ?? []);
  return signed.some((value) => is(afterPhase(value, "leave-initrd")))
    ? 'PCR 11 says "leave-initrd": the disk opens only early in a boot'
    : "PCR 11 differs: the image that was booted is not the one whose policy the release key signed";
}
