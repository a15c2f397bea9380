/** ECDSA signatures between DER, as node:crypto and files have them, and the TPM's pair of numbers. */
import { joined } from "./crypto.ts";

const coordinateBytes = 32;

/** Takes a P-256 signature in DER (SEC 1, C.8) apart; undefined where it is not strict DER of that size. */
export function ecdsaFromDer(
  der: Uint8Array,
): { readonly r: Uint8Array; readonly s: Uint8Array } | undefined {
  if (der[0] !== 0x30 || der[1] !== der.length - 2 || der.length > 72) return undefined;
  const r = takeInteger(der, 2);
  const s = r && takeInteger(der, r.end);
  return r && s && s.end === der.length ? { r: r.value, s: s.value } : undefined;
}

function takeInteger(
  der: Uint8Array,
  start: number,
): { readonly value: Uint8Array; readonly end: number } | undefined {
  const length = der[start + 1] ?? 0;
  const end = start + 2 + length;
  const first = der[start + 2] ?? 0;
  if (der[start] !== 0x02 || length === 0 || end > der.length || first >= 0x80) return undefined;
  const padded = first === 0 && length > 1;
  if (padded && (der[start + 3] ?? 0) < 0x80) return undefined; // not the shortest form
  const digits = der.subarray(padded ? start + 3 : start + 2, end);
  if (digits.length > coordinateBytes) return undefined;
  return { value: joined(new Uint8Array(coordinateBytes - digits.length), digits), end };
}

/** Puts a signature of two numbers into DER. */
export function ecdsaToDer(r: Uint8Array, s: Uint8Array): Uint8Array {
  const body = joined(integer(r), integer(s));
  if (body.length > 127) throw new RangeError("more than a short-form length");
  return joined(Uint8Array.of(0x30, body.length), body);
}

function integer(value: Uint8Array): Uint8Array {
  const from = value.findIndex((octet) => octet !== 0);
  const digits = from < 0 ? Uint8Array.of(0) : value.subarray(from);
  const sign = (digits[0] ?? 0) >= 0x80 ? Uint8Array.of(0) : new Uint8Array();
  return joined(Uint8Array.of(0x02, sign.length + digits.length), sign, digits);
}
