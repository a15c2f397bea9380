/** Makes certificates octet by octet, so that a test can have any fault in one that is otherwise right and rightly signed. */
import { generateKeyPairSync, type KeyObject, sign, X509Certificate } from "node:crypto";
import type { Anchor } from "../../../init/trust/anchors.ts";
import { roles } from "../../../init/trust/roles.ts";

export type Key = { readonly publicKey: KeyObject; readonly privateKey: KeyObject };

export const ecKey = (namedCurve = "P-256"): Key => generateKeyPairSync("ec", { namedCurve });

/** One DER element. */
export function der(tag: number, ...contents: readonly Uint8Array[]): Buffer {
  const content = Buffer.concat(contents);
  const { length } = content;
  const head =
    length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...head]), content]);
}

export function oid(dotted: string): Buffer {
  const [first = 0, second = 0, ...rest] = dotted.split(".").map(Number);
  const octets = [first * 40 + second, ...rest].flatMap((arc) => {
    const digits = [arc & 0x7f];
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128))
      digits.unshift((left & 0x7f) | 0x80);
    return digits;
  });
  return der(0x06, Buffer.from(octets));
}

const seq = (...parts: readonly Uint8Array[]) => der(0x30, ...parts);
const commonName = (name: string) => seq(der(0x31, seq(oid("2.5.4.3"), der(0x0c, Buffer.from(name)))));
const time = (date: Date) => der(0x18, Buffer.from(date.toISOString().replace(/[-:T]|\.\d+/g, "")));
export const ecdsaSha256 = "1.2.840.10045.4.3.2";

export const extension = (id: string, critical: boolean, value: Uint8Array): Buffer =>
  seq(oid(id), ...(critical ? [der(0x01, Buffer.from([0xff]))] : []), der(0x04, value));
export const basicConstraints = (ca: boolean, pathLength?: number): Buffer =>
  extension(
    "2.5.29.19",
    true,
    seq(
      ...(ca ? [der(0x01, Buffer.from([0xff]))] : []),
      ...(pathLength === undefined ? [] : [der(0x02, Buffer.from([pathLength]))]),
    ),
  );
export const keyUsage = (bits: number): Buffer =>
  extension("2.5.29.15", true, der(0x03, Buffer.from([0, bits])));
export const extendedKeyUsage = (...ids: readonly string[]): Buffer =>
  extension("2.5.29.37", true, seq(...ids.map(oid)));

export const day = 86_400_000;
export const now = new Date("2026-06-01T12:00:00Z");

export type Wanted = {
  readonly name: string;
  readonly key?: Key;
  readonly extensions?: readonly Uint8Array[];
  readonly from?: Date;
  readonly until?: Date;
  /** 2 is version 3. */
  readonly version?: number;
  readonly algorithm?: string;
  readonly innerAlgorithm?: string;
  readonly hash?: string;
};

export type Issued = { readonly der: Buffer; readonly key: Key; readonly name: string };

let serial = 0x1000;

/** A certificate signed by `issuer`, or by itself. */
export function issue(wanted: Wanted, issuer?: Issued): Issued {
  const key = wanted.key ?? ecKey();
  const algorithm = wanted.algorithm ?? ecdsaSha256;
  const extensions = wanted.extensions ?? [];
  const body = seq(
    ...(wanted.version === 0 ? [] : [der(0xa0, der(0x02, Buffer.from([wanted.version ?? 2])))]),
    der(0x02, Buffer.from([++serial >> 8, serial & 0xff])),
    seq(oid(wanted.innerAlgorithm ?? algorithm)),
    commonName(issuer?.name ?? wanted.name),
    seq(
      time(wanted.from ?? new Date(now.getTime() - 30 * day)),
      time(wanted.until ?? new Date(now.getTime() + 30 * day)),
    ),
    commonName(wanted.name),
    key.publicKey.export({ type: "spki", format: "der" }),
    ...(extensions.length > 0 ? [der(0xa3, seq(...extensions))] : []),
  );
  const signature = sign(wanted.hash ?? "sha256", body, (issuer?.key ?? key).privateKey);
  return {
    der: seq(body, seq(oid(algorithm)), der(0x03, Buffer.from([0]), signature)),
    key,
    name: wanted.name,
  };
}

export const caExtensions = (pathLength?: number): Buffer[] => [
  basicConstraints(true, pathLength),
  keyUsage(0x06),
];
export const leafExtensions = (): Buffer[] => [
  basicConstraints(false),
  keyUsage(0x80),
  extendedKeyUsage(roles.guestosSigning),
];

export const rootCa = (name = "root", more: Partial<Wanted> = {}): Issued =>
  issue({ name, extensions: caExtensions(), ...more });
export const subCa = (issuer: Issued, name = "sub", more: Partial<Wanted> = {}): Issued =>
  issue({ name, extensions: caExtensions(), ...more }, issuer);
export const signer = (issuer: Issued, more: Partial<Wanted> = {}): Issued =>
  issue({ name: "signer", extensions: leafExtensions(), ...more }, issuer);

export const anchor = ({ der }: Issued, origin: Anchor["origin"] = "platform"): Anchor => ({
  certificate: new X509Certificate(der),
  origin,
});
