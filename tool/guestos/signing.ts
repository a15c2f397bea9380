/** Who signs a GuestOS, as files: checked before anything is built, so that no build ends in a manifest that every device refuses. */
import { createPrivateKey, type KeyObject } from "node:crypto";
import { readFile } from "node:fs/promises";
import { GimbalError, reasonOf } from "../../init/errors.ts";
import { type Certificate, parseCertificate } from "../../init/trust/certificate.ts";
import { certificatesInPem } from "../../init/trust/pem.ts";
import { roles } from "../../init/trust/roles.ts";

export type Signer = {
  readonly key: KeyObject;
  /** DER, the leaf first. */
  readonly chain: readonly Uint8Array[];
  readonly name: string;
};

const maxCertificates = 6;
const curves = new Set(["prime256v1", "secp384r1"]);

/**
 * @param certificatePath PEM: the signer's certificate, then intermediate CAs if there are any
 * @throws {GimbalError} "build-failed"
 */
export async function readSigner(keyPath: string, certificatePath: string, now: Date): Promise<Signer> {
  const refuse = (on: string, why: string, cause?: unknown) =>
    new GimbalError(
      "build-failed",
      { tried: "sign with", on, why, todo: "`gimbal pki signer` makes a signer" },
      cause,
    );
  const readText = (path: string) =>
    readFile(path, "utf8").catch((cause: unknown) => {
      throw refuse(path, reasonOf(cause), cause);
    });
  const key = privateKey(await readText(keyPath), (cause) =>
    refuse(keyPath, "it is no private key in PEM", cause),
  );
  const chain = certificatesInPem(await readText(certificatePath), maxCertificates) ?? [];
  const [first] = chain;
  if (!first)
    throw refuse(certificatePath, `it holds no certificate in PEM, or more than ${maxCertificates}`);
  const parsed = parseCertificate(first);
  if (parsed.is === "refused") throw refuse(certificatePath, `its first certificate ${parsed.why}`);
  const why = fault(key, parsed.certificate, now);
  if (why) throw refuse(certificatePath, why);
  return { key, chain, name: parsed.certificate.name };
}

function fault(key: KeyObject, certificate: Certificate, now: Date): string | undefined {
  const { x509, name, isCa, roles: own } = certificate;
  if (!curves.has(key.asymmetricKeyDetails?.namedCurve ?? "")) return "the key is neither P-256 nor P-384";
  if (!x509.checkPrivateKey(key)) return `${name} belongs to another key`;
  if (isCa) return `${name} is a CA, and a CA signs no GuestOSes`;
  if (!own?.includes(roles.guestosSigning))
    return `${name} has no GuestOS signing role (extended key usage ${roles.guestosSigning})`;
  if (!(now <= x509.validToDate)) return `${name} was valid until ${x509.validTo}`;
  return undefined;
}

function privateKey(pem: string, refuse: (cause: unknown) => GimbalError): KeyObject {
  try {
    return createPrivateKey(pem);
  } catch (cause) {
    throw refuse(cause);
  }
}
