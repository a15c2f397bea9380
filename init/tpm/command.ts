/** What a TPM command is: a value, declared once (commands.ts), that is executed (execute.ts) and shown by its name. */
import type { Codec } from "../bytes/struct.ts";

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
