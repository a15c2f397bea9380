/**
 * The addon's contract as an interface. Only main.ts (and tests) load the addon; everything else takes a
 * `Kernel` as its first parameter, so that a test can make the n-th call fail.
 *
 * Every descriptor that is returned is O_CLOEXEC and owned by the caller (close it with fs.closeSync).
 * Every function throws a SyscallError. Paths are strings, flags are the kernel's own bits.
 */

/** What the addon throws: facts only, the sentences are made in TypeScript. */
export interface SyscallError extends Error {
  /** "EBUSY" */
  readonly code: string;
  /** 16 */
  readonly errno: number;
  /** "fsmount" */
  readonly syscall: string;
  /** What the call was made on: a path, a device. */
  readonly on: string;
  /** What the kernel wrote into the context's log, where there is one. */
  readonly detail?: string;
}
