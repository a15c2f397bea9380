/** Quotes: the TPM's signed word about its PCRs. */
import { verify as verifyData } from "node:crypto";
import { decode, encode } from "../bytes/struct.ts";
import { GimbalError } from "../errors.ts";
import { quote as quoteCommand } from "./commands.ts";
import { ecdsaToDer } from "./ecdsa.ts";
import { execute } from "./execute.ts";
import { eccKeyObject, rsaKeyObject } from "./keys.ts";
import type { KeyEntity } from "./session.ts";
import {
  type HashName,
  type PublicArea,
  type QuoteAttest,
  quoteAttest,
  selectPcrs,
  signature as signatureCodec,
} from "./structures.ts";
import type { Transport } from "./transport.ts";

export type Quote = {
  /** TPMS_ATTEST, the signed octets. */
  readonly attest: Uint8Array;
  /** TPMT_SIGNATURE. */
  readonly signature: Uint8Array;
};

/** Quotes PCRs of one bank with a key that has no auth value. `nonce` has at most 64 octets. */
export async function quotePcrs(
  tpm: Transport,
  key: KeyEntity,
  nonce: Uint8Array,
  bank: HashName,
  pcrs: readonly number[],
): Promise<Quote & { readonly read: QuoteAttest }> {
  const { response } = await execute(
    tpm,
    quoteCommand,
    { key },
    { qualifyingData: nonce, scheme: { is: "none" }, pcrs: [selectPcrs(bank, pcrs)] },
  );
  const read = decode(quoteAttest, response.attest);
  if (read.is === "refused") {
    throw new GimbalError("tpm-failure", {
      tried: "quote PCRs of",
      on: "the TPM",
      why: `the quote is malformed (${read.reason})`,
    });
  }
  return {
    attest: response.attest.slice(),
    signature: encode(signatureCodec, response.signature),
    read: read.value,
  };
}

/** Checks a signature over octets with a TPM key's public area. SHA-1 and short RSA keys are never accepted. */
export function verifyTpmSignature(area: PublicArea, octets: Uint8Array, signature: Uint8Array): boolean {
  const decoded = decode(signatureCodec, signature);
  if (decoded.is === "refused" || decoded.value.hash === "sha1") return false;
  const { value } = decoded;
  try {
    if (area.is === "ecc" && value.is === "ecdsa")
      return verifyData(value.hash, octets, eccKeyObject(area), ecdsaToDer(value.r, value.s));
    if (area.is === "rsa" && value.is === "rsassa" && area.keyBits >= 2048)
      return verifyData(value.hash, octets, rsaKeyObject(area), value.signature);
    return false;
  } catch {
    return false; // a point that is not on its curve, a modulus that is none: no key, so no signature
  }
}
