/**
 * X.509 chains (RFC 5280, section 6, the parts named here): leaf first, each signed by the next, the last one signed by an anchor or
 * an anchor itself. Checked: signatures, names, validity, CA flag, path length, the role on the leaf.
 * Left out, and refused where critical is OpenSSL's matter: name constraints, policies, revocation lists.
 */
import { X509Certificate } from "node:crypto";
import type { Anchor } from "./anchors.ts";
import { constraintsOf, isWholeCertificate } from "./der.ts";
import { type Role, roles } from "./roles.ts";

export type ChainRefusal =
  | "malformed"
  | "untrusted"
  | "expired"
  | "not-yet-valid"
  | "not-a-ca"
  | "path-too-long"
  | "role-missing";

export type VerifiedChain =
  | { readonly is: "verified"; readonly leaf: X509Certificate; readonly anchor: Anchor }
  | { readonly is: "refused"; readonly reason: ChainRefusal; readonly why: string };

const maxCertificates = 6;

/** Never throws. `at` is the time to judge validity by. */
export function verifyChain(
  chain: readonly Uint8Array[],
  anchors: readonly Anchor[],
  { role, at }: { readonly role: Role; readonly at: Date },
): VerifiedChain {
  if (chain.length === 0 || chain.length > maxCertificates)
    return refuse("malformed", `it has ${chain.length} certificates, 1 to ${maxCertificates} are taken`);
  const certificates: X509Certificate[] = [];
  for (const der of chain) {
    const certificate = parseCertificate(der);
    if (!certificate)
      return refuse("malformed", `certificate ${certificates.length + 1} is no DER certificate`);
    certificates.push(certificate);
  }
  const digests = new Set(certificates.map((certificate) => certificate.fingerprint256));
  if (digests.size !== certificates.length) return refuse("malformed", "a certificate stands in it twice");

  const leaf = certificates[0] as X509Certificate;
  // The chain ends at the first certificate that an anchor vouches for; what follows must be that anchor or nothing.
  for (const [index, certificate] of certificates.entries()) {
    if (index > 0) {
      const bad = checkIssuer(certificate, index - 1);
      if (bad) return bad;
      const below = certificates[index - 1] as X509Certificate;
      if (!issued(certificate, below))
        return refuse("malformed", `certificate ${index} is not signed by the next one`);
    }
    const late = checkTime(certificate, at);
    const isAnchor = anchors.find(
      (anchor) => anchor.certificate.fingerprint256 === certificate.fingerprint256,
    );
    if (isAnchor && index > 0) return late ?? finish(leaf, isAnchor, role, certificates.length - index - 1);
    if (late) return late;
    const anchor = anchors.find((candidate) => issued(candidate.certificate, certificate));
    if (!anchor) {
      // A self-signed leaf is trusted only where that very one is registered, and a registered one is a CA.
      continue;
    }
    const bad = checkIssuer(anchor.certificate, index) ?? checkTime(anchor.certificate, at);
    if (bad) return bad;
    const rest = certificates.slice(index + 1);
    const restIsAnchor = rest.length === 1 && rest[0]?.fingerprint256 === anchor.certificate.fingerprint256;
    return finish(leaf, anchor, role, restIsAnchor ? 0 : rest.length);
  }
  return refuse(
    "untrusted",
    `no trusted CA has signed ${JSON.stringify(nameOf(certificates.at(-1) ?? leaf))}`,
  );
}

function finish(leaf: X509Certificate, anchor: Anchor, role: Role, leftOver: number): VerifiedChain {
  if (leftOver > 0)
    return refuse("malformed", `${leftOver} certificates stand behind the one that an anchor signed`);
  if (leaf.ca) return refuse("role-missing", `the signer ${JSON.stringify(nameOf(leaf))} is a CA`);
  // keyUsage of node:crypto is the list of extended key usages.
  if (!(leaf.keyUsage ?? []).includes(roles[role]))
    return refuse("role-missing", `the signer ${JSON.stringify(nameOf(leaf))} has no ${role} role`);
  return { is: "verified", leaf, anchor };
}

/** `below`: how many certificates stand between this CA and the leaf. */
function checkIssuer(ca: X509Certificate, below: number): VerifiedChain | undefined {
  if (!ca.ca)
    return refuse("not-a-ca", `${JSON.stringify(nameOf(ca))} has signed a certificate and is no CA`);
  const constraints = constraintsOf(ca.raw);
  if (!constraints)
    return refuse("malformed", `the constraints of ${JSON.stringify(nameOf(ca))} cannot be read`);
  const { pathLength } = constraints;
  if (pathLength !== undefined && below > pathLength)
    return refuse("path-too-long", `${JSON.stringify(nameOf(ca))} allows ${pathLength} CAs below it`);
  return undefined;
}

function checkTime(certificate: X509Certificate, at: Date): VerifiedChain | undefined {
  const name = JSON.stringify(nameOf(certificate));
  const clock = `the clock says ${at.toISOString().slice(0, 16)}Z`;
  if (at < certificate.validFromDate)
    return refuse("not-yet-valid", `${name} is valid from ${certificate.validFrom} on, and ${clock}`);
  if (at > certificate.validToDate)
    return refuse("expired", `${name} was valid until ${certificate.validTo}, and ${clock}`);
  return undefined;
}

function issued(ca: X509Certificate, certificate: X509Certificate): boolean {
  try {
    return certificate.checkIssued(ca) && certificate.verify(ca.publicKey);
  } catch {
    return false; // a key that OpenSSL cannot use: it has signed nothing
  }
}

function parseCertificate(der: Uint8Array): X509Certificate | undefined {
  if (der.length > 16 * 1024 || !isWholeCertificate(der)) return undefined;
  try {
    return new X509Certificate(der);
  } catch {
    return undefined; // OpenSSL's words for it are no help to anybody
  }
}

/** The common name, or the whole subject on one line. */
export function nameOf(certificate: X509Certificate): string {
  const name =
    /^CN=(.*)$/m.exec(certificate.subject ?? "")?.[1] ?? certificate.subject?.replaceAll("\n", ", ") ?? "";
  return name.slice(0, 64);
}

const refuse = (reason: ChainRefusal, why: string): VerifiedChain => ({ is: "refused", reason, why });
