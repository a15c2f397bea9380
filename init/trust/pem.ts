/** PEM (RFC 7468) certificates, bounded. */

const certificate = /-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)-----END CERTIFICATE-----/g;

/** The DER of each certificate in a PEM text; at most `max`, else undefined. Other blocks are passed over. */
export function certificatesInPem(text: string, max: number): readonly Uint8Array[] | undefined {
  const found = [...text.matchAll(certificate)].map(([, base64]) => Buffer.from(base64 ?? "", "base64"));
  return found.length > max ? undefined : found;
}
