/** PEM (RFC 7468) certificates, bounded. */

const begin = "-----BEGIN CERTIFICATE-----";
const end = "-----END CERTIFICATE-----";

/**
 * The DER of each certificate in a PEM text, as sent; at most `max`, else undefined, as where a block is cut or no base64. Other
 * blocks and text between blocks are passed over.
 */
export function certificatesInPem(text: string, max: number): readonly Uint8Array[] | undefined {
  const found: Uint8Array[] = [];
  for (let at = text.indexOf(begin); at >= 0; at = text.indexOf(begin, at)) {
    const until = text.indexOf(end, at);
    if (until < 0 || found.length >= max) return undefined;
    const base64 = text.slice(at + begin.length, until).replace(/\s+/g, "");
    if (!/^[A-Za-z0-9+/]+={0,2}$/.test(base64)) return undefined;
    found.push(Buffer.from(base64, "base64"));
    at = until + end.length;
  }
  return found;
}
