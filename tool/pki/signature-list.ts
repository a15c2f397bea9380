/** EFI_SIGNATURE_LIST with one X.509 certificate (UEFI 2.10, 32.4.1): what firmware takes into PK, KEK and db. */

/** EFI_CERT_X509_GUID a5c059a1-94e4-4aa7-87b5-ab155c2bf072 */
const x509Guid = "a5c059a1-94e4-4aa7-87b5-ab155c2bf072";
const guidBytes = 16;
const headerBytes = guidBytes + 3 * 4;

/** @param owner GUID that only tells owners apart */
export function signatureList(owner: string, certificate: Uint8Array): Buffer {
  const signatureBytes = guidBytes + certificate.length;
  const header = Buffer.alloc(headerBytes);
  guid(x509Guid).copy(header);
  header.writeUInt32LE(headerBytes + signatureBytes, 16);
  header.writeUInt32LE(0, 20); // no header of this signature type
  header.writeUInt32LE(signatureBytes, 24);
  return Buffer.concat([header, guid(owner), certificate]);
}

/** The first three fields are little-endian. */
function guid(text: string): Buffer {
  const digits = /^([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{12})$/.exec(text);
  if (!digits) throw new TypeError(`${text} is no GUID`);
  const [a, b, c, d, e] = digits.slice(1).map((each) => Buffer.from(each, "hex"));
  return Buffer.concat(
    [a?.reverse(), b?.reverse(), c?.reverse(), d, e].map((part) => part ?? Buffer.alloc(0)),
  );
}
