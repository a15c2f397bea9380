/**
 * The manifest of a GuestOS: what it is, its images and what it needs, as payload of a COSE_Sign1 envelope. `parseManifest` is form
 * only and gives a ClaimedManifest; `verifyManifest` is cryptography and gives a Manifest, which is all that anything else takes.
 */
import { createHash } from "node:crypto";
import { GimbalError, quoted } from "../errors.ts";
import type { Anchor } from "../trust/anchors.ts";
import { type ChainRefusal, nameOf, verifyChain } from "../trust/chain.ts";
import { type ClaimedEnvelope, parseEnvelope, verifyEnvelope } from "../trust/cose.ts";
import { decodeManifest, type ManifestFields, malformed, manifestContentType } from "./manifest-format.ts";

declare const claimed: unique symbol;
/** Well formed, and no more than a claim. Only `parseManifest` makes one, so fields and envelope belong together. */
export type ClaimedManifest = {
  readonly [claimed]: true;
  readonly fields: ManifestFields;
  readonly envelope: ClaimedEnvelope;
  /** SHA-256 of the whole envelope. */
  readonly digest: Uint8Array;
};

/** SIGNED: under a CA of the image. LOCALLY_SIGNED: under one that the owner registered. */
export type TrustLevel = "SIGNED" | "LOCALLY_SIGNED";

declare const verified: unique symbol;
/** Signed by somebody who may: only `verifyManifest` makes one. */
export type Manifest = ManifestFields & {
  readonly [verified]: true;
  readonly digest: Uint8Array;
  /** Name in the signer's certificate, escaped and cut. */
  readonly signer: string;
  readonly trustLevel: TrustLevel;
};

/** @throws {GimbalError} "manifest-malformed" */
export function parseManifest(bytes: Uint8Array): ClaimedManifest {
  const parsed = parseEnvelope(bytes);
  if (parsed.is === "refused") throw malformed(parsed.why);
  const { envelope } = parsed;
  if (envelope.contentType !== manifestContentType)
    throw malformed(`its content is ${quoted(envelope.contentType)}, not ${manifestContentType}`);
  const fields = decodeManifest(envelope.payload);
  const manifest = { fields, envelope, digest: createHash("sha256").update(bytes).digest() };
  return manifest as typeof manifest & { readonly [claimed]: true };
}

type Refusal =
  | "guestos-chain"
  | "guestos-expired"
  | "guestos-hardware"
  | "guestos-role"
  | "guestos-signature"
  | "guestos-untrusted";

const codes: Record<ChainRefusal, Refusal> = {
  malformed: "guestos-chain",
  untrusted: "guestos-untrusted",
  expired: "guestos-expired",
  "not-yet-valid": "guestos-expired",
  "not-a-ca": "guestos-chain",
  "path-too-long": "guestos-chain",
  "role-missing": "guestos-role",
  weak: "guestos-chain",
};

const remedies: Record<Refusal, string> = {
  "guestos-untrusted": "register its CA with `control ca_register`, or get it signed by a trusted one",
  "guestos-expired": "set the clock, or have it signed with a certificate that is valid now",
  "guestos-role": "have it signed by a certificate with the GuestOS signing role",
  "guestos-chain": "have it signed with a certificate chain that docs/guests.md allows",
  "guestos-signature": "it was altered after signing: get it again",
  "guestos-hardware": "get the build for this machine",
};

/** Manages the device, so its name is not for whoever has registered a CA. */
const coreName = "c0";

/**
 * Chain, role, signature and hardware, in this order.
 * @param at the time that certificates must be valid at: of the installation, so that a certificate's last day ends no running device
 * @throws {GimbalError} "guestos-untrusted", "-expired", "-role", "-chain", "-signature", "-hardware"
 */
export function verifyManifest(
  { fields, envelope, digest }: ClaimedManifest,
  anchors: readonly Anchor[],
  { at, hardware }: { readonly at: Date; readonly hardware: string },
): Manifest {
  const refuse = (code: Refusal, why: string, todo = remedies[code]) =>
    new GimbalError(code, { tried: "trust", on: `the GuestOS ${fields.name}-${fields.version}`, why, todo });
  const chain = verifyChain(envelope.chain, anchors, { role: "guestosSigning", at });
  if (chain.is === "refused") throw refuse(codes[chain.reason], chain.why);
  if (!verifyEnvelope(envelope, chain.leaf))
    throw refuse("guestos-signature", `its signature is not that of "${nameOf(chain.leaf)}"`);
  if (fields.name === coreName && chain.anchor.origin !== "platform") {
    const why = "the core container must be signed under the platform's CA, not a registered one";
    throw refuse("guestos-untrusted", why, "give it another name, or have the platform's owner sign it");
  }
  if (fields.hardware !== hardware)
    throw refuse("guestos-hardware", `it is for ${fields.hardware}, this machine is ${hardware}`);
  const manifest = {
    ...fields,
    digest,
    signer: nameOf(chain.leaf),
    trustLevel: chain.anchor.origin === "platform" ? "SIGNED" : "LOCALLY_SIGNED",
  } as const;
  return manifest as typeof manifest & { readonly [verified]: true };
}
