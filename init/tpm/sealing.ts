/**
 * Sealing of the system disk's key, DESIGN section 5. The object's policy is
 *   PolicyAuthorize(release key, "gimbal-boot"), then PolicyPCR(7) as it was at sealing;
 * what the release key authorises is PolicyPCR(11 at "enter-initrd", 12 and 13 zero). The object has no auth value.
 * Sessions are salted to the storage key and encrypt the key on its way, in both directions.
 */
import { createPublicKey, type KeyObject } from "node:crypto";
import { decode, encode } from "../bytes/struct.ts";
import { reasonOf } from "../errors.ts";
import type { SealedBlob } from "./blob.ts";
import { create, load, unseal } from "./commands.ts";
import { sameOctets } from "./crypto.ts";
import { execute } from "./execute.ts";
import { publicKeyOf, releaseKeyArea, spkiOf } from "./keys.ts";
import { readPcrs } from "./pcr.ts";
import { afterPolicyAuthorize, afterPolicyPcr } from "./policy-digest.ts";
import { bank, choosePolicy, satisfyPcrs, satisfyRelease, transient } from "./policy-session.ts";
import { findPrimary, makePrimary, type PrimaryKey } from "./primary.ts";
import { rc, refusalOf, refusedWith } from "./response-code.ts";
import { failure, foreign, refused } from "./sealing-error.ts";
import { type Entity, nameOf, type Session, startSession } from "./session.ts";
import { policyRef, type SignedPolicy } from "./signed-policy.ts";
import { ensureSrk, type StorageKeyType, storageKey } from "./storage-key.ts";
import { objectBits, type PublicArea, privateBuffer, publicBuffer } from "./structures.ts";
import type { Transport } from "./transport.ts";

export type SealRequest = {
  /** 1 to 128 octets. */
  readonly key: Uint8Array;
  /** P-256 public key: PEM text (SPKI) or a KeyObject. */
  readonly releaseKey: string | KeyObject;
  /** PCRs that must be at unsealing as they are now. Default: [7]. */
  readonly boundPcrs?: readonly number[];
  /** Kind of the storage key. Default: ECC, or RSA where the TPM has no P-256. */
  readonly parentType?: StorageKeyType;
  /** The owner hierarchy's auth value, if one was set. */
  readonly ownerAuth?: Uint8Array;
};

export type UnsealRequest = {
  /** From `parseSealedBlob`. */
  readonly blob: SealedBlob;
  /** From `parseSignedPolicies`: those of the release that booted. */
  readonly signedPolicies: readonly SignedPolicy[];
  readonly ownerAuth?: Uint8Array;
};

const none = new Uint8Array();

/** Seals `key` to this TPM and the release key. Errors: tpm-failure. Leaves no handle and no session behind. */
export async function sealDiskKey(tpm: Transport, request: SealRequest): Promise<SealedBlob> {
  const releaseKey = publicKeyOf(request.releaseKey);
  const bound = await readPcrs(tpm, bank, request.boundPcrs ?? [7]);
  const area = sealedArea(objectPolicy(releaseKey, bound));
  const sensitive = { auth: none, data: request.key };
  const parent = await ensureSrk(tpm, request.parentType, request.ownerAuth);
  return withParent(tpm, parent, request.ownerAuth, async (parent) => {
    await using session = await startSession(tpm, "hmac", parent);
    const { response } = await execute(
      tpm,
      create,
      { parent },
      { sensitive, public: area, outsideInfo: none, pcrs: [] },
      [{ session, encryptCommand: true, encryptResponse: true }],
    );
    if (!sameOctets(nameOf(response.public), nameOf({ ...area, unique: uniqueOf(response.public) })))
      throw failure("seal", "the TPM made another object than it was asked for");
    return {
      version: 1,
      public: base64(encode(publicBuffer, response.public)),
      private: base64(encode(privateBuffer, response.private)),
      parentName: hex(parent.name),
      parentType: typeOf(parent),
      releaseKey: base64(spkiOf(releaseKey)),
      bank,
      pcrs: Object.fromEntries([...bound].map(([pcr, value]) => [String(pcr), hex(value)])),
    };
  });
}

/**
 * Unseals; the caller owns the octets and overwrites them after use.
 * Errors: tpm-policy-refused (which PCR differs), tpm-object-foreign (TPM cleared, or the disk of another device),
 * tpm-failure. Leaves no handle and no session behind.
 */
export async function unsealDiskKey(tpm: Transport, request: UnsealRequest): Promise<Uint8Array> {
  const { blob, ownerAuth } = request;
  const sealed = openBlob(blob);
  const parent = await findPrimary(
    tpm,
    storageKey(blob.parentType),
    fromHex(blob.parentName),
    authsOf(ownerAuth),
  );
  if (!parent) throw foreign("this TPM does not have the storage key that the disk was sealed under");
  return withParent(tpm, parent, ownerAuth, async (parent) => {
    const policy = await choosePolicy(tpm, sealed, request.signedPolicies);
    await using session = await startSession(tpm, "policy", parent);
    await satisfyRelease(tpm, session, sealed.releaseKey, policy);
    if (sealed.bound.size > 0) await satisfyPcrs(tpm, session, sealed.bound);
    await using object = await loadSealed(tpm, parent, sealed);
    return await unsealObject(tpm, session, object); // awaited here, before session and object are disposed of
  });
}

/** The policy of the sealed object. */
function objectPolicy(releaseKey: KeyObject, bound: ReadonlyMap<number, Uint8Array>): Uint8Array {
  const authorized = afterPolicyAuthorize(nameOf(releaseKeyArea(releaseKey)), policyRef);
  return bound.size > 0 ? afterPolicyPcr(authorized, bank, bound) : authorized;
}

type SealedArea = Extract<PublicArea, { is: "keyedHash" }>;

function sealedArea(authPolicy: Uint8Array): SealedArea {
  return {
    is: "keyedHash",
    nameAlg: "sha256",
    attributes: objectBits.fixedTpm | objectBits.fixedParent | objectBits.noDa,
    authPolicy,
    scheme: { is: "none" },
    unique: none,
  };
}

const typeOf = (parent: PrimaryKey) => (parent.public.is === "rsa" ? "rsa" : "ecc");
const authsOf = (owner: Uint8Array | undefined) => (owner ? { owner } : {});
const uniqueOf = (area: PublicArea) => (area.is === "keyedHash" ? area.unique : none);

/**
 * Works under a storage key and disposes of it. A key at its handle may fit the template and still have an auth value
 * (it is no part of the template): then the transient primary of the same template is used.
 */
async function withParent<T>(
  tpm: Transport,
  found: PrimaryKey,
  ownerAuth: Uint8Array | undefined,
  work: (parent: PrimaryKey) => Promise<T>,
): Promise<T> {
  try {
    await using parent = found;
    return await work(parent);
  } catch (error) {
    if (!found.persistent || !refusedWith(error, rc.badAuth, rc.authFail)) throw error;
    await using parent = await makePrimary(tpm, storageKey(typeOf(found)), authsOf(ownerAuth));
    return await work(parent);
  }
}

type Sealed = {
  readonly public: PublicArea;
  readonly private: Uint8Array;
  readonly releaseKey: KeyObject;
  readonly bound: ReadonlyMap<number, Uint8Array>;
};

/** Reads a blob's fields, and checks that its object has the policy that its own fields say. */
function openBlob(blob: SealedBlob): Sealed {
  const area = decode(publicBuffer, fromBase64(blob.public));
  const secret = decode(privateBuffer, fromBase64(blob.private));
  const releaseKey = releaseKeyOf(blob);
  if (area.is === "refused" || secret.is === "refused" || !releaseKey)
    throw foreign("the sealed object on the disk is damaged");
  const bound = new Map(Object.entries(blob.pcrs).map(([pcr, value]) => [Number(pcr), fromHex(value)]));
  const expected = sealedArea(objectPolicy(releaseKey, bound));
  if (!sameOctets(nameOf({ ...expected, unique: uniqueOf(area.value) }), nameOf(area.value)))
    throw foreign("the sealed object on the disk has another policy than gimbal gives it");
  return { public: area.value, private: secret.value, releaseKey, bound };
}

function releaseKeyOf(blob: SealedBlob): KeyObject | undefined {
  try {
    const key = createPublicKey({ key: Buffer.from(blob.releaseKey, "base64"), format: "der", type: "spki" });
    return key.asymmetricKeyDetails?.namedCurve === "prime256v1" ? key : undefined;
  } catch {
    return undefined; // no key in these octets: the caller says so
  }
}

async function loadSealed(
  tpm: Transport,
  parent: PrimaryKey,
  sealed: Sealed,
): Promise<Entity & AsyncDisposable> {
  await using session = await startSession(tpm, "hmac", parent);
  const { handle } = await execute(
    tpm,
    load,
    { parent },
    { private: sealed.private, public: sealed.public },
    [{ session }],
  ).catch((error: unknown) => {
    if (!refusalOf(error) || refusedWith(error, rc.badAuth, rc.authFail, rc.objectMemory)) throw error;
    throw foreign(`the TPM does not take the sealed object (${reasonOf(error)})`, error);
  });
  return transient(tpm, handle, sealed.public);
}

async function unsealObject(tpm: Transport, session: Session, object: Entity): Promise<Uint8Array> {
  const { response } = await execute(tpm, unseal, { object }, {}, [{ session, encryptResponse: true }]).catch(
    (error: unknown) => {
      if (!refusedWith(error, rc.policyFail, 0x128)) throw error;
      throw refused("the TPM found the policy not fulfilled", error);
    },
  );
  const key = response.data.slice();
  response.data.fill(0);
  return key;
}

const base64 = (octets: Uint8Array) => Buffer.from(octets).toString("base64");
const hex = (octets: Uint8Array) => Buffer.from(octets).toString("hex");
const fromBase64 = (text: string) => new Uint8Array(Buffer.from(text, "base64"));
const fromHex = (text: string) => new Uint8Array(Buffer.from(text, "hex"));
