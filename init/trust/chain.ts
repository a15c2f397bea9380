/**
 * X.509 chains (RFC 5280, section 6; the parts named here): leaf first, each signed by the next, one of them signed by an anchor
 * or an anchor itself. Checked: DER as sent, signatures and their algorithms, names, validity, CA flag, key usages, path length,
 * the role on the leaf and on CAs that limit theirs, unknown critical extensions.
 * Left out: revocation lists, policies; a CA with name constraints is refused. What stands behind the anchored certificate must be
 * in order as well, but decides nothing, so that a cross-signed CA may be sent along.
 */
import type { X509Certificate } from "node:crypto";
import type { Anchor } from "./anchors.ts";
import {
  type Certificate,
  commonName,
  digitalSignature,
  keyCertSign,
  oids,
  parseCertificate,
} from "./certificate.ts";
import { type Role, roleNames, roles } from "./roles.ts";

export type ChainRefusal =
  | "malformed"
  | "untrusted"
  | "expired"
  | "not-yet-valid"
  | "not-a-ca"
  | "path-too-long"
  | "role-missing"
  | "weak";

export type VerifiedChain =
  | { readonly is: "verified"; readonly leaf: X509Certificate; readonly anchor: Anchor }
  | { readonly is: "refused"; readonly reason: ChainRefusal; readonly why: string };
type Refused = Extract<VerifiedChain, { is: "refused" }>;

const maxCertificates = 6;

/** ecdsa-with-SHA256, -384, -512; sha256, 384, 512WithRSAEncryption; Ed25519 (RFC 5758, 4055, 8410). */
const signatureAlgorithms = new Set([
  "1.2.840.10045.4.3.2",
  "1.2.840.10045.4.3.3",
  "1.2.840.10045.4.3.4",
  "1.2.840.113549.1.1.11",
  "1.2.840.113549.1.1.12",
  "1.2.840.113549.1.1.13",
  "1.3.101.112",
]);
const curves = new Set(["prime256v1", "secp384r1", "secp521r1"]);
const minRsaBits = 2048;
/** Critical extensions that are looked at here, or bind nothing that is used here. */
const understood = new Set<string>([
  oids.basicConstraints,
  oids.keyUsage,
  oids.extendedKeyUsage,
  oids.subjectAltName,
]);

type Purpose = {
  readonly role: Role;
  /** The time to judge validity by. */
  readonly at: Date;
};

/** Never throws. */
export function verifyChain(
  chain: readonly Uint8Array[],
  anchors: readonly Anchor[],
  purpose: Purpose,
): VerifiedChain {
  const parsed = parseChain(chain);
  if ("is" in parsed) return parsed;
  let first: Refused | undefined;
  for (const [index, certificate] of parsed.entries()) {
    const { fingerprint256 } = certificate.x509;
    for (const anchor of anchors) {
      const isItself = index > 0 && anchor.certificate.fingerprint256 === fingerprint256;
      if (!isItself && !issued(anchor.certificate, certificate.x509)) continue;
      const path = parsed.slice(0, isItself ? index : index + 1);
      const verdict = checkPath(path, anchor, purpose);
      if (verdict.is === "verified") return verdict;
      first ??= verdict; // another anchor of the same name and key may be valid longer
    }
  }
  return first ?? refuse("untrusted", `no trusted CA has signed ${parsed.at(-1)?.name ?? "it"}`);
}

/** Certificates that are well formed, each once, each signed by the next. */
function parseChain(chain: readonly Uint8Array[]): readonly Certificate[] | Refused {
  if (chain.length === 0 || chain.length > maxCertificates)
    return refuse("malformed", `it has ${chain.length} certificates, 1 to ${maxCertificates} are taken`);
  const certificates: Certificate[] = [];
  for (const [index, der] of chain.entries()) {
    const parsed = parseCertificate(der);
    if (parsed.is === "refused")
      return refuse("malformed", `certificate ${index + 1} of ${chain.length} ${parsed.why}`);
    certificates.push(parsed.certificate);
  }
  if (new Set(certificates.map(({ x509 }) => x509.fingerprint256)).size !== certificates.length)
    return refuse("malformed", "a certificate stands in it twice");
  for (const [index, { x509, name }] of certificates.entries()) {
    const next = certificates[index + 1];
    if (!next) break;
    if (!next.isCa) return refuse("not-a-ca", `${next.name}, which stands above ${name}, is no CA`);
    if (!issued(next.x509, x509))
      return refuse("malformed", `${name} is not signed by the next certificate, ${next.name}`);
  }
  return certificates;
}

/** `path`: the leaf and the CAs that lead to `anchor`, which is not in it. */
function checkPath(path: readonly Certificate[], anchor: Anchor, { role, at }: Purpose): VerifiedChain {
  const [leaf] = path;
  const top = parseCertificate(anchor.certificate.raw);
  if (!leaf || top.is === "refused") return refuse("malformed", "the trusted CA cannot be read");
  for (const [below, certificate] of [...path, top.certificate].entries()) {
    const bad =
      checkTime(certificate, at, certificate === top.certificate) ??
      checkStrength(certificate) ??
      checkExtensions(certificate) ??
      (below === 0 ? checkLeaf(leaf, role) : checkCa(certificate, below - 1, role));
    if (bad) return bad;
  }
  return { is: "verified", leaf: leaf.x509, anchor };
}

/** A trusted CA that was issued anew must not end what was installed before, so it has no first day. */
function checkTime({ x509, name }: Certificate, at: Date, isAnchor: boolean): Refused | undefined {
  const clock = `the clock says ${at.toISOString().slice(0, 16)}Z`;
  // Written so that a date that is none is refused.
  if (!isAnchor && !(at >= x509.validFromDate))
    return refuse("not-yet-valid", `${name} is valid from ${x509.validFrom} on, and ${clock}`);
  if (!(at <= x509.validToDate))
    return refuse("expired", `${name} was valid until ${x509.validTo}, and ${clock}`);
  return undefined;
}

function checkStrength({ x509, name, signatureAlgorithm }: Certificate): Refused | undefined {
  if (!signatureAlgorithms.has(signatureAlgorithm))
    return refuse("weak", `${name} is signed with an algorithm that is not taken (${signatureAlgorithm})`);
  try {
    const { asymmetricKeyType: type, asymmetricKeyDetails: details } = x509.publicKey;
    const isStrong =
      type === "ed25519" ||
      (type === "ec" && curves.has(details?.namedCurve ?? "")) ||
      (type === "rsa" && (details?.modulusLength ?? 0) >= minRsaBits);
    return isStrong ? undefined : refuse("weak", `${name} has a key of a kind or size that is not taken`);
  } catch {
    return refuse("weak", `${name} has a key that cannot be used`);
  }
}

function checkExtensions({ name, extensions }: Certificate): Refused | undefined {
  if (extensions.has(oids.nameConstraints))
    return refuse("malformed", `${name} has name constraints, which are not understood here`);
  for (const [oid, { critical }] of extensions) {
    if (critical && !understood.has(oid))
      return refuse("malformed", `${name} has a critical extension that is not understood here (${oid})`);
  }
  return undefined;
}

function checkLeaf({ name, isCa, keyUsage, roles: own }: Certificate, role: Role): Refused | undefined {
  if (isCa) return refuse("role-missing", `the signer ${name} is a CA`);
  if (keyUsage !== undefined && (keyUsage & digitalSignature) === 0)
    return refuse("role-missing", `the key usage of the signer ${name} has no digitalSignature`);
  if (!own?.includes(roles[role]))
    return refuse("role-missing", `the signer ${name} has no ${roleNames[role]} role`);
  return undefined;
}

/** `below`: how many CAs stand between this one and the leaf. */
function checkCa(certificate: Certificate, below: number, role: Role): Refused | undefined {
  const { name, isCa, pathLength, keyUsage, roles: own } = certificate;
  if (!isCa) return refuse("not-a-ca", `${name} has signed a certificate and is no CA`);
  if (keyUsage !== undefined && (keyUsage & keyCertSign) === 0)
    return refuse("not-a-ca", `the key usage of ${name} has no keyCertSign`);
  if (pathLength !== undefined && below > pathLength)
    return refuse("path-too-long", `${name} allows ${pathLength} CAs below it, and there are ${below}`);
  if (own && !own.includes(roles[role]))
    return refuse("role-missing", `the CA ${name} is not for the ${roleNames[role]} role`);
  return undefined;
}

function issued(ca: X509Certificate, certificate: X509Certificate): boolean {
  try {
    return certificate.checkIssued(ca) && certificate.verify(ca.publicKey);
  } catch {
    return false; // a key that OpenSSL cannot use: it has signed nothing
  }
}

/** The common name, or the whole subject on one line: escaped and cut, as it may stand on a screen. */
export const nameOf = (certificate: X509Certificate): string => commonName(certificate);

const refuse = (reason: ChainRefusal, why: string): Refused => ({ is: "refused", reason, why });
