/**
 * COSE_Sign1 (RFC 9052, 4.2) with an X.509 chain in the protected header (RFC 9360, x5chain), deterministic CBOR throughout.
 * Algorithms: ES256 on P-256, ES384 on P-384. Left out: unprotected headers, external data, detached payloads, other algorithms.
 */
import { createPrivateKey, type KeyObject, sign, verify, type X509Certificate } from "node:crypto";
import { type CborValue, decodeCbor, encodeCbor } from "../bytes/cbor.ts";

/** COSE header labels and algorithm numbers (IANA COSE registry). */
const headerAlgorithm = 1;
const headerContentType = 3;
const headerX5chain = 33;
const algorithms = {
  [-7]: { name: "ES256", curve: "prime256v1", hash: "sha256" },
  [-35]: { name: "ES384", curve: "secp384r1", hash: "sha384" },
} as const;
type AlgorithmNumber = keyof typeof algorithms;

/** What an envelope says; nothing of it is verified. */
export type ClaimedEnvelope = {
  readonly chain: readonly Uint8Array[];
  readonly contentType: string;
  readonly payload: Uint8Array;
  readonly algorithm: AlgorithmNumber;
  readonly protectedHeader: Uint8Array;
  readonly signature: Uint8Array;
};

export type ParsedEnvelope =
  | { readonly is: "envelope"; readonly envelope: ClaimedEnvelope }
  | { readonly is: "refused"; readonly why: string };

const maxEnvelopeBytes = 256 * 1024;
/** What is read; how many may lead to an anchor is chain.ts's matter. */
const maxChain = 32;

/** Parses the four parts of an envelope. Never throws. */
export function parseEnvelope(bytes: Uint8Array): ParsedEnvelope {
  const outer = decodeCbor(bytes, { maxBytes: maxEnvelopeBytes, maxDepth: 2 });
  if (outer.is === "refused")
    return refuse(`it is no deterministic CBOR: ${outer.reason} at octet ${outer.offset}`);
  if (!Array.isArray(outer.value) || outer.value.length !== 4) return refuse("it is no list of four parts");
  const [protectedHeader, unprotected, payload, signature] = outer.value as readonly CborValue[];
  if (
    !(protectedHeader instanceof Uint8Array) ||
    !(payload instanceof Uint8Array) ||
    !(signature instanceof Uint8Array)
  )
    return refuse("a part is no octet string");
  if (!(unprotected instanceof Map) || unprotected.size > 0) return refuse("it has unprotected headers");
  const header = decodeCbor(protectedHeader, { maxBytes: maxEnvelopeBytes, maxDepth: 2, maxItems: 64 });
  if (header.is === "refused" || !(header.value instanceof Map))
    return refuse("its protected header is no map");
  const fields = header.value as ReadonlyMap<string | number, CborValue>;
  const algorithm = fields.get(headerAlgorithm);
  const contentType = fields.get(headerContentType);
  const chain = chainOf(fields.get(headerX5chain));
  if (fields.size !== 3 || typeof contentType !== "string" || !fields.has(headerX5chain))
    return refuse(
      "its protected header must hold algorithm, content type and certificate chain, and no more",
    );
  if (!chain)
    return refuse(`its certificate chain is no list of 2 to ${maxChain} octet strings, nor a single one`);
  if (algorithm !== -7 && algorithm !== -35) return refuse("its algorithm is neither ES256 nor ES384");
  return { is: "envelope", envelope: { chain, contentType, payload, algorithm, protectedHeader, signature } };
}

/** RFC 9360: one certificate is an octet string, more are a list. */
function chainOf(value: CborValue | undefined): readonly Uint8Array[] | undefined {
  if (value instanceof Uint8Array) return [value];
  if (!Array.isArray(value) || value.length < 2 || value.length > maxChain) return undefined;
  return value.every((entry) => entry instanceof Uint8Array) ? (value as readonly Uint8Array[]) : undefined;
}

/** True where the leaf's key signed this envelope. The chain is somebody else's matter (chain.ts). Never throws. */
export function verifyEnvelope(envelope: ClaimedEnvelope, leaf: X509Certificate): boolean {
  const { curve, hash } = algorithms[envelope.algorithm];
  const { protectedHeader, payload, signature } = envelope;
  try {
    const key = leaf.publicKey;
    if (key.asymmetricKeyType !== "ec" || key.asymmetricKeyDetails?.namedCurve !== curve) return false;
    return verify(hash, toBeSigned(protectedHeader, payload), { key, dsaEncoding: "ieee-p1363" }, signature);
  } catch {
    return false; // a key that OpenSSL cannot use: it has signed nothing
  }
}

/** Signs; the algorithm follows from the key's curve. Throws TypeError on another key. */
export function signEnvelope(
  payload: Uint8Array,
  contentType: string,
  chain: readonly Uint8Array[],
  privateKey: KeyObject | string,
): Uint8Array {
  const key = typeof privateKey === "string" ? createPrivateKey(privateKey) : privateKey;
  const curve = key.asymmetricKeyDetails?.namedCurve;
  const algorithm: AlgorithmNumber | undefined =
    curve === "prime256v1" ? -7 : curve === "secp384r1" ? -35 : undefined;
  const [leaf] = chain;
  if (algorithm === undefined || !leaf)
    throw new TypeError("a P-256 or P-384 key and its certificate are needed");
  const protectedHeader = encodeCbor(
    new Map<number, CborValue>([
      [headerAlgorithm, algorithm],
      [headerContentType, contentType],
      [headerX5chain, chain.length === 1 ? leaf : chain],
    ]),
  );
  const signature = sign(algorithms[algorithm].hash, toBeSigned(protectedHeader, payload), {
    key,
    dsaEncoding: "ieee-p1363",
  });
  return encodeCbor([protectedHeader, new Map(), payload, signature]);
}

/** Sig_structure, RFC 9052, 4.4. */
const toBeSigned = (protectedHeader: Uint8Array, payload: Uint8Array): Uint8Array =>
  encodeCbor(["Signature1", protectedHeader, new Uint8Array(), payload]);

const refuse = (why: string): ParsedEnvelope => ({ is: "refused", why });
