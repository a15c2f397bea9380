/** The key derivations and the cipher of TPM sessions, TCG Library Part 1, 11.4.10 and 21.3. */
import { createCipheriv, createDecipheriv, createHash, createHmac } from "node:crypto";
import type { HashName } from "./structures.ts";

export function hashOf(hash: HashName, ...parts: readonly Uint8Array[]): Uint8Array {
  const state = createHash(hash);
  for (const part of parts) state.update(part);
  return new Uint8Array(state.digest());
}

export function hmacOf(hash: HashName, key: Uint8Array, ...parts: readonly Uint8Array[]): Uint8Array {
  const state = createHmac(hash, key);
  for (const part of parts) state.update(part);
  return new Uint8Array(state.digest());
}

export function u32Octets(value: number): Uint8Array {
  const octets = new Uint8Array(4);
  new DataView(octets.buffer).setUint32(0, value);
  return octets;
}

export function joined(...parts: readonly Uint8Array[]): Uint8Array {
  const octets = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    octets.set(part, offset);
    offset += part.length;
  }
  return octets;
}

const label = (text: string) => new TextEncoder().encode(`${text}\0`);

/** KDFa: SP 800-108 in counter mode with HMAC. `bits` is a multiple of 8. */
export function kdfA(
  hash: HashName,
  key: Uint8Array,
  purpose: string,
  contextU: Uint8Array,
  contextV: Uint8Array,
  bits: number,
): Uint8Array {
  const blocks: Uint8Array[] = [];
  for (let counter = 1, octets = 0; octets < bits / 8; counter++) {
    const block = hmacOf(hash, key, u32Octets(counter), label(purpose), contextU, contextV, u32Octets(bits));
    octets += block.length;
    blocks.push(block);
  }
  return joined(...blocks).slice(0, bits / 8);
}

/** KDFe: SP 800-56A over the x coordinate of a shared point. At most one digest of output. */
export function kdfE(
  hash: HashName,
  sharedX: Uint8Array,
  purpose: string,
  partyU: Uint8Array,
  partyV: Uint8Array,
  bits: number,
): Uint8Array {
  return hashOf(hash, u32Octets(1), sharedX, label(purpose), partyU, partyV).slice(0, bits / 8);
}

/** Key and initialisation vector of a session's parameter encryption, then AES-128-CFB over `octets`. */
export function cipherParameter(
  direction: "encrypt" | "decrypt",
  hash: HashName,
  sessionValue: Uint8Array,
  nonceNewer: Uint8Array,
  nonceOlder: Uint8Array,
  octets: Uint8Array,
): Uint8Array {
  const material = kdfA(hash, sessionValue, "CFB", nonceNewer, nonceOlder, 256);
  const make = direction === "encrypt" ? createCipheriv : createDecipheriv;
  const cipher = make("aes-128-cfb", material.subarray(0, 16), material.subarray(16, 32));
  const result = joined(cipher.update(octets), cipher.final());
  material.fill(0);
  return result;
}

/** Compares public octets. */
export function sameOctets(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((octet, index) => octet === b[index]);
}
