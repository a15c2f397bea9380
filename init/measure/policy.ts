/** The build host's half of sealing: what a release key signs so that devices open their disks under a new UKI. */
import { createPrivateKey, type KeyObject, sign } from "node:crypto";
import { GimbalError } from "../errors.ts";
import { joined } from "../tpm/crypto.ts";
import { fingerprintOf, publicKeyOf, releaseKeyArea } from "../tpm/keys.ts";
import { afterPolicyPcr, emptyPolicy } from "../tpm/policy-digest.ts";
import { policyRef } from "../tpm/signed-policy.ts";

/** The PCRs of a release's policy: the image, what was added to it from outside, what was started. */
function releaseValues(pcr11: Uint8Array): ReadonlyMap<number, Uint8Array> {
  return new Map([
    [11, pcr11],
    [12, new Uint8Array(32)],
    [13, new Uint8Array(32)],
  ]);
}

/** The policy digest that a release with this PCR 11 signs: PolicyPCR(11 as given, 12 and 13 zero). */
export function releasePolicyDigest(pcr11: Uint8Array): Uint8Array {
  return afterPolicyPcr(emptyPolicy, "sha256", releaseValues(pcr11));
}

/**
 * Signs PolicyPCR(11 as given, 12 and 13 zero), ref "gimbal-boot". Throws "bad-argument" for any key but P-256.
 * @param privateKey PEM (PKCS#8 or SEC 1) or KeyObject
 * @param pcr11 from `predictPcr11(uki, ["enter-initrd"])`; the section .pcrsig itself is not measured
 * @returns the JSON for section .pcrsig, `parseSignedPolicies` reads it
 */
export function signPcrPolicy(privateKey: string | KeyObject, pcr11: Uint8Array): string {
  const key = privateKeyOf(privateKey);
  const publicKey = publicKeyOf(key);
  releaseKeyArea(publicKey); // refuses another curve
  const policyDigest = releasePolicyDigest(pcr11);
  const hex = (octets: Uint8Array) => Buffer.from(octets).toString("hex");
  const values = releaseValues(pcr11);
  const policy = {
    pcrs: [...values.keys()],
    pkfp: hex(fingerprintOf(publicKey)),
    pol: hex(policyDigest),
    sig: sign("sha256", joined(policyDigest, policyRef), key).toString("base64"),
    values: Object.fromEntries([...values].map(([pcr, value]) => [pcr, hex(value)])),
  };
  return JSON.stringify({ sha256: [policy] });
}

function privateKeyOf(key: string | KeyObject): KeyObject {
  try {
    return typeof key === "string" ? createPrivateKey(key) : key;
  } catch (cause) {
    throw new GimbalError(
      "bad-argument",
      { tried: "read", on: "the release key", why: "it is no private key in PEM" },
      cause,
    );
  }
}
