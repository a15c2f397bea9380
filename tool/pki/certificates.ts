/** Keys and certificates of a product, made with WebCrypto; nothing here touches a disk. */
import "reflect-metadata"; // the next one does not load without it
import { createPrivateKey, KeyObject, webcrypto } from "node:crypto";
import {
  BasicConstraintsExtension,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";

type KeyPair = webcrypto.CryptoKeyPair;
type Algorithm = {
  readonly key: webcrypto.EcKeyGenParams | webcrypto.RsaHashedKeyGenParams;
  readonly signature: webcrypto.EcdsaParams | webcrypto.Algorithm;
};

export const algorithms = {
  /** What UEFI firmware surely knows. */
  rsa2048: {
    key: {
      name: "RSASSA-PKCS1-v1_5",
      hash: "SHA-256",
      modulusLength: 2048,
      publicExponent: new Uint8Array([1, 0, 1]),
    },
    signature: { name: "RSASSA-PKCS1-v1_5" },
  },
  p256: { key: { name: "ECDSA", namedCurve: "P-256" }, signature: { name: "ECDSA", hash: "SHA-256" } },
  p384: { key: { name: "ECDSA", namedCurve: "P-384" }, signature: { name: "ECDSA", hash: "SHA-384" } },
} as const satisfies Record<string, Algorithm>;

export type Identity = {
  readonly certificate: X509Certificate;
  readonly keys: KeyPair;
  readonly algorithm: Algorithm;
};

export type Kind =
  /** Of a UEFI key database: it signs programs and lists, and no certificates. */
  | { readonly is: "firmware" }
  | { readonly is: "ca"; readonly pathLength: number }
  | { readonly is: "leaf"; readonly role: string };

export type Profile = {
  readonly commonName: string;
  readonly organisation: string;
  readonly kind: Kind;
  readonly algorithm: Algorithm;
  readonly from: Date;
  readonly years: number;
};

export async function makeKeys({ key }: Algorithm): Promise<KeyPair> {
  return (await webcrypto.subtle.generateKey(key, true, ["sign", "verify"])) as KeyPair;
}

/** A new key with its certificate, signed by `issuer` or by itself. */
export async function makeIdentity(profile: Profile, issuer?: Identity): Promise<Identity> {
  const { algorithm, from, years } = profile;
  const keys = await makeKeys(algorithm);
  const subject = [{ O: [profile.organisation] }, { CN: [profile.commonName] }];
  const until = new Date(from);
  until.setUTCFullYear(until.getUTCFullYear() + years);
  const certificate = await X509CertificateGenerator.create({
    subject,
    issuer: issuer?.certificate.subjectName ?? subject,
    publicKey: keys.publicKey,
    signingKey: (issuer?.keys ?? keys).privateKey,
    signingAlgorithm: (issuer?.algorithm ?? algorithm).signature,
    notBefore: from,
    notAfter: until,
    extensions: [
      ...extensionsOf(profile.kind),
      await SubjectKeyIdentifierExtension.create(keys.publicKey, false),
    ],
  });
  return { certificate, keys, algorithm };
}

function extensionsOf(kind: Kind) {
  switch (kind.is) {
    case "firmware":
      return [new BasicConstraintsExtension(false, undefined, true)];
    case "ca":
      return [
        new BasicConstraintsExtension(true, kind.pathLength, true),
        new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      ];
    case "leaf":
      return [
        new BasicConstraintsExtension(false, undefined, true),
        new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
        new ExtendedKeyUsageExtension([kind.role], true),
      ];
    default:
      return kind satisfies never;
  }
}

/** An EC identity from PEM. Throws on what is none. */
export async function readIdentity(certificatePem: string, keyPem: string): Promise<Identity> {
  const certificate = new X509Certificate(certificatePem);
  const key = createPrivateKey(keyPem);
  const algorithm = key.asymmetricKeyDetails?.namedCurve === "secp384r1" ? algorithms.p384 : algorithms.p256;
  const pkcs8 = key.export({ type: "pkcs8", format: "der" });
  const privateKey = await webcrypto.subtle.importKey("pkcs8", pkcs8, algorithm.key, false, ["sign"]);
  const publicKey = await certificate.publicKey.export(algorithm.key, ["verify"]);
  return { certificate, keys: { privateKey, publicKey }, algorithm };
}

export const privatePem = (keys: KeyPair): string =>
  KeyObject.from(keys.privateKey).export({ type: "pkcs8", format: "pem" }).toString();

export const publicPem = (keys: KeyPair): string =>
  KeyObject.from(keys.publicKey).export({ type: "spki", format: "pem" }).toString();

export const certificatePem = ({ certificate }: Identity): string => `${certificate.toString("pem")}\n`;
export const certificateDer = ({ certificate }: Identity): Uint8Array => new Uint8Array(certificate.rawData);
