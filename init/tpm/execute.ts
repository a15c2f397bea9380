/**
 * A TPM command as a value, and its execution: header, handles, authorizations, parameters (TCG Library Part 1, 18 and
 * 19). Session HMACs are made and checked in both directions, parameters encrypted where a session says so.
 */
import { timingSafeEqual } from "node:crypto";
import { type Codec, decode, decodeFirst, encode, sized, struct, u8, u16, u32 } from "../bytes/struct.ts";
import { GimbalError } from "../errors.ts";
import { cipherParameter, hashOf, hmacOf, joined, u32Octets } from "./crypto.ts";
import { rc, refusalError } from "./response-code.ts";
import type { Entity, Session } from "./session.ts";
import { permanentHandles } from "./structures.ts";
import type { Transport } from "./transport.ts";

/** What a command is, declared once in commands.ts. */
export type Command<Handles extends string, Request extends object, Response extends object> = {
  readonly name: string;
  readonly code: number;
  /** Handles in their order; the first `authorized` of them need an authorization. */
  readonly handles: readonly Handles[];
  readonly authorized: number;
  readonly request: Codec<Request>;
  /** Whether the response begins with a new handle, given as `handle`. */
  readonly creates: boolean;
  readonly response: Codec<Response>;
};

/** Declares a command. */
export function command<const Handles extends string, Request extends object, Response extends object>(is: {
  readonly name: string;
  readonly code: number;
  readonly handles: readonly Handles[];
  readonly authorized?: number;
  readonly request: Codec<Request>;
  readonly creates?: boolean;
  readonly response: Codec<Response>;
}): Command<Handles, Request, Response> {
  return { authorized: 0, creates: false, ...is };
}

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

export type Answer<Response> = {
  /** The new handle, where the command creates one; else 0. */
  readonly handle: number;
  readonly response: Response;
};

const commandMaxBytes = 4096;
const sessionsTag = 0x8002;
const plainTag = 0x8001;
const header = struct({ tag: u16, length: u32, code: u32 });
const sessionArea = struct({
  session: u32,
  nonce: sized(u16, 64),
  attributes: u8,
  hmac: sized(u16, 64),
});
const sessionAnswer = struct({ nonce: sized(u16, 64), attributes: u8, hmac: sized(u16, 64) });
const attributeBits = { continueSession: 0x01, decrypt: 0x20, encrypt: 0x40 } as const;

/**
 * Executes a command and gives its response.
 *
 * The n-th entry of `uses` authorizes the n-th handle; more entries serve encryption only. A handle without an entry is
 * authorized by its empty auth value. Sessions always survive: whoever opened one disposes of it. When a response that
 * created a handle is refused here, that handle is flushed.
 *
 * Errors: "tpm-failure" with the TPM's refusal as a cause (`refusalOf`), or with none for a response that was forged.
 */
export async function execute<Handles extends string, Request extends object, Response extends object>(
  tpm: Transport,
  is: Command<Handles, Request, Response>,
  handles: Readonly<Record<Handles, Entity>>,
  request: Request,
  uses: readonly Use[] = [],
): Promise<Answer<Response>> {
  const entities = is.handles.map((name) => handles[name]);
  for (let attempt = 0; ; attempt++) {
    const sent = buildCommand(is, entities, request, uses);
    const octets = await tpm.execute(sent.octets);
    sent.octets.fill(0);
    const head = decodeFirst(header, octets);
    if (head.is === "refused") throw forged(is.name, head.reason);
    const { code, tag, length } = head.value;
    if (length !== octets.length) throw forged(is.name, "wrong length");
    if (code === 0) return openResponse(tpm, is, sent, tag, head.rest);
    const wait = attempt < waitsMs.length && mayRetry(code) ? waitsMs[attempt] : undefined;
    if (wait === undefined) throw refusalError(is.name, code);
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

/** How long to wait before each further try: 5 s in all. */
const waitsMs = [5, 20, 75, 200, 700, 1500, 2500];
const mayRetry = (code: number) => code === rc.retry || code === rc.yielded || code === rc.testing;

const forged = (name: string, why: string) =>
  new GimbalError("tpm-failure", {
    tried: "run",
    on: name,
    why: `the response was malformed or altered on its way (${why})`,
  });

type Sent = {
  readonly octets: Uint8Array;
  /** Undefined is the empty password. */
  readonly uses: readonly (Pass | undefined)[];
};
/** A session in one command, with what its response is checked against. */
type Pass = Use & {
  readonly nonceCaller: Uint8Array;
  readonly attributes: number;
  readonly auth: Uint8Array;
};

function buildCommand<Handles extends string, Request extends object, Response extends object>(
  is: Command<Handles, Request, Response>,
  entities: readonly Entity[],
  request: Request,
  uses: readonly Use[],
): Sent {
  const passes = planPasses(is, entities, uses);
  let parameters = encode(is.request, request, commandMaxBytes);
  const encrypting = passes.find((pass) => pass?.encryptCommand);
  if (encrypting) {
    const { session, nonceCaller, auth } = encrypting;
    parameters = cipherFirst("encrypt", is.name, parameters, (octets) =>
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
  const handleOctets = joined(...entities.map((entity) => u32Octets(entity.handle)));
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
      session.kind === "hmac" ? joined(session.key, auth) : session.key,
      parameterHash,
      nonceCaller,
      session.nonceTpm,
      ...(index === 0 ? foreignNonces(passes) : []),
      Uint8Array.of(attributes),
    );
    return encode(sessionArea, { session: session.handle, nonce: nonceCaller, attributes, hmac });
  });
  const authorizations = joined(...areas);
  const body =
    areas.length === 0
      ? joined(handleOctets, parameters)
      : joined(handleOctets, u32Octets(authorizations.length), authorizations, parameters);
  const tag = areas.length === 0 ? plainTag : sessionsTag;
  const octets = joined(encode(header, { tag, length: 10 + body.length, code: is.code }), body);
  parameters.fill(0);
  body.fill(0);
  return { octets, uses: passes };
}

const none = new Uint8Array();

function planPasses(
  is: { readonly name: string; readonly authorized: number },
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

async function openResponse<Handles extends string, Request extends object, Response extends object>(
  tpm: Transport,
  is: Command<Handles, Request, Response>,
  sent: Sent,
  tag: number,
  octets: Uint8Array,
): Promise<Answer<Response>> {
  const created = is.creates ? decodeFirst(u32, octets) : { is: "value" as const, value: 0, rest: octets };
  if (created.is === "refused") throw forged(is.name, created.reason);
  try {
    const withSessions = sent.uses.length > 0;
    if (tag !== (withSessions ? sessionsTag : plainTag)) throw forged(is.name, "wrong structure tag");
    const parameters = withSessions ? checkSessions(is, sent, created.rest) : new Uint8Array(created.rest);
    const response = decode(is.response, parameters);
    if (response.is === "refused") throw forged(is.name, response.reason);
    return { handle: created.value, response: response.value };
  } catch (error) {
    // What the TPM made for a response that is not believed must not stay there.
    if (is.creates) await flushQuietly(tpm, created.value);
    throw error;
  }
}

/** Checks each session's HMAC, rolls the nonces, and gives the parameters in the clear. */
function checkSessions(
  is: { readonly name: string; readonly code: number },
  sent: Sent,
  octets: Uint8Array,
): Uint8Array {
  const split = decodeFirst(sized(u32, commandMaxBytes), octets);
  if (split.is === "refused") throw forged(is.name, split.reason);
  let parameters = new Uint8Array(split.value);
  let areas = split.rest;
  const rolled: (() => void)[] = [];
  for (const pass of sent.uses) {
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
      session.kind === "hmac" ? joined(session.key, auth) : session.key,
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

const flushCode = 0x165;

/**
 * TPM2_FlushContext, twice if need be. For clean-up: its own failure is dropped, since another error is on its way up
 * or the TPM has gone, and then the handle has gone with it.
 */
export async function flushQuietly(tpm: Transport, handle: number): Promise<void> {
  const octets = joined(encode(header, { tag: plainTag, length: 14, code: flushCode }), u32Octets(handle));
  for (let attempt = 0; attempt < 2; attempt++) {
    const done = await tpm.execute(octets.slice()).then(
      (response) =>
        response.length === 10 && new DataView(response.buffer, response.byteOffset).getUint32(6) === 0,
      () => false,
    );
    if (done) return;
  }
}
