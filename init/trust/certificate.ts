/**
 * What a certificate says about itself (RFC 5280, 4.1 and 4.2) and node:crypto does not tell: algorithm, critical extensions,
 * key usage, path length, extended key usages. Read from the octets as sent; nothing is encoded anew. Nothing here throws.
 */
import { X509Certificate } from "node:crypto";
import { quoted } from "../errors.ts";
import { type DerElement, dottedOid, elementAt, elementsIn, isStrictDer, tags } from "./der.ts";

export type Certificate = {
  readonly x509: X509Certificate;
  /** For sentences: the common name or the subject, quoted. */
  readonly name: string;
  /** OID of the algorithm that its issuer signed with. */
  readonly signatureAlgorithm: string;
  readonly isCa: boolean;
  readonly pathLength: number | undefined;
  /** keyUsage's bits, digitalSignature = 0x80, keyCertSign = 0x04; undefined where it has no such extension. */
  readonly keyUsage: number | undefined;
  /** OIDs; undefined where it has no such extension. */
  readonly roles: readonly string[] | undefined;
  readonly extensions: ReadonlyMap<string, { readonly critical: boolean }>;
};

export type ParsedCertificate =
  | { readonly is: "certificate"; readonly certificate: Certificate }
  | { readonly is: "refused"; readonly why: string };

export const digitalSignature = 0x80;
export const keyCertSign = 0x04;
const maxBytes = 16 * 1024;
export const oids = {
  keyUsage: "2.5.29.15",
  subjectAltName: "2.5.29.17",
  basicConstraints: "2.5.29.19",
  nameConstraints: "2.5.29.30",
  extendedKeyUsage: "2.5.29.37",
} as const;

/** Parses one certificate in DER that fills `der`. */
export function parseCertificate(der: Uint8Array): ParsedCertificate {
  if (der.length > maxBytes) return refuse(`has more than ${maxBytes} octets`);
  if (!isStrictDer(der)) return refuse("is no DER");
  try {
    const x509 = new X509Certificate(der);
    const form = formOf(der);
    if (typeof form === "string") return refuse(form);
    return { is: "certificate", certificate: { x509, name: `"${commonName(x509)}"`, ...form } };
  } catch {
    return refuse("is no certificate"); // OpenSSL's words for it are no help to anybody
  }
}

/** The common name, or the whole subject on one line: escaped and cut, as it may stand on a screen. */
export function commonName(certificate: X509Certificate): string {
  const subject = certificate.subject ?? "";
  return quoted(/^CN=(.*)$/m.exec(subject)?.[1] ?? subject.replaceAll("\n", ", ")).slice(1, -1);
}

type Form = Omit<Certificate, "x509" | "name">;

function formOf(der: Uint8Array): Form | string {
  const outer = elementAt(der, 0);
  const [body, algorithm, signature, ...rest] = (outer && elementsIn(outer.content)) ?? [];
  if (body?.tag !== tags.sequence || algorithm?.tag !== tags.sequence || signature?.tag !== tags.bitString)
    return "is no certificate";
  if (rest.length > 0) return "is no certificate";
  const fields = elementsIn(body.content) ?? [];
  const version = fields[0]?.tag === 0xa0 ? elementAt(fields[0].content, 0)?.content[0] : undefined;
  if (version !== 2) return "is not of version 3";
  // Else an attacker could name another algorithm outside the signed part than inside.
  if (!fields[2] || Buffer.compare(fields[2].content, algorithm.content) !== 0)
    return "names two signature algorithms";
  const signatureAlgorithm = oidIn(elementAt(algorithm.content, 0));
  const extensions = extensionsIn(fields.at(-1));
  if (signatureAlgorithm === undefined || !extensions) return "cannot be read";
  const constraints = constraintsOf(extensions.get(oids.basicConstraints)?.value);
  const keyUsage = keyUsageOf(extensions.get(oids.keyUsage)?.value);
  const roles = rolesOf(extensions.get(oids.extendedKeyUsage)?.value);
  if (!constraints || keyUsage === "malformed" || roles === "malformed")
    return "has an extension that cannot be read";
  return { signatureAlgorithm, ...constraints, keyUsage, roles, extensions };
}

type Extension = { readonly critical: boolean; readonly value: Uint8Array };

/** By OID. Undefined where one stands twice or cannot be read. */
function extensionsIn(field: DerElement | undefined): ReadonlyMap<string, Extension> | undefined {
  if (field?.tag !== 0xa3) return new Map();
  const list = elementAt(field.content, 0);
  const found = new Map<string, Extension>();
  for (const entry of (list && elementsIn(list.content)) ?? []) {
    const [id, ...rest] = elementsIn(entry.content) ?? [];
    const oid = oidIn(id);
    const critical = rest[0]?.tag === tags.boolean && rest[0].content[0] === 0xff;
    const value = rest.at(-1);
    const isWellFormed = rest.length === 1 || (rest.length === 2 && rest[0]?.tag === tags.boolean);
    if (oid === undefined || found.has(oid) || !isWellFormed || value?.tag !== tags.octetString)
      return undefined;
    found.set(oid, { critical, value: value.content });
  }
  return found;
}

function constraintsOf(
  value: Uint8Array | undefined,
): { readonly isCa: boolean; readonly pathLength: number | undefined } | undefined {
  if (!value) return { isCa: false, pathLength: undefined };
  if (!isStrictDer(value)) return undefined;
  const sequence = elementAt(value, 0);
  const [first, ...rest] = (sequence?.tag === tags.sequence && elementsIn(sequence.content)) || [];
  if (!first) return { isCa: false, pathLength: undefined };
  const isCa = first.tag === tags.boolean && first.content[0] === 0xff;
  const length = rest[0];
  // The default written out, which some tools do.
  if (first.tag === tags.boolean && !isCa && !length) return { isCa, pathLength: undefined };
  if (!isCa || rest.length > 1) return undefined; // a path length without CA, or more than there can be
  if (!length) return { isCa, pathLength: undefined };
  const octet = length.content[0] ?? 0;
  const isSmall = length.tag === tags.integer && length.content.length === 1 && octet < 0x80;
  return isSmall ? { isCa, pathLength: octet } : undefined;
}

function keyUsageOf(value: Uint8Array | undefined): number | undefined | "malformed" {
  if (!value) return undefined;
  const bits = isStrictDer(value) ? elementAt(value, 0) : undefined;
  if (bits?.tag !== tags.bitString || bits.content.length < 2 || bits.content.length > 3) return "malformed";
  return bits.content[1] ?? 0;
}

function rolesOf(value: Uint8Array | undefined): readonly string[] | undefined | "malformed" {
  if (!value) return undefined;
  const list = isStrictDer(value) ? elementAt(value, 0) : undefined;
  const found = (list?.tag === tags.sequence ? elementsIn(list.content) : undefined)?.map(oidIn);
  if (!found?.every((oid) => oid !== undefined)) return "malformed";
  return found;
}

const oidIn = (element: DerElement | undefined): string | undefined =>
  element?.tag === tags.oid ? dottedOid(element.content) : undefined;

const refuse = (why: string): ParsedCertificate => ({ is: "refused", why });
