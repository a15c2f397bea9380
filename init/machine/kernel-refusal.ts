/** A refused system call as a GimbalError: the addon gives facts, the sentence is made here. */
import { GimbalError, quoted, reasonOf } from "../errors.ts";

/** `cannot <tried> <on>: <what the kernel said>`, code "kernel-refused"; a GimbalError passes unchanged. */
export function kernelRefusal(tried: string, on: string, error: unknown, todo?: string): GimbalError {
  if (error instanceof GimbalError) return error;
  return new GimbalError(
    "kernel-refused",
    { tried, on, why: kernelReason(error), ...(todo ? { todo } : {}) },
    error,
  );
}

/** "fsmount gave EBUSY (...)": the step, its errno by name, and what the file system wrote about it. */
export function kernelReason(error: unknown): string {
  if (!(error instanceof Error) || !("code" in error) || !("syscall" in error))
    return quoted(reasonOf(error));
  const detail =
    "detail" in error && typeof error.detail === "string" && error.detail !== "" ? error.detail : undefined;
  return `${String(error.syscall)} gave ${String(error.code)}${detail ? ` (${quoted(detail.trim())})` : ""}`;
}

/** True where `error` carries one of these errno names. */
export function isErrno(error: unknown, ...names: readonly string[]): boolean {
  return error instanceof Error && "code" in error && names.includes(String(error.code));
}
