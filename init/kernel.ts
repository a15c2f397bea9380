/**
 * The addon's contract as an interface. Only main.ts (and tests) load the addon; everything else takes a
 * `Kernel` as its first parameter, so that a test can make the n-th call fail.
 *
 * Every descriptor that is returned is O_CLOEXEC and owned by the caller (fs.closeSync closes it). Every function
 * throws a SyscallError when the kernel refuses, a TypeError on arguments of the wrong type. Flags are the kernel's
 * own bits, see linux.ts. A `dirFd` of AT_FDCWD means "relative to the working directory".
 */

/** What the addon throws: facts only, the sentences are made in TypeScript. */
export interface SyscallError extends Error {
  /** "EBUSY" */
  readonly code: string;
  /** 16 */
  readonly errno: number;
  /** "fsmount" */
  readonly syscall: string;
  /** What the call was made on: a path, a device; may be empty. */
  readonly on: string;
  /** What the kernel wrote into the context's log, where there is one. */
  readonly detail?: string;
}

/** One option of a file system: a flag (["ro"]) or a string (["size", "64m"]), fsconfig(2). */
export type FsOption = readonly [key: string] | readonly [key: string, value: string];

/** mount_setattr(2); left out means unchanged. */
export type MountAttributes = {
  /** MOUNT_ATTR_* bits to set. */
  readonly set?: number;
  /** MOUNT_ATTR_* bits to clear. */
  readonly clear?: number;
  /** MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE. */
  readonly propagation?: number;
  /** Id-map the mount by this user namespace (sets MOUNT_ATTR_IDMAP). */
  readonly usernsFd?: number;
};

export type LoopDevice = {
  /** Keeps the device attached where `autoclear` was asked for. */
  readonly fd: number;
  /** "/dev/loop3" */
  readonly path: string;
};

/** One line of a device-mapper table. */
export type DmTarget = {
  /** In sectors of 512 octets. */
  readonly start: bigint;
  readonly length: bigint;
  /** "verity" */
  readonly type: string;
  readonly parameters: string;
};

export type DeviceNumber = { readonly major: number; readonly minor: number };

/** siginfo of waitid(2): `code` is CLD_EXITED (1), CLD_KILLED (2) or CLD_DUMPED (3). */
export type WaitStatus = { readonly pid: number; readonly code: number; readonly status: number };

export type WindowSize = { readonly rows: number; readonly columns: number };

/** A descriptor watched by the event loop until `close`. */
export interface Watch {
  close(): void;
  /** The process may end although this watch is open. */
  unref(): void;
}

export type Datagram = {
  readonly data: Uint8Array;
  /** Credentials of the sender as the kernel saw them (SCM_CREDENTIALS), in this process's namespaces. */
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
};

/** clone3(2) of a child that runs the shim. See init/container/spawn.ts, which alone should call it. */
export type CloneRequest = {
  /** CLONE_NEW* bits. */
  readonly namespaces: number;
  /** The cgroup2 directory to be born in, or -1. */
  readonly cgroupFd: number;
  /** The shim's executable. */
  readonly shimFd: number;
  /** Operations as encoded by init/container/plan.ts; checked record by record before the clone. */
  readonly plan: Uint8Array;
  /** Descriptors that the plan names by their index here. */
  readonly slots: readonly number[];
  /** Contents of /proc/PID/uid_map and gid_map; empty without a user namespace. */
  readonly uidMap: string;
  readonly gidMap: string;
  /** Contents of /proc/PID/timens_offsets; may be empty. */
  readonly timeOffsets: string;
};

/** A child that waits until one octet is written to `syncFd`. Closing `syncFd` without that ends it. */
export type Clone = {
  readonly pid: number;
  readonly pidfd: number;
  /** The new user namespace, or -1. */
  readonly usernsFd: number;
  readonly syncFd: number;
  /** End of file: the plan ran up to its exec. Octets: reports of 8, see spawn.ts. */
  readonly reportFd: number;
  /** To be given to `freeJob` once the shim has execed or ended: it holds the stack that the child runs on. */
  readonly job: unknown;
};

export interface Kernel {
  // mount.cc
  /** mount(2). */
  mount(source: string, target: string, fsType: string, flags: number, data: string): void;
  /** umount2(2). */
  umount(target: string, flags: number): void;
  /** fsopen, fsconfig, fsmount: a mount attached to no path. `attributes` are MOUNT_ATTR_* bits. */
  fsMount(fsType: string, options: readonly FsOption[], attributes: number): number;
  /** open_tree(2); OPEN_TREE_CLOEXEC is added. */
  openTree(dirFd: number, path: string, flags: number): number;
  /** move_mount(2) of a detached mount to a path. */
  moveMount(mountFd: number, toDirFd: number, toPath: string): void;
  /** mount_setattr(2). */
  mountSetattr(dirFd: number, path: string, flags: number, attributes: MountAttributes): void;
  /** pivot_root(2). */
  pivotRoot(newRoot: string, putOld: string): void;
  chroot(path: string): void;

  // file.cc
  /** openat2(2). `flags` are O_* (O_CLOEXEC is added), `resolve` RESOLVE_*. */
  openat2(dirFd: number, path: string, flags: number, mode: number, resolve: number): number;
  mkdirat(dirFd: number, path: string, mode: number): void;
  /** `mode` holds the type too: S_IFCHR | 0o666. */
  mknodat(dirFd: number, path: string, mode: number, device: DeviceNumber): void;
  symlinkat(target: string, dirFd: number, path: string): void;
  /** `flags`: AT_REMOVEDIR or 0. */
  unlinkat(dirFd: number, path: string, flags: number): void;
  /** `flags`: AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH. */
  fchownat(dirFd: number, path: string, uid: number, gid: number, flags: number): void;
  fchmodat(dirFd: number, path: string, mode: number): void;
  /** umask(2); returns the one before. */
  umask(mask: number): number;
  /** A sealed memfd with these octets, offset 0. */
  memfd(name: string, content: Uint8Array): number;
  /** O_NONBLOCK on or off. */
  setNonBlocking(fd: number, on: boolean): void;
  /** pipe2(2) with O_CLOEXEC: [read end, write end]. */
  pipe(): readonly [number, number];

  // module.cc
  /** finit_module(2). */
  finitModule(fd: number, parameters: string, flags: number): void;

  // loop.cc
  /** Attaches a file to a free loop device, loop(4) LOOP_CONFIGURE. */
  loopAttach(
    fileFd: number,
    options: { readonly readOnly: boolean; readonly autoclear: boolean; readonly directIo: boolean },
  ): LoopDevice;
  /** LOOP_CLR_FD on a descriptor of the device. */
  loopDetach(fd: number): void;
  /** Size of a block device in octets, BLKGETSIZE64. */
  blockDeviceSize(fd: number): bigint;

  // dm.cc
  /** Creates, loads and resumes a device-mapper device; removes it again when a step fails. */
  dmCreate(name: string, uuid: string, readOnly: boolean, targets: readonly DmTarget[]): DeviceNumber;
  /** `deferred`: removed when the last user closes it. */
  dmRemove(name: string, deferred: boolean): void;
  /** Status lines of the device's targets. */
  dmStatus(name: string): readonly string[];
  /** Names of all devices. */
  dmList(): readonly string[];

  // power.cc
  /** reboot(2) with LINUX_REBOOT_CMD_*. */
  reboot(command: number): void;
  sync(): void;
  /** syslog(2) action 8: messages below this level reach the console. */
  setConsoleLogLevel(level: number): void;
  /** clock_settime(2) of CLOCK_REALTIME, in whole seconds since 1970. */
  setClock(unixSeconds: bigint): void;
  /** WDIOC_SETTIMEOUT on an open watchdog device; returns the seconds that the hardware took. */
  setWatchdogTimeout(fd: number, seconds: number): number;

  // process.cc
  /** prctl(2) PR_SET_DUMPABLE. */
  setDumpable(on: boolean): void;
  /** prlimit(2) of process `pid` (0: this one). */
  setResourceLimit(pid: number, resource: number, soft: bigint, hard: bigint): void;
  setHostname(name: string): void;
  /** An exited child that nobody has waited for, left as it is (waitid P_ALL, WNOWAIT). */
  peekExitedChild(): number | undefined;
  /** Waits for this exited child. */
  reapChild(pid: number): void;
  /** ABI version of Landlock; 0 where there is none. */
  landlockAbi(): number;

  // pidfd.cc
  pidfdOpen(pid: number): number;
  pidfdSignal(pidfd: number, signal: number): void;
  /** waitid(P_PIDFD, WEXITED | WNOHANG | __WALL): undefined while it runs. */
  pidfdWait(pidfd: number): WaitStatus | undefined;
  /** pidfd_getfd(2): a copy of descriptor `fd` of that process. */
  pidfdGetfd(pidfd: number, fd: number): number;

  // poll.cc
  /** Calls back whenever the descriptor has UV_READABLE (1), UV_WRITABLE (2) or UV_DISCONNECT (4) of `events`; `error` is an errno or 0. */
  watchFd(fd: number, events: number, callback: (error: number, events: number) => void): Watch;

  // tty.cc
  /** A pseudoterminal of the devpts whose ptmx is open as `ptmxFd`, or of /dev/ptmx. */
  openPty(ptmxFd?: number): { readonly master: number; readonly slave: number };
  setWindowSize(fd: number, size: WindowSize): void;
  windowSize(fd: number): WindowSize;

  // keyring.cc
  /** add_key(2); `keyring` is a serial or KEY_SPEC_*. Returns the key's serial. */
  addKey(type: string, description: string, payload: Uint8Array, keyring: number): number;
  /** keyctl(2) KEYCTL_REVOKE. */
  revokeKey(serial: number): void;
  /** keyctl(2) KEYCTL_UNLINK. */
  unlinkKey(serial: number, keyring: number): void;

  // bpf.cc
  /** BPF_PROG_LOAD of a cgroup device program; `instructions` are 8 octets each. */
  loadDeviceProgram(instructions: Uint8Array): number;
  /** BPF_PROG_ATTACH with ALLOW_MULTI; with `replaceFd` that program is swapped for this one at once. */
  attachDeviceProgram(cgroupFd: number, programFd: number, replaceFd?: number): void;

  // netlink.cc
  /**
   * Sends one netlink datagram in the network namespace `netnsFd` (-1: this one) and returns the datagrams of the answer, up to
   * the NLMSG_DONE or NLMSG_ERROR of each message with NLM_F_ACK or NLM_F_DUMP, or to the first refusal. Waits at most 5 s.
   */
  netlink(netnsFd: number, protocol: number, request: Uint8Array): readonly Uint8Array[];

  // datagram.cc
  /** A bound unix datagram socket with SO_PASSCRED, non-blocking, close-on-exec. */
  bindDatagram(path: string): number;
  /** The next datagram (at most `maxBytes`), or undefined when there is none. */
  receiveDatagram(fd: number, maxBytes: number): Datagram | undefined;

  // clone.cc
  clone(request: CloneRequest): Clone;
  /** Index of the operation that the shim is at; 0xffff before the first. */
  planProgress(job: unknown): number;
  freeJob(job: unknown): void;
}
