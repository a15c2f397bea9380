/**
 * The manifest of a GuestOS: what it is, its images and what it needs. CBOR (snake case keys) as payload of a COSE_Sign1 envelope.
 * `parseManifest` is form only and gives a ClaimedManifest; `verifyManifest` is cryptography and gives a Manifest, which is all that
 * anything else takes.
 */
import { createHash } from "node:crypto";
import { decodeCbor, encodeCbor } from "../bytes/cbor.ts";
import {
  bool,
  bytesOf,
  listOf,
  oneOf,
  optional,
  parse,
  record,
  type Shaped,
  text,
  uint,
  withDefault,
} from "../bytes/shape.ts";
import { GimbalError, quoted } from "../errors.ts";
import type { Anchor } from "../trust/anchors.ts";
import { type ChainRefusal, nameOf, verifyChain } from "../trust/chain.ts";
import { type ClaimedEnvelope, parseEnvelope, verifyEnvelope } from "../trust/cose.ts";

export const manifestContentType = "application/vnd.gimbal.guestos+cbor";
export const manifestMaxBytes = 256 * 1024;

const name = text({
  max: 32,
  pattern: /^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/,
  what: "is no name: small letters, digits and inner hyphens, at most 32",
});
const imageFile = text({
  max: 64,
  pattern: /^[a-z0-9][a-z0-9._-]*$/,
  what: "is no file name: small letters, digits, dot, hyphen, underscore",
});
/** Absolute, normalised: no empty, "." or ".." component, no slash at the end but for "/" itself. */
const path = text({
  max: 255,
  pattern: /^\/$|^(\/(?!\.{1,2}(\/|$))[^/\0]+)+$/,
  what: "is no absolute path in normal form",
});
const environmentEntry = text({ max: 1024, pattern: /^[A-Za-z_][A-Za-z0-9_]*=/, what: "is not NAME=value" });
const sizeMb = uint({ min: 1, max: 1024 * 1024 });

const verity = record({
  rootHash: bytesOf({ min: 32, max: 32 }),
  salt: bytesOf({ max: 32 }),
  /** Octets before the verity superblock. */
  hashOffset: uint({ min: 4096, max: 2 ** 42 }),
  dataBlocks: uint({ min: 1, max: 2 ** 30 }),
  /** PKCS#7 over the hex root hash by a key in the firmware's db: the kernel itself then checks it. */
  signature: optional(bytesOf({ min: 1, max: 8192 })),
});

const mount = record({
  imageFile,
  mountPoint: path,
  fsType: oneOf("erofs", "squashfs", "ext4", "tmpfs"),
  mountType: oneOf("SHARED", "SHARED_RW", "EMPTY"),
  /** Of the image file in octets; with its digest and hash tree only for SHARED and SHARED_RW. */
  imageSize: optional(uint({ min: 4096, max: 2 ** 42 })),
  imageSha256: optional(bytesOf({ min: 32, max: 32 })),
  verity: optional(verity),
  minSizeMb: optional(sizeMb),
  defaultSizeMb: optional(sizeMb),
  maxSizeMb: optional(sizeMb),
});

const shape = record({
  format: uint({ min: 1, max: 1 }),
  name,
  hardware: oneOf("x86-64", "arm64", "armv7"),
  version: uint({ min: 1 }),
  mounts: listOf(mount, 16),
  initPath: path,
  initParam: withDefault(listOf(text({ max: 1024 }), 64), []),
  initEnv: withDefault(listOf(environmentEntry, 64), []),
  profile: oneOf("service", "full-os"),
  notify: withDefault(bool(), false),
  setuid: withDefault(bool(), false),
  minimumMemoryMb: optional(sizeMb),
  defaultMemoryMb: optional(sizeMb),
  capabilities: withDefault(listOf(text({ max: 32, pattern: /^[A-Z_]+$/ }), 64), []),
  devices: withDefault(listOf(text({ max: 32 }), 64), []),
  description: withDefault(text({ max: 256 }), ""),
  upstreamVersion: withDefault(text({ max: 64 }), ""),
  /** Seconds since 1970. */
  buildDate: uint(),
  updateBaseUrl: withDefault(text({ max: 512 }), ""),
});

/** The fields of a manifest, whoever claims them. */
export type ManifestFields = Shaped<typeof shape>;
export type ManifestMount = ManifestFields["mounts"][number];
export type ManifestVerity = NonNullable<ManifestMount["verity"]>;
/** A mount whose content comes with the GuestOS: it has size, digest and hash tree. */
export type ImageMount = ManifestMount & {
  readonly imageSize: number;
  readonly imageSha256: Uint8Array;
  readonly verity: ManifestVerity;
};

/** Well formed, and no more than a claim. */
export type ClaimedManifest = {
  readonly fields: ManifestFields;
  readonly envelope: ClaimedEnvelope;
  /** SHA-256 of the whole envelope. */
  readonly digest: Uint8Array;
};

declare const verified: unique symbol;
/** Signed by somebody who may: only `verifyManifest` makes one. */
export type Manifest = ManifestFields & {
  readonly [verified]: true;
  readonly digest: Uint8Array;
  readonly signer: string;
  readonly trustLevel: "SIGNED" | "LOCALLY_SIGNED";
};

/** @throws {GimbalError} "manifest-malformed" */
export function parseManifest(bytes: Uint8Array): ClaimedManifest {
  const parsed = parseEnvelope(bytes);
  if (parsed.is === "refused") throw malformed(parsed.why);
  const { envelope } = parsed;
  if (envelope.contentType !== manifestContentType) throw malformed(`it is ${quoted(envelope.contentType)}`);
  const decoded = decodeCbor(envelope.payload, { maxBytes: manifestMaxBytes, maxDepth: 6, maxItems: 4096 });
  if (decoded.is === "refused") throw malformed(`its content is no deterministic CBOR: ${decoded.reason}`);
  const fields = parse(shape, decoded.value);
  if (fields.is === "refused") throw malformed(`its field ${fields.path || "list"} ${fields.why}`);
  const why = inconsistency(fields.value);
  if (why) throw malformed(why);
  return { fields: fields.value, envelope, digest: createHash("sha256").update(bytes).digest() };
}

/** The payload for `signEnvelope`. Throws GimbalError "manifest-malformed" where `parseManifest` would refuse it. */
export function encodeManifest(value: unknown): Uint8Array {
  const fields = parse(shape, value);
  if (fields.is === "refused") throw malformed(`its field ${fields.path || "list"} ${fields.why}`);
  const why = inconsistency(fields.value);
  if (why) throw malformed(why);
  return encodeCbor(shape.toCbor(fields.value));
}

/** What no single field shows. */
function inconsistency({ mounts }: ManifestFields): string | undefined {
  const roots = mounts.filter((entry) => entry.mountPoint === "/");
  if (roots.length !== 1 || mounts[0] !== roots[0]) return "its first mount, and only that, must be on /";
  if (roots[0] && !hasImage(roots[0]))
    return "its root is no SHARED or SHARED_RW image with size, digest and verity";
  const points = new Set(mounts.map((entry) => entry.mountPoint));
  if (points.size !== mounts.length) return "two mounts have one mount point";
  const files = mounts.map((entry) => entry.imageFile);
  if (new Set(files).size !== files.length) return "two mounts have one image file";
  for (const entry of mounts) {
    const isImage = entry.mountType !== "EMPTY";
    if (isImage && !hasImage(entry)) return `the image ${entry.imageFile} lacks size, digest or verity`;
    if (!isImage && (entry.imageSize ?? entry.imageSha256 ?? entry.verity) !== undefined)
      return `the volume ${entry.imageFile} has an image's fields`;
    if (!entry.verity) continue;
    const { hashOffset, dataBlocks } = entry.verity;
    if (hashOffset !== dataBlocks * 4096)
      return `the hash tree of ${entry.imageFile} does not follow its data`;
    if (hashOffset >= (entry.imageSize ?? 0))
      return `the image ${entry.imageFile} has no room for its hash tree`;
  }
  return undefined;
}

export function hasImage(entry: ManifestMount): entry is ImageMount {
  return (
    entry.mountType !== "EMPTY" &&
    entry.imageSize !== undefined &&
    entry.imageSha256 !== undefined &&
    entry.verity !== undefined
  );
}

const codes: Record<
  ChainRefusal,
  "guestos-untrusted" | "guestos-expired" | "guestos-role" | "guestos-chain"
> = {
  malformed: "guestos-chain",
  untrusted: "guestos-untrusted",
  expired: "guestos-expired",
  "not-yet-valid": "guestos-expired",
  "not-a-ca": "guestos-chain",
  "path-too-long": "guestos-chain",
  "role-missing": "guestos-role",
};

const remedies: Record<(typeof codes)[ChainRefusal] | "guestos-signature" | "guestos-hardware", string> = {
  "guestos-untrusted": "register its CA with `control ca_register`, or get it signed by a trusted one",
  "guestos-expired": "set the clock, or have it signed with a certificate that is valid now",
  "guestos-role": "have it signed by a certificate with the GuestOS signing role",
  "guestos-chain": "have it signed with a complete certificate chain",
  "guestos-signature": "it was altered after signing: get it again",
  "guestos-hardware": "get the build for this machine",
};

/**
 * Signature, chain, role and hardware, in this order.
 * @param at the time that certificates must be valid at: of the installation, so that a certificate's last day ends no running device
 * @throws {GimbalError} "guestos-untrusted", "-expired", "-role", "-chain", "-signature", "-hardware"
 */
export function verifyManifest(
  { fields, envelope, digest }: ClaimedManifest,
  anchors: readonly Anchor[],
  { at, hardware }: { readonly at: Date; readonly hardware: string },
): Manifest {
  const refuse = (code: keyof typeof remedies, why: string) =>
    new GimbalError(code, {
      tried: "trust",
      on: `the GuestOS ${fields.name}-${fields.version}`,
      why,
      todo: remedies[code],
    });
  const chain = verifyChain(envelope.chain, anchors, { role: "guestosSigning", at });
  if (chain.is === "refused") throw refuse(codes[chain.reason], chain.why);
  if (!verifyEnvelope(envelope, chain.leaf)) {
    throw refuse("guestos-signature", `its signature is not that of ${quoted(nameOf(chain.leaf))}`);
  }
  if (fields.hardware !== hardware) {
    throw refuse("guestos-hardware", `it is for ${fields.hardware}, this machine is ${hardware}`);
  }
  const manifest = {
    ...fields,
    digest,
    signer: nameOf(chain.leaf),
    trustLevel: chain.anchor.origin === "platform" ? "SIGNED" : "LOCALLY_SIGNED",
  } as const;
  return manifest as typeof manifest & { readonly [verified]: true };
}

function malformed(why: string): GimbalError {
  return new GimbalError("manifest-malformed", {
    tried: "read",
    on: "the manifest of a GuestOS",
    why,
    todo: "build it again with `gimbal guestos build`",
  });
}
