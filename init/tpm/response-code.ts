/** TPM_RC as sentences, TCG Library Part 2, 6.6. */
import { GimbalError } from "../errors.ts";

/** What a response code says, taken apart. */
export type ResponseCode = {
  /** As it came. */
  readonly code: number;
  /** Without parameter, handle or session number: compare this one. */
  readonly base: number;
  /** "TPM_RC_POLICY_FAIL" */
  readonly name: string;
  readonly meaning: string;
  /** "parameter 2", "handle 1", "session 1", or nothing. */
  readonly place?: string;
};

type Row = readonly [number, string, string];

/** RC_VER1: format 0, errors. */
const version1: readonly Row[] = [
  [0x100, "TPM_RC_INITIALIZE", "the TPM was not started, or was started twice"],
  [0x101, "TPM_RC_FAILURE", "the TPM is in failure mode; it works again only after a reset, if at all"],
  [0x103, "TPM_RC_SEQUENCE", "a command came out of order"],
  [0x119, "TPM_RC_PRIVATE", "a private area cannot be used"],
  [0x120, "TPM_RC_DISABLED", "the command is disabled"],
  [0x121, "TPM_RC_EXCLUSIVE", "an exclusive audit session was interrupted"],
  [0x124, "TPM_RC_AUTH_TYPE", "the authorization is of the wrong type"],
  [0x125, "TPM_RC_AUTH_MISSING", "an authorization is missing"],
  [0x126, "TPM_RC_POLICY", "a comparison in the policy failed"],
  [0x127, "TPM_RC_PCR", "the PCR check failed"],
  [0x128, "TPM_RC_PCR_CHANGED", "a PCR changed since it was checked"],
  [0x12d, "TPM_RC_UPGRADE", "the TPM's firmware is being upgraded"],
  [0x12e, "TPM_RC_TOO_MANY_CONTEXTS", "too many contexts are saved"],
  [0x12f, "TPM_RC_AUTH_UNAVAILABLE", "the object has no auth value that could be used"],
  [0x130, "TPM_RC_REBOOT", "the TPM asks for a reset of the machine"],
  [0x131, "TPM_RC_UNBALANCED", "the key sizes do not match"],
  [0x142, "TPM_RC_COMMAND_SIZE", "the command's length is wrong"],
  [0x143, "TPM_RC_COMMAND_CODE", "this TPM does not have the command"],
  [0x144, "TPM_RC_AUTHSIZE", "the authorization area's length is wrong"],
  [0x145, "TPM_RC_AUTH_CONTEXT", "the command takes no authorization"],
  [0x146, "TPM_RC_NV_RANGE", "the NV offset or size is out of range"],
  [0x147, "TPM_RC_NV_SIZE", "the NV size is wrong"],
  [0x148, "TPM_RC_NV_LOCKED", "the NV index is locked"],
  [0x149, "TPM_RC_NV_AUTHORIZATION", "the NV index may not be used with this authorization"],
  [0x14a, "TPM_RC_NV_UNINITIALIZED", "the NV index was never written"],
  [0x14b, "TPM_RC_NV_SPACE", "there is no room in the TPM's NV memory"],
  [0x14c, "TPM_RC_NV_DEFINED", "the NV index or persistent handle is taken"],
  [0x150, "TPM_RC_BAD_CONTEXT", "a saved context cannot be loaded"],
  [0x151, "TPM_RC_CPHASH", "the policy is bound to another command"],
  [0x152, "TPM_RC_PARENT", "the parent handle is no parent"],
  [0x153, "TPM_RC_NEEDS_TEST", "a function must be tested first"],
  [0x154, "TPM_RC_NO_RESULT", "an internal step gave no result"],
  [0x155, "TPM_RC_SENSITIVE", "the private area does not fit its public area"],
];

/** RC_FMT1: with a parameter, handle or session number. */
const format1: readonly Row[] = [
  [0x081, "TPM_RC_ASYMMETRIC", "the asymmetric algorithm is not supported"],
  [0x082, "TPM_RC_ATTRIBUTES", "the attributes are inconsistent"],
  [0x083, "TPM_RC_HASH", "the hash algorithm is not supported"],
  [0x084, "TPM_RC_VALUE", "a value is out of range or does not fit its use"],
  [0x085, "TPM_RC_HIERARCHY", "the hierarchy is not enabled or not correct"],
  [0x087, "TPM_RC_KEY_SIZE", "the key size is not supported"],
  [0x088, "TPM_RC_MGF", "the mask generation function is not supported"],
  [0x089, "TPM_RC_MODE", "the mode is not supported"],
  [0x08a, "TPM_RC_TYPE", "the type is not right for this use"],
  [0x08b, "TPM_RC_HANDLE", "there is nothing at this handle"],
  [0x08c, "TPM_RC_KDF", "the key derivation is not supported"],
  [0x08d, "TPM_RC_RANGE", "a value is out of the allowed range"],
  [0x08e, "TPM_RC_AUTH_FAIL", "the authorization is wrong, and was counted against dictionary attacks"],
  [0x08f, "TPM_RC_NONCE", "the nonce has a wrong size"],
  [0x090, "TPM_RC_PP", "physical presence is required"],
  [0x092, "TPM_RC_SCHEME", "the scheme is not supported"],
  [0x095, "TPM_RC_SIZE", "a structure has the wrong size"],
  [0x096, "TPM_RC_SYMMETRIC", "the symmetric algorithm is not supported"],
  [0x097, "TPM_RC_TAG", "the structure tag is wrong"],
  [0x098, "TPM_RC_SELECTOR", "the union selector is wrong"],
  [0x09a, "TPM_RC_INSUFFICIENT", "the structure ends too early"],
  [0x09b, "TPM_RC_SIGNATURE", "the signature is not valid"],
  [0x09c, "TPM_RC_KEY", "the key does not fit this use"],
  [0x09d, "TPM_RC_POLICY_FAIL", "the object's policy is not fulfilled"],
  [0x09f, "TPM_RC_INTEGRITY", "the integrity check failed: it was made under another parent"],
  [0x0a0, "TPM_RC_TICKET", "the ticket is not valid"],
  [0x0a1, "TPM_RC_RESERVED_BITS", "a reserved bit is set"],
  [0x0a2, "TPM_RC_BAD_AUTH", "the authorization is wrong"],
  [0x0a3, "TPM_RC_EXPIRED", "the policy has expired"],
  [0x0a4, "TPM_RC_POLICY_CC", "the policy is for another command"],
  [0x0a5, "TPM_RC_BINDING", "public and private area do not belong together"],
  [0x0a6, "TPM_RC_CURVE", "the curve is not supported"],
  [0x0a7, "TPM_RC_ECC_POINT", "the point is not on the curve"],
];

/** RC_WARN: nothing is wrong with the command. */
const warnings: readonly Row[] = [
  [0x901, "TPM_RC_CONTEXT_GAP", "the gap between saved contexts is too large"],
  [0x902, "TPM_RC_OBJECT_MEMORY", "there is no free slot for objects"],
  [0x903, "TPM_RC_SESSION_MEMORY", "there is no free slot for sessions"],
  [0x904, "TPM_RC_MEMORY", "the TPM is out of memory"],
  [0x905, "TPM_RC_SESSION_HANDLES", "all session handles are in use"],
  [0x906, "TPM_RC_OBJECT_HANDLES", "all object handles are in use"],
  [0x907, "TPM_RC_LOCALITY", "the locality is wrong"],
  [0x908, "TPM_RC_YIELDED", "the TPM stopped half-way and asks for another try"],
  [0x909, "TPM_RC_CANCELED", "the command was cancelled"],
  [0x90a, "TPM_RC_TESTING", "the TPM is testing itself"],
  [0x910, "TPM_RC_REFERENCE_H0", "handle 1 is not loaded"],
  [0x911, "TPM_RC_REFERENCE_H1", "handle 2 is not loaded"],
  [0x912, "TPM_RC_REFERENCE_H2", "handle 3 is not loaded"],
  [0x918, "TPM_RC_REFERENCE_S0", "session 1 is not loaded"],
  [0x919, "TPM_RC_REFERENCE_S1", "session 2 is not loaded"],
  [0x920, "TPM_RC_NV_RATE", "NV memory is written too often; the TPM asks to wait"],
  [0x921, "TPM_RC_LOCKOUT", "the TPM is locked against dictionary attacks"],
  [0x922, "TPM_RC_RETRY", "the TPM is busy and asks for another try"],
  [0x923, "TPM_RC_NV_UNAVAILABLE", "NV memory cannot be written now"],
];

/** TPM 1.2 answers a TPM 2.0 command with TPM_BADTAG. */
const oldTpm: Row = [0x01e, "TPM_BAD_TAG", "this is a TPM 1.2; a TPM 2.0 is needed"];

const rows = new Map(
  [...version1, ...format1, ...warnings, oldTpm].map(([code, name, meaning]) => [code, { name, meaning }]),
);

/** Response codes that decide something, by name. */
export const rc = {
  policy: 0x126,
  nvSpace: 0x14b,
  nvDefined: 0x14c,
  handle: 0x08b,
  authFail: 0x08e,
  signature: 0x09b,
  policyFail: 0x09d,
  integrity: 0x09f,
  badAuth: 0x0a2,
  value: 0x084,
  objectMemory: 0x902,
  yielded: 0x908,
  testing: 0x90a,
  lockout: 0x921,
  nvRate: 0x920,
  retry: 0x922,
} as const;

/** Takes any response code apart; unknown ones keep their number. */
export function explainResponseCode(code: number): ResponseCode {
  const base = code & 0x80 ? 0x80 | (code & 0x3f) : code;
  const row = rows.get(base);
  const parts = {
    code,
    base,
    name: row?.name ?? `TPM_RC 0x${code.toString(16)}`,
    meaning: row?.meaning ?? `the TPM answered with the unknown code 0x${code.toString(16)}`,
  };
  if (!(code & 0x80)) return parts;
  const number = (code >> 8) & 0xf;
  if (code & 0x40) return { ...parts, place: `parameter ${number}` };
  if (number === 0) return parts;
  return { ...parts, place: number & 8 ? `session ${number & 7}` : `handle ${number}` };
}

/** The TPM's refusal of a command: facts only, always the cause of a GimbalError. */
export class TpmRefusal extends Error {
  override readonly name = "TpmRefusal";
  readonly command: string;
  readonly response: ResponseCode;

  constructor(command: string, response: ResponseCode) {
    super(`${command}: ${response.name}`);
    this.command = command;
    this.response = response;
  }
}

/** The refusal behind an error of a TPM command, if the TPM itself refused. */
export function refusalOf(error: unknown): TpmRefusal | undefined {
  for (let at = error, depth = 0; at instanceof Error && depth < 8; at = at.cause, depth++) {
    if (at instanceof TpmRefusal) return at;
  }
  return undefined;
}

/** True where the TPM refused with one of these base codes. */
export function refusedWith(error: unknown, ...bases: readonly number[]): boolean {
  const refusal = refusalOf(error);
  return refusal !== undefined && bases.includes(refusal.response.base);
}

/** The error that a refused command becomes. */
export function refusalError(command: string, code: number): GimbalError {
  const response = explainResponseCode(code);
  const place = response.place ? `, ${response.place}` : "";
  const why = `${response.meaning} (${response.name}${place})`;
  const todo = todoFor(response.base);
  return new GimbalError(
    "tpm-failure",
    { tried: "run", on: command, why, ...(todo ? { todo } : {}) },
    new TpmRefusal(command, response),
  );
}

function todoFor(base: number): string | undefined {
  switch (base) {
    case rc.lockout:
      return "leave the device switched on until the lockout time is over, or clear the TPM in the firmware menu";
    case rc.nvSpace:
      return "free NV indices or persistent keys that another system left in this TPM";
    case 0x101:
      return "switch the device off and on; if it stays so the TPM is defective";
    default:
      return undefined;
  }
}
