/** The execution of a TPM command: header, handles, authorizations, parameters (TCG Library Part 1, 18). */
import { decode, decodeFirst, encode, struct, u16, u32 } from "../bytes/struct.ts";
import {
  authorizationArea,
  checkSessions,
  commandMaxBytes,
  encryptParameters,
  forged,
  type Pass,
  planPasses,
  type Use,
} from "./authorization.ts";
import type { Command } from "./command.ts";
import { joined, u32Octets } from "./crypto.ts";
import { rc, refusalError } from "./response-code.ts";
import type { Entity } from "./session.ts";
import type { Transport } from "./transport.ts";

export type Answer<Response> = {
  /** The new handle, where the command creates one; else 0. */
  readonly handle: number;
  readonly response: Response;
};

const sessionsTag = 0x8002;
const plainTag = 0x8001;
const header = struct({ tag: u16, length: u32, code: u32 });

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

type Sent = { readonly octets: Uint8Array; readonly passes: readonly (Pass | undefined)[] };

function buildCommand<Handles extends string, Request extends object, Response extends object>(
  is: Command<Handles, Request, Response>,
  entities: readonly Entity[],
  request: Request,
  uses: readonly Use[],
): Sent {
  const passes = planPasses(is, entities, uses);
  const plain = encode(is.request, request, commandMaxBytes);
  const parameters = encryptParameters(is, passes, plain);
  const authorizations = authorizationArea(is, entities, passes, parameters);
  const length = passes.length === 0 ? [] : [u32Octets(authorizations.length)];
  const handles = entities.map((entity) => u32Octets(entity.handle));
  const body = joined(...handles, ...length, authorizations, parameters);
  const tag = passes.length === 0 ? plainTag : sessionsTag;
  const octets = joined(encode(header, { tag, length: 10 + body.length, code: is.code }), body);
  for (const part of [plain, parameters, body]) part.fill(0); // they may hold a key
  return { octets, passes };
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
    const withSessions = sent.passes.length > 0;
    if (tag !== (withSessions ? sessionsTag : plainTag)) throw forged(is.name, "wrong structure tag");
    const parameters = withSessions
      ? checkSessions(is, sent.passes, created.rest)
      : new Uint8Array(created.rest);
    const response = decode(is.response, parameters);
    if (response.is === "refused") throw forged(is.name, response.reason);
    return { handle: created.value, response: response.value };
  } catch (error) {
    // What the TPM made for a response that is not believed must not stay there.
    if (is.creates) await flushQuietly(tpm, created.value);
    throw error;
  }
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
