/** The policy of a sealed disk key, brought to pass in a session: DESIGN section 5, in this order. */
import type { KeyObject } from "node:crypto";
import { loadExternal, policyAuthorize, policyPcr, verifySignature } from "./commands.ts";
import { hashOf, sameOctets } from "./crypto.ts";
import { ecdsaFromDer } from "./ecdsa.ts";
import { execute, flushQuietly } from "./execute.ts";
import { boundDifferences, fits, releaseDifferences } from "./explain.ts";
import { fingerprintOf, releaseKeyArea } from "./keys.ts";
import { readPcrs } from "./pcr.ts";
import { pcrDigestOf } from "./policy-digest.ts";
import { rc, refusedWith } from "./response-code.ts";
import { refused } from "./sealing-error.ts";
import { type Entity, nameOf, type Session } from "./session.ts";
import { policyRef, type SignedPolicy } from "./signed-policy.ts";
import { type PublicArea, permanentHandles, selectPcrs } from "./structures.ts";
import type { Transport } from "./transport.ts";

/** The one bank that policies name. */
export const bank = "sha256";
const none = new Uint8Array();

/** The signed policy that fits the PCRs as they are; without one, the error that says what is off. */
export async function choosePolicy(
  tpm: Transport,
  sealed: { readonly releaseKey: KeyObject; readonly bound: ReadonlyMap<number, Uint8Array> },
  signedPolicies: readonly SignedPolicy[],
): Promise<SignedPolicy> {
  const fingerprint = fingerprintOf(sealed.releaseKey);
  const candidates = signedPolicies.filter((policy) => sameOctets(policy.keyFingerprint, fingerprint));
  if (candidates.length === 0) {
    const why =
      signedPolicies.length === 0
        ? "the release that booted brings no signed policy"
        : "the release that booted brings no policy signed by the release key that this disk belongs to";
    throw refused(why);
  }
  const pcrs = new Set([...sealed.bound.keys(), ...candidates.flatMap((policy) => policy.pcrs)]);
  const current = await readPcrs(tpm, bank, [...pcrs]);
  const chosen = candidates.find((policy) => fits(policy, current));
  const differences = [
    ...boundDifferences(sealed.bound, current),
    ...(chosen ? [] : releaseDifferences(candidates, current)),
  ];
  if (!chosen || differences.length > 0) throw refused(differences.join("; "));
  return chosen;
}

/** Brings a policy session to what the release key signed, and has the TPM accept it. */
export async function satisfyRelease(
  tpm: Transport,
  session: Session,
  releaseKey: KeyObject,
  policy: SignedPolicy,
): Promise<void> {
  await execute(tpm, policyPcr, { session }, { pcrDigest: none, pcrs: [selectPcrs(bank, policy.pcrs)] });
  // The rollback floor (PolicyNV) belongs here, before PolicyAuthorize takes what the session has gathered.
  const area = releaseKeyArea(releaseKey);
  const numbers = ecdsaFromDer(policy.signature);
  if (!numbers) throw refused("the release's policy has a malformed signature");
  // The owner hierarchy, as PolicyAuthorize takes no ticket of the null hierarchy.
  const { handle } = await execute(
    tpm,
    loadExternal,
    {},
    { private: none, public: area, hierarchy: permanentHandles.owner },
  );
  await using key = transient(tpm, handle, area);
  const verified = await execute(
    tpm,
    verifySignature,
    { key },
    {
      digest: hashOf("sha256", policy.policyDigest, policyRef),
      signature: { is: "ecdsa", hash: "sha256", ...numbers },
    },
  ).catch((error: unknown) => {
    if (!refusedWith(error, rc.signature)) throw error;
    throw refused("the policy that the release brings is not signed by the release key", error);
  });
  await execute(
    tpm,
    policyAuthorize,
    { session },
    {
      approvedPolicy: policy.policyDigest,
      policyRef,
      keyName: key.name,
      ticket: verified.response.ticket,
    },
  ).catch((error: unknown) => {
    if (!refusedWith(error, rc.value)) throw error;
    throw refused("the PCRs are not what the release key signed", error);
  });
}

/** PolicyPCR over what was bound at sealing. */
export async function satisfyPcrs(
  tpm: Transport,
  session: Session,
  values: ReadonlyMap<number, Uint8Array>,
): Promise<void> {
  const pcrs = [selectPcrs(bank, [...values.keys()])];
  await execute(tpm, policyPcr, { session }, { pcrDigest: pcrDigestOf(values), pcrs }).catch(
    (error: unknown) => {
      if (!refusedWith(error, rc.value)) throw error;
      throw refused("the PCRs differ from what they were when the disk was sealed", error);
    },
  );
}

/** A loaded object that is flushed when disposed of. */
export function transient(tpm: Transport, handle: number, area: PublicArea): Entity & AsyncDisposable {
  return { handle, name: nameOf(area), [Symbol.asyncDispose]: () => flushQuietly(tpm, handle) };
}
