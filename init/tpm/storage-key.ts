/**
 * The storage root key: TCG TPM v2.0 Provisioning Guidance, 7.5.1, and TCG EK Credential Profile templates H-1 and H-2
 * at 0x81000001. A key that already sits there is used if it is what the template says, and is never evicted
 * otherwise: another system may depend on it. Then, or where nothing can be made persistent, a transient primary of the
 * same template takes its place (the same key each time, as the owner's seed decides it).
 */
import { GimbalError, reasonOf } from "../errors.ts";
import { createPrimary, evictControl, getCapability, readPublic } from "./commands.ts";
import { execute, flushQuietly, type Use } from "./execute.ts";
import { rc, refusedWith } from "./response-code.ts";
import { type Entity, handleEntity, type KeyEntity, nameOf, startSession } from "./session.ts";
import { aes128Cfb, objectBits, type PublicArea, permanentHandles } from "./structures.ts";
import type { Transport } from "./transport.ts";

export const storageKeyHandle = 0x81000001;

export type StorageKeyType = "ecc" | "rsa";

const storageBits =
  objectBits.fixedTpm |
  objectBits.fixedParent |
  objectBits.sensitiveDataOrigin |
  objectBits.userWithAuth |
  objectBits.noDa |
  objectBits.restricted |
  objectBits.decrypt;

const head = { nameAlg: "sha256", attributes: storageBits, authPolicy: new Uint8Array() } as const;

/** The template, with the unique field that a primary's derivation starts from: zeros of the key's length. */
export const storageTemplates: Readonly<Record<StorageKeyType, PublicArea>> = {
  ecc: {
    is: "ecc",
    ...head,
    symmetric: aes128Cfb,
    scheme: { is: "none" },
    curve: "p256",
    kdf: { is: "none" },
    point: { x: new Uint8Array(32), y: new Uint8Array(32) },
  },
  rsa: {
    is: "rsa",
    ...head,
    symmetric: aes128Cfb,
    scheme: { is: "none" },
    keyBits: 2048,
    exponent: 0,
    modulus: new Uint8Array(256),
  },
};

/** True where `area` is the template but for its unique field. */
export function fitsTemplate(area: PublicArea, type: StorageKeyType): boolean {
  const template = storageTemplates[type];
  const blank: PublicArea =
    area.is === "ecc" && template.is === "ecc"
      ? { ...area, point: template.point }
      : area.is === "rsa" && template.is === "rsa"
        ? { ...area, modulus: template.modulus }
        : area;
  return sameOctets(nameOf(blank), nameOf(template));
}

/** The public area at a handle, its name computed here from what was read; undefined where there is nothing. */
export async function readKey(tpm: Transport, handle: number): Promise<KeyEntity | undefined> {
  try {
    const { response } = await execute(tpm, readPublic, { object: handleEntity(handle) }, {});
    return { handle, name: nameOf(response.public), public: response.public };
  } catch (error) {
    if (refusedWith(error, rc.handle)) return undefined;
    throw error;
  }
}

/** A storage key in use. `persistent` says whether it sits at its handle; a transient one goes when disposed of. */
export type StorageKey = KeyEntity & AsyncDisposable & { readonly persistent: boolean };

/** Which key types this TPM can make: ECC P-256 wherever there is one. */
export async function storageKeyType(tpm: Transport): Promise<StorageKeyType> {
  const { response } = await execute(tpm, getCapability, {}, { capability: 8, property: 0, count: 508 });
  return response.data.is === "curves" && response.data.list.includes(0x0003) ? "ecc" : "rsa";
}

/**
 * The storage root key: the one at its handle if it fits, else one that is made and, where nothing is there, made
 * persistent. The caller disposes of it.
 * @param ownerAuth the owner hierarchy's auth value, empty by default
 */
export async function ensureSrk(
  tpm: Transport,
  type?: StorageKeyType,
  ownerAuth?: Uint8Array,
): Promise<StorageKey> {
  const wanted = type ?? (await storageKeyType(tpm));
  const present = await readKey(tpm, storageKeyHandle);
  if (present && fitsTemplate(present.public, wanted)) return persistentKey(present);
  const made = await makePrimary(tpm, wanted, ownerAuth);
  if (present) return made;
  const kept = await keep(tpm, made, ownerAuth);
  return kept ?? made;
}

/** The storage key with this name: at its handle or made anew. Undefined: this TPM does not have it. */
export async function findSrk(
  tpm: Transport,
  type: StorageKeyType,
  name: Uint8Array,
  ownerAuth?: Uint8Array,
): Promise<StorageKey | undefined> {
  const present = await readKey(tpm, storageKeyHandle);
  if (present && sameOctets(present.name, name)) return persistentKey(present);
  const made = await makePrimary(tpm, type, ownerAuth);
  if (sameOctets(made.name, name)) return made;
  await made[Symbol.asyncDispose]();
  return undefined;
}

/** A transient primary by the template. */
export async function makePrimary(
  tpm: Transport,
  type: StorageKeyType,
  ownerAuth?: Uint8Array,
): Promise<StorageKey> {
  const request = {
    sensitive: { auth: new Uint8Array(), data: new Uint8Array() },
    public: storageTemplates[type],
    outsideInfo: new Uint8Array(),
    pcrs: [],
  };
  const { handle, response } = await asOwner(tpm, ownerAuth, (hierarchy, uses) =>
    execute(tpm, createPrimary, { hierarchy }, request, uses),
  ).catch((error: unknown) => {
    if (!refusedWith(error, rc.badAuth, rc.authFail)) throw error;
    throw new GimbalError(
      "tpm-failure",
      {
        tried: "make the storage key in",
        on: "the TPM",
        why: "its owner hierarchy has an auth value that this device does not know",
        todo: "clear the TPM in the firmware menu (what others sealed in it is lost), or set the owner auth back",
      },
      error,
    );
  });
  const area = response.public;
  let open = true;
  const key = { handle, name: nameOf(area), public: area, persistent: false };
  const dispose = async () => {
    if (!open) return;
    open = false;
    await flushQuietly(tpm, handle);
  };
  if (!fitsTemplate(area, type)) {
    await dispose();
    throw new GimbalError("tpm-failure", {
      tried: "make the storage key in",
      on: "the TPM",
      why: "the TPM made another key than it was asked for",
    });
  }
  return { ...key, [Symbol.asyncDispose]: dispose };
}

/** Runs a command of the owner: with its auth value in an HMAC session, where there is one. */
async function asOwner<T>(
  tpm: Transport,
  ownerAuth: Uint8Array | undefined,
  run: (hierarchy: Entity, uses: readonly Use[]) => Promise<T>,
): Promise<T> {
  const hierarchy = handleEntity(permanentHandles.owner, ownerAuth);
  if (!ownerAuth?.length) return run(hierarchy, []);
  // Not salted: what a salt would be made for is only about to be made. The value itself never crosses the bus.
  await using session = await startSession(tpm, "hmac");
  return await run(hierarchy, [{ session }]);
}

function persistentKey(key: KeyEntity): StorageKey {
  return { ...key, persistent: true, [Symbol.asyncDispose]: async () => undefined };
}

/** Makes a primary persistent; undefined where the TPM has no room, and the transient one stays in use. */
async function keep(
  tpm: Transport,
  made: StorageKey,
  ownerAuth?: Uint8Array,
): Promise<StorageKey | undefined> {
  try {
    await asOwner(tpm, ownerAuth, (hierarchy, uses) =>
      execute(tpm, evictControl, { hierarchy, object: made }, { persistent: storageKeyHandle }, uses),
    );
  } catch (error) {
    if (refusedWith(error, rc.nvSpace, rc.nvDefined)) return undefined;
    await made[Symbol.asyncDispose]();
    throw new GimbalError(
      "tpm-failure",
      { tried: "keep the storage key in", on: "the TPM", why: reasonOf(error) },
      error,
    );
  }
  await made[Symbol.asyncDispose]();
  return persistentKey({ handle: storageKeyHandle, name: made.name, public: made.public });
}

/** Compares public octets. */
export function sameOctets(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((octet, index) => octet === b[index]);
}
