/**
 * Sessions and the things that commands act on. A session is salted to a storage key: a secret that only this TPM can
 * read keys its HMACs and its parameter encryption, so whoever listens on or alters the bus gets nothing.
 * Left out: bound sessions, audit, sessions of other hashes than SHA-256 (TCG Library Part 1, 19).
 */
import { constants, createECDH, publicEncrypt, randomBytes } from "node:crypto";
import { encode, struct, u16 } from "../bytes/struct.ts";
import { GimbalError } from "../errors.ts";
import { startAuthSession } from "./commands.ts";
import { hashOf, joined, kdfA, kdfE, u32Octets } from "./crypto.ts";
import { execute, flushQuietly } from "./execute.ts";
import { rsaKeyObject } from "./keys.ts";
import {
  aes128Cfb,
  eccPoint,
  type HashName,
  hashIds,
  type NvPublicArea,
  nvPublicArea,
  type PublicArea,
  permanentHandles,
  publicArea,
} from "./structures.ts";
import type { Transport } from "./transport.ts";

/** What a handle stands for. `name` goes into every HMAC, so a swapped handle shows. */
export type Entity = {
  readonly handle: number;
  readonly name: Uint8Array;
  /** Empty when absent. Only ever used as a key of an HMAC. */
  readonly auth?: Uint8Array;
};

/** A key that is loaded or persistent, with its public area. */
export type KeyEntity = Entity & { readonly public: PublicArea };

/** A PCR, a hierarchy, a session: its name is the handle itself. */
export function handleEntity(handle: number, auth?: Uint8Array): Entity {
  return { handle, name: u32Octets(handle), ...(auth ? { auth } : {}) };
}

export const nullEntity = handleEntity(permanentHandles.null);

/** Name of an object: nameAlg, then the digest of its public area (Part 1, 16). */
export function nameOf(area: PublicArea): Uint8Array {
  return joined(encode(u16, hashIds[area.nameAlg]), hashOf(area.nameAlg, encode(publicArea, area)));
}

/** Name of an NV index. */
export function nvNameOf(area: NvPublicArea): Uint8Array {
  return joined(encode(u16, hashIds[area.nameAlg]), hashOf(area.nameAlg, encode(nvPublicArea, area)));
}

/** An open session. Dispose of it with `await using` or [Symbol.asyncDispose](); twice is harmless. */
export interface Session extends Entity, AsyncDisposable {
  readonly kind: "hmac" | "policy" | "trial";
  readonly hash: HashName;
  /** Session key of the HMACs; empty for an unsalted session. */
  readonly key: Uint8Array;
  readonly nonceTpm: Uint8Array;
  freshNonce(): Uint8Array;
  /** Takes the TPM's nonce of a response that was checked. */
  roll(nonceTpm: Uint8Array): void;
}

const sessionTypes = { hmac: 0x00, policy: 0x01, trial: 0x03 } as const;
const nonceBytes = 32;

/** Starts a session, salted to `salt` if that is given. The caller owns it. */
export async function startSession(
  tpm: Transport,
  kind: Session["kind"],
  salt?: KeyEntity,
): Promise<Session> {
  const hash = "sha256";
  const nonceCaller = new Uint8Array(randomBytes(nonceBytes));
  const secret = salt ? makeSalt(salt.public) : { plain: new Uint8Array(), encrypted: new Uint8Array() };
  const { handle, response } = await execute(
    tpm,
    startAuthSession,
    { tpmKey: salt ?? nullEntity, bind: nullEntity },
    {
      nonceCaller,
      encryptedSalt: secret.encrypted,
      sessionType: sessionTypes[kind],
      symmetric: aes128Cfb,
      authHash: hash,
    },
  );
  const nonceFirst = new Uint8Array(response.nonceTpm);
  const key = salt ? kdfA(hash, secret.plain, "ATH", nonceFirst, nonceCaller, 256) : new Uint8Array();
  secret.plain.fill(0);
  let nonceTpm: Uint8Array = nonceFirst;
  let open = true;
  return {
    ...handleEntity(handle),
    kind,
    hash,
    key,
    get nonceTpm() {
      return nonceTpm;
    },
    freshNonce: () => new Uint8Array(randomBytes(nonceBytes)),
    roll(next) {
      nonceTpm = next;
    },
    async [Symbol.asyncDispose]() {
      if (!open) return;
      open = false;
      key.fill(0);
      await flushQuietly(tpm, handle);
    },
  };
}

/** A secret for the owner of a storage key: by ECDH and KDFe, or by RSA OAEP (Part 1, B.10.2 and C.6.1). */
function makeSalt(key: PublicArea): { readonly plain: Uint8Array; readonly encrypted: Uint8Array } {
  if (key.is === "rsa") {
    const plain = new Uint8Array(randomBytes(32));
    const encrypted = publicEncrypt(
      {
        key: rsaKeyObject(key),
        padding: constants.RSA_PKCS1_OAEP_PADDING,
        oaepHash: key.nameAlg,
        oaepLabel: Buffer.from("SECRET\0"),
      },
      plain,
    );
    return { plain, encrypted: new Uint8Array(encrypted) };
  }
  if (key.is !== "ecc" || key.curve !== "p256") {
    throw new GimbalError("tpm-failure", {
      tried: "salt a session to",
      on: "the storage key",
      why: "it is neither ECC P-256 nor RSA",
    });
  }
  const ephemeral = createECDH("prime256v1");
  const own = ephemeral.generateKeys();
  const theirs = { x: padded(key.point.x, 32), y: padded(key.point.y, 32) };
  const shared = new Uint8Array(ephemeral.computeSecret(joined(Uint8Array.of(4), theirs.x, theirs.y)));
  const ours = { x: new Uint8Array(own.subarray(1, 33)), y: new Uint8Array(own.subarray(33, 65)) };
  const plain = kdfE(key.nameAlg, shared, "SECRET", ours.x, theirs.x, 256);
  shared.fill(0);
  return { plain, encrypted: encode(struct({ point: eccPoint }), { point: ours }) };
}

/** Left-padded with zeros: some TPMs leave them off. */
function padded(octets: Uint8Array, length: number): Uint8Array {
  if (octets.length >= length) return octets;
  return joined(new Uint8Array(length - octets.length), octets);
}
