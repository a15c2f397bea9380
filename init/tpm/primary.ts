/**
 * Primary keys at a fixed handle. A key that already sits there is used if it is what the template says, and is never
 * evicted otherwise: another system may depend on it. Then, or where nothing can be made persistent, a transient primary
 * of the same template takes its place (the same key each time, as the hierarchy's seed decides it).
 */
import { GimbalError, reasonOf } from "../errors.ts";
import type { Use } from "./authorization.ts";
import { createPrimary, evictControl, readPublic } from "./commands.ts";
import { sameOctets } from "./crypto.ts";
import { execute, flushQuietly } from "./execute.ts";
import { rc, refusedWith } from "./response-code.ts";
import { type Entity, handleEntity, type KeyEntity, nameOf, startSession } from "./session.ts";
import { type PublicArea, permanentHandles } from "./structures.ts";
import type { Transport } from "./transport.ts";

/** What a primary key is and where it is kept. */
export type PrimaryKind = {
  /** For sentences: "the storage key". */
  readonly what: string;
  readonly handle: number;
  readonly hierarchy: "owner" | "endorsement";
  /** With the unique field that the derivation starts from. */
  readonly template: PublicArea;
};

/** Auth values of hierarchies, empty where not given. */
export type HierarchyAuths = { readonly owner?: Uint8Array; readonly endorsement?: Uint8Array };

/** A primary key in use. `persistent` says whether it sits at its handle; a transient one goes when disposed of. */
export type PrimaryKey = KeyEntity & AsyncDisposable & { readonly persistent: boolean };

/** The key at its handle if it fits, else one that is made and, where nothing is there, made persistent. The caller disposes of it. */
export async function ensurePrimary(
  tpm: Transport,
  kind: PrimaryKind,
  auths: HierarchyAuths = {},
): Promise<PrimaryKey> {
  const present = await readKey(tpm, kind.handle);
  if (present && fitsTemplate(present.public, kind.template)) return persistentKey(present);
  const made = await makePrimary(tpm, kind, auths);
  if (present) return made;
  return (await keep(tpm, kind, made, auths)) ?? made;
}

/** The key with this name: at its handle or made anew. Undefined: this TPM does not have it. */
export async function findPrimary(
  tpm: Transport,
  kind: PrimaryKind,
  name: Uint8Array,
  auths: HierarchyAuths = {},
): Promise<PrimaryKey | undefined> {
  const present = await readKey(tpm, kind.handle);
  if (present && sameOctets(present.name, name)) return persistentKey(present);
  const made = await makePrimary(tpm, kind, auths);
  if (sameOctets(made.name, name)) return made;
  await made[Symbol.asyncDispose]();
  return undefined;
}

/** A transient primary by the template. The caller disposes of it. */
export async function makePrimary(
  tpm: Transport,
  kind: PrimaryKind,
  auths: HierarchyAuths = {},
): Promise<PrimaryKey> {
  const request = {
    sensitive: { auth: new Uint8Array(), data: new Uint8Array() },
    public: kind.template,
    outsideInfo: new Uint8Array(),
    pcrs: [],
  };
  const { handle, response } = await inHierarchy(tpm, kind.hierarchy, auths, (hierarchy, uses) =>
    execute(tpm, createPrimary, { hierarchy }, request, uses),
  ).catch((error: unknown) => {
    if (!refusedWith(error, rc.badAuth, rc.authFail)) throw error;
    throw new GimbalError(
      "tpm-failure",
      {
        tried: `make ${kind.what} in`,
        on: "the TPM",
        why: `its ${kind.hierarchy} hierarchy has an auth value that this device does not know`,
        todo: "clear the TPM in the firmware menu (what others sealed in it is lost), or set that auth value back",
      },
      error,
    );
  });
  const area = response.public;
  let open = true;
  const dispose = async () => {
    if (!open) return;
    open = false;
    await flushQuietly(tpm, handle);
  };
  if (!fitsTemplate(area, kind.template)) {
    await dispose();
    throw new GimbalError("tpm-failure", {
      tried: `make ${kind.what} in`,
      on: "the TPM",
      why: "the TPM made another key than it was asked for",
    });
  }
  return { handle, name: nameOf(area), public: area, persistent: false, [Symbol.asyncDispose]: dispose };
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

/** True where `area` is the template but for its unique field. */
export function fitsTemplate(area: PublicArea, template: PublicArea): boolean {
  const blank: PublicArea =
    area.is === "ecc" && template.is === "ecc"
      ? { ...area, point: template.point }
      : area.is === "rsa" && template.is === "rsa"
        ? { ...area, modulus: template.modulus }
        : area;
  return sameOctets(nameOf(blank), nameOf(template));
}

/** Runs a command of a hierarchy: with its auth value in an HMAC session, where there is one. */
async function inHierarchy<T>(
  tpm: Transport,
  hierarchy: PrimaryKind["hierarchy"],
  auths: HierarchyAuths,
  run: (hierarchy: Entity, uses: readonly Use[]) => Promise<T>,
): Promise<T> {
  const entity = handleEntity(permanentHandles[hierarchy], auths[hierarchy]);
  if (!entity.auth?.length) return run(entity, []);
  // Not salted: what a salt would be made for is only about to be made. The value itself never crosses the bus.
  await using session = await startSession(tpm, "hmac");
  return await run(entity, [{ session }]);
}

function persistentKey(key: KeyEntity): PrimaryKey {
  return { ...key, persistent: true, [Symbol.asyncDispose]: async () => undefined };
}

/** Makes a primary persistent; undefined where the TPM has no room, and the transient one stays in use. */
async function keep(
  tpm: Transport,
  kind: PrimaryKind,
  made: PrimaryKey,
  auths: HierarchyAuths,
): Promise<PrimaryKey | undefined> {
  try {
    await inHierarchy(tpm, "owner", auths, (hierarchy, uses) =>
      execute(tpm, evictControl, { hierarchy, object: made }, { persistent: kind.handle }, uses),
    );
  } catch (error) {
    if (refusedWith(error, rc.nvSpace, rc.nvDefined)) return undefined;
    await made[Symbol.asyncDispose]();
    throw new GimbalError(
      "tpm-failure",
      { tried: `keep ${kind.what} in`, on: "the TPM", why: reasonOf(error) },
      error,
    );
  }
  await made[Symbol.asyncDispose]();
  return persistentKey({ handle: kind.handle, name: made.name, public: made.public });
}
