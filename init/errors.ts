/**
 * The one error type of gimbal. A refusal is a GimbalError; a bug is an assertion.
 * Every code here has a row in docs/errors.md (the house test compares the two).
 */

/** Stable codes: tests, clients and scripts read these, never the sentence. One per line, sorted. */
export const errorCodes = [
  "answer-too-large",
  "audit-failed",
  "bad-argument",
  "build-failed",
  "busy",
  "ca-refused",
  "capability-refused",
  "command-forbidden",
  "command-unknown",
  "config-refused",
  "connection-lost",
  "container-exists",
  "container-protected",
  "container-state",
  "container-unknown",
  "disk-absent",
  "disk-duplicate",
  "disk-emptied",
  "disk-foreign",
  "disk-full",
  "exec-failed",
  "filesystem-damaged",
  "guestos-altered",
  "guestos-chain",
  "guestos-expired",
  "guestos-hardware",
  "guestos-in-use",
  "guestos-incomplete",
  "guestos-role",
  "guestos-signature",
  "guestos-unknown",
  "guestos-untrusted",
  "guestos-version",
  "image-incomplete",
  "image-malformed",
  "image-truncated",
  "internal",
  "kernel-refused",
  "limit-unavailable",
  "log-damaged",
  "luks-header-damaged",
  "luks-header-foreign",
  "luks-key-refused",
  "manifest-malformed",
  "mount-point-missing",
  "netlink-refused",
  "no-id-range",
  "not-found",
  "not-measured",
  "not-provisioned",
  "recovery-key-refused",
  "request-malformed",
  "start-failed",
  "start-timeout",
  "state-failed",
  "state-too-large",
  "tool-failed",
  "tpm-absent",
  "tpm-failure",
  "tpm-object-foreign",
  "tpm-policy-refused",
  "unsupported",
  "verity-mismatch",
  "verity-signature",
] as const;

export type ErrorCode = (typeof errorCodes)[number];

/** `cannot <tried> <on>: <why>; <todo>`. Text from outside goes through `quoted` first; keys never enter. */
export type Sentence = {
  readonly tried: string;
  readonly on: string;
  readonly why: string;
  readonly todo?: string;
};

/** An operation that was refused or failed, with a stable code and a sentence for a person. */
export class GimbalError extends Error {
  override readonly name = "GimbalError";
  readonly code: ErrorCode;

  constructor(code: ErrorCode, is: Sentence, cause?: unknown) {
    super(`cannot ${is.tried} ${is.on}: ${is.why}${is.todo ? `; ${is.todo}` : ""}`, { cause });
    this.code = code;
  }
}

/** True where `error` is a GimbalError with this code. */
export function hasCode(error: unknown, code: ErrorCode): error is GimbalError {
  return error instanceof GimbalError && error.code === code;
}

/** Text from outside, made safe for a sentence or a terminal: escaped, and cut to 64 characters. */
export function quoted(text: string): string {
  const cut = text.length > 64 ? `${text.slice(0, 64)}...` : text;
  return JSON.stringify(cut).replace(
    /[\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
    (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** The sentence of any thrown value, for a log line or the end of another sentence. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
