/** Public keys between node:crypto and the TPM. */
import { createHash, createPublicKey, KeyObject } from "node:crypto";
import { GimbalError } from "../errors.ts";
import { objectBits, type PublicArea } from "./structures.ts";

const base64url = (octets: Uint8Array) => Buffer.from(octets).toString("base64url");

/** A public key from PEM text, SPKI in DER or a KeyObject (of a private one: its public half). Throws "bad-argument". */
export function publicKeyOf(key: string | Uint8Array | KeyObject): KeyObject {
  try {
    if (typeof key === "string") return createPublicKey(key);
    if (key instanceof KeyObject) return key.type === "public" ? key : createPublicKey(key);
    return createPublicKey({ key: Buffer.from(key), format: "der", type: "spki" });
  } catch (cause) {
    throw new GimbalError(
      "bad-argument",
      { tried: "read", on: "a public key", why: "it is neither PEM nor DER of a public key" },
      cause,
    );
  }
}

/** SPKI in DER. */
export function spkiOf(key: KeyObject): Uint8Array {
  return new Uint8Array(key.export({ format: "der", type: "spki" }));
}

/** SHA-256 of the SPKI in DER: "pkfp" of a signed policy. */
export function fingerprintOf(key: KeyObject): Uint8Array {
  return new Uint8Array(createHash("sha256").update(spkiOf(key)).digest());
}

/**
 * The public area by which a P-256 release key is loaded into a TPM. It is part of the format: the policy names the key
 * by the digest of these octets. Equal to what tpm2_loadexternal makes of the PEM.
 */
export function releaseKeyArea(key: KeyObject): PublicArea {
  const jwk = key.asymmetricKeyType === "ec" ? key.export({ format: "jwk" }) : {};
  if (jwk.crv !== "P-256" || !jwk.x || !jwk.y) {
    throw new GimbalError("bad-argument", {
      tried: "use",
      on: "the release key",
      why: "it is not an ECDSA key on P-256",
    });
  }
  return {
    is: "ecc",
    nameAlg: "sha256",
    attributes: objectBits.userWithAuth | objectBits.decrypt | objectBits.sign,
    authPolicy: new Uint8Array(),
    symmetric: { is: "none" },
    scheme: { is: "none" },
    curve: "p256",
    kdf: { is: "none" },
    point: {
      x: new Uint8Array(Buffer.from(jwk.x, "base64url")),
      y: new Uint8Array(Buffer.from(jwk.y, "base64url")),
    },
  };
}

/** The node:crypto key of an ECC P-256 public area. */
export function eccKeyObject(area: Extract<PublicArea, { is: "ecc" }>): KeyObject {
  const crv = { p256: "P-256", p384: "P-384", p521: "P-521" }[area.curve];
  const length = { p256: 32, p384: 48, p521: 66 }[area.curve];
  const fill = (octets: Uint8Array) =>
    base64url(Buffer.concat([Buffer.alloc(Math.max(0, length - octets.length)), octets]));
  return createPublicKey({
    key: { kty: "EC", crv, x: fill(area.point.x), y: fill(area.point.y) },
    format: "jwk",
  });
}

/** The node:crypto key of an RSA public area. */
export function rsaKeyObject(area: Extract<PublicArea, { is: "rsa" }>): KeyObject {
  const exponent = Buffer.alloc(4);
  exponent.writeUInt32BE(area.exponent === 0 ? 65_537 : area.exponent);
  return createPublicKey({
    key: { kty: "RSA", n: base64url(area.modulus), e: base64url(exponent) },
    format: "jwk",
  });
}
