/**
 * The authorizations of a command and of its response (TCG Library Part 1, 18 and 19): session HMACs are made and
 * checked, nonces rolled, parameters encrypted.
 */
import { timingSafeEqual } from "node:crypto";
import { decodeFirst, encode, sized, struct, u8, u16, u32 } from "../bytes/struct.ts";
import { GimbalError } from "../errors.ts";
import { cipherParameter, hashOf, hmacOf, joined, u32Octets } from "./crypto.ts";
import type { Entity, Session } from "./session.ts";
import { permanentHandles } from "./structures.ts";

/** A session's part in one command. */
export type Use = {
  readonly session: Session;
  /** The session encrypts the first parameter of the command (needs a sized one). */
  readonly encryptCommand?: boolean;
  /** The TPM encrypts the first parameter of the response. */
  readonly encryptResponse?: boolean;
  /** The auth value that the command sets: the response's HMAC is made with it already. */
  readonly newAuth?: Uint8Array;
};

/** A session in one command, with what its response is checked against. */
export type Pass = Use & {
  readonly nonceCaller: Uint8Array;
  readonly attributes: number;
  readonly auth: Uint8Array;
};

/** The parts of a command that authorizations need. */
type Called = { readonly name: string; readonly code: number; readonly authorized: number };

/** Commands and responses of PC client TPMs. */
export const commandMaxBytes = 4096;
const sessionArea = struct({
  session: u32,
  nonce: sized(u16, 64),
  attributes: u8,
  hmac: sized(u16, 64),
});
const sessionAnswer = struct({ nonce: sized(u16, 64), attributes: u8, hmac: sized(u16, 64) });
const attributeBits = { continueSession: 0x01, decrypt: 0x20, encrypt: 0x40 } as const;

/** The error of a response that is not believed. */
export const forged = (name: string, why: string) =>
  new GimbalError("tpm-failure", {
    tried: "run",
    on: name,
    why: `the response was malformed or altered on its way (${why})`,
  });

const none = new Uint8Array();

/** What each authorization of a command will be; undefined is the empty password. */
export function planPasses(
  is: Called,
  entities: readonly Entity[],
  uses: readonly Use[],
): readonly (Pass | undefined)[] {
  const count = Math.max(is.authorized, uses.length);
  return Array.from({ length: count }, (_, index) => {
    const auth = index < is.authorized ? (entities[index]?.auth ?? none) : none;
    const use = uses[index];
    if (!use) {
      // A password would cross the bus in the clear; an auth value only ever goes into an HMAC.
      if (auth.length > 0) throw new Error(`${is.name}: an auth value needs a session`);
      return undefined;
    }
    const attributes =
      attributeBits.continueSession |
      (use.encryptCommand ? attributeBits.decrypt : 0) |
      (use.encryptResponse ? attributeBits.encrypt : 0);
    return { ...use, nonceCaller: use.session.freshNonce(), attributes, auth };
  });
}

/** Part 1, 19.6.5: the first session's HMAC also covers the nonces of other sessions that encrypt. */
function foreignNonces(passes: readonly (Pass | undefined)[]): readonly Uint8Array[] {
  const decrypting = passes.findIndex((pass) => pass?.encryptCommand);
  const encrypting = passes.findIndex((pass) => pass?.encryptResponse);
  const nonces: Uint8Array[] = [];
  if (decrypting > 0) nonces.push(passes[decrypting]?.session.nonceTpm ?? none);
  if (encrypting > 0 && encrypting !== decrypting) nonces.push(passes[encrypting]?.session.nonceTpm ?? none);
  return nonces;
}

/** Encrypts or decrypts the content of the first parameter, which must be a sized one. */
function cipherFirst(
  direction: string,
  name: string,
  parameters: Uint8Array,
  apply: (octets: Uint8Array) => Uint8Array,
): Uint8Array {
  const first = decodeFirst(sized(u16, commandMaxBytes), parameters);
  if (first.is === "refused") throw forged(name, `no sized parameter to ${direction}`);
  return joined(parameters.subarray(0, 2), apply(first.value), first.rest);
}

/** Encrypts the first parameter where a session says so. */
export function encryptParameters(
  is: Called,
  passes: readonly (Pass | undefined)[],
  parameters: Uint8Array,
): Uint8Array {
  const pass = passes.find((each) => each?.encryptCommand);
  if (!pass) return parameters;
  const { session, nonceCaller, auth } = pass;
  return cipherFirst("encrypt", is.name, parameters, (octets) =>
    cipherParameter(
      "encrypt",
      session.hash,
      joined(session.key, auth),
      nonceCaller,
      session.nonceTpm,
      octets,
    ),
  );
}

/** The authorization area over parameters that are encrypted already; empty where there is none. */
export function authorizationArea(
  is: Called,
  entities: readonly Entity[],
  passes: readonly (Pass | undefined)[],
  parameters: Uint8Array,
): Uint8Array {
  const areas = passes.map((pass, index) => {
    if (!pass) {
      const password = { session: permanentHandles.password, nonce: none, attributes: 0, hmac: none };
      return encode(sessionArea, password);
    }
    const { session, nonceCaller, attributes, auth } = pass;
    const names = entities.map((entity) => entity.name);
    const parameterHash = hashOf(session.hash, u32Octets(is.code), ...names, parameters);
    const hmac = hmacOf(
      session.hash,
      hmacKey(pass, auth),
      parameterHash,
      nonceCaller,
      session.nonceTpm,
      ...(index === 0 ? foreignNonces(passes) : []),
      Uint8Array.of(attributes),
    );
    return encode(sessionArea, { session: session.handle, nonce: nonceCaller, attributes, hmac });
  });
  return joined(...areas);
}

/** An auth value keys the HMAC of an HMAC session; a policy session's only by PolicyAuthValue, which is not used. */
function hmacKey({ session }: Pass, auth: Uint8Array): Uint8Array {
  return session.kind === "hmac" ? joined(session.key, auth) : session.key;
}

/** Checks each session's HMAC, rolls the nonces, and gives the parameters in the clear. */
export function checkSessions(
  is: Called,
  passes: readonly (Pass | undefined)[],
  octets: Uint8Array,
): Uint8Array {
  const split = decodeFirst(sized(u32, commandMaxBytes), octets);
  if (split.is === "refused") throw forged(is.name, split.reason);
  let parameters = new Uint8Array(split.value);
  let areas = split.rest;
  const rolled: (() => void)[] = [];
  for (const pass of passes) {
    const area = decodeFirst(sessionAnswer, areas);
    if (area.is === "refused") throw forged(is.name, area.reason);
    areas = area.rest;
    if (!pass) continue;
    const { session, nonceCaller } = pass;
    const auth = pass.newAuth ?? pass.auth;
    const { nonce, attributes, hmac } = area.value;
    const parameterHash = hashOf(session.hash, u32Octets(0), u32Octets(is.code), split.value);
    const expected = hmacOf(
      session.hash,
      hmacKey(pass, auth),
      parameterHash,
      nonce,
      nonceCaller,
      Uint8Array.of(attributes),
    );
    const same = hmac.length === expected.length && timingSafeEqual(hmac, expected);
    if (!same) throw forged(is.name, "a session's HMAC does not match");
    if (!(attributes & attributeBits.continueSession)) throw forged(is.name, "the TPM ended a session");
    const nonceTpm = new Uint8Array(nonce);
    if (pass.encryptResponse) {
      parameters = new Uint8Array(
        cipherFirst("decrypt", is.name, parameters, (encrypted) =>
          cipherParameter(
            "decrypt",
            session.hash,
            joined(session.key, auth),
            nonceTpm,
            nonceCaller,
            encrypted,
          ),
        ),
      );
    }
    rolled.push(() => session.roll(nonceTpm));
  }
  if (areas.length > 0) throw forged(is.name, `${areas.length} octets left over`);
  for (const roll of rolled) roll();
  return parameters;
}
