/** The errors of sealing and unsealing. */
import { type ErrorCode, GimbalError } from "../errors.ts";

const diskKey = "the key of the system disk";
const recover = "boot a release that fits, or enter the recovery key";

const error = (code: ErrorCode, tried: string, why: string, todo?: string, cause?: unknown) =>
  new GimbalError(code, { tried, on: diskKey, why, ...(todo ? { todo } : {}) }, cause);
/** The TPM did something else than it was asked for. */
export const failure = (tried: string, why: string) => error("tpm-failure", tried, why);
/** The policy is not fulfilled. */
export const refused = (why: string, cause?: unknown) =>
  error("tpm-policy-refused", "unseal", why, recover, cause);
/** The object is not one of this TPM. */
export const foreign = (why: string, cause?: unknown) =>
  error(
    "tpm-object-foreign",
    "unseal",
    `${why}: the TPM was cleared, or the disk belongs to another device`,
    "enter the recovery key, then seal again",
    cause,
  );
