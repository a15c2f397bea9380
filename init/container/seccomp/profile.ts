/**
 * Which system calls a guest may make: an allow-list in the manner of the field's common default profile. Data.
 * What is not named here is refused: EPERM where the kernel knows it, ENOSYS where nobody does (B25).
 * docs/seccomp.md gives the reason for each choice; the notes here say only what one cannot see.
 */

export type ProfileName = "service" | "full-os";

/** A condition on one argument: (argument & mask) == value. */
export type ArgumentTest = {
  readonly argument: 0 | 1 | 2 | 3 | 4 | 5;
  /** 32: the kernel looks at the low half only, so a filter that looks at more could be dodged. */
  readonly bits: 32 | 64;
  readonly mask: bigint;
  readonly equals: bigint;
};

/** What one call gets: the first case whose test holds, else the answer at the end. */
export type Rule = {
  readonly cases: readonly { readonly test: ArgumentTest; readonly answer: Answer }[];
  readonly otherwise: Answer;
};

export type Answer = "allow" | "EPERM" | "ENOSYS" | "EAFNOSUPPORT";

export type Profile = ReadonlyMap<string, Answer | Rule>;

/** Additions and removals of a manifest or config, by name. They show in `control config`. */
export type ProfileChange = { readonly allow: readonly string[]; readonly forbid: readonly string[] };

/** The profile as a map from name to answer; names that are not in it are EPERM (known) or ENOSYS (unknown). */
export function profileOf(name: ProfileName, change: ProfileChange = { allow: [], forbid: [] }): Profile {
  const profile = new Map<string, Answer | Rule>();
  for (const call of words(common)) profile.set(call, "allow");
  for (const call of words(absent)) profile.set(call, "ENOSYS");
  profile.set("clone", name === "full-os" ? "allow" : cloneWithoutNamespaces);
  profile.set("personality", harmlessPersonality);
  profile.set("ioctl", ioctlWithoutTyping);
  profile.set("socket", socketOfOwnNetwork);
  profile.set("socketpair", "allow");
  if (name === "full-os") for (const call of words(fullOs)) profile.set(call, "allow");
  for (const call of change.allow) profile.set(call, "allow");
  for (const call of change.forbid) profile.set(call, "EPERM");
  return profile;
}

const words = (text: string): string[] => text.trim().split(/\s+/);

/** CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. (NEWTIME has no bit in clone(2).) */
const newNamespaces = [
  0x00020000n,
  0x02000000n,
  0x04000000n,
  0x08000000n,
  0x10000000n,
  0x20000000n,
  0x40000000n,
];

const cloneWithoutNamespaces: Rule = {
  cases: [
    {
      test: { argument: 0, bits: 32, mask: newNamespaces.reduce((all, bit) => all | bit), equals: 0n },
      answer: "allow",
    },
  ],
  otherwise: "EPERM",
};

const equals = (argument: ArgumentTest["argument"], value: bigint): ArgumentTest => ({
  argument,
  bits: 32,
  mask: 0xffffffffn,
  equals: value,
});

/** PER_LINUX, PER_LINUX32, both with UNAME26, and the question "which is it": nothing that drops ASLR or NX. */
const harmlessPersonality: Rule = {
  cases: [0n, 8n, 0x20000n, 0x20008n, 0xffffffffn].map((value) => ({
    test: equals(0, value),
    answer: "allow",
  })),
  otherwise: "EPERM",
};

/** TIOCSTI types into a terminal, TIOCLINUX pastes into one: the console's other end is not the guest's. */
const ioctlWithoutTyping: Rule = {
  cases: [0x5412n, 0x541cn].map((value) => ({ test: equals(1, value), answer: "EPERM" })),
  otherwise: "allow",
};

/** AF_VSOCK reaches the hypervisor and AF_ALG the kernel's crypto; neither has a namespace. */
const socketOfOwnNetwork: Rule = {
  cases: [40n, 38n].map((value) => ({ test: equals(0, value), answer: "EAFNOSUPPORT" })),
  otherwise: "allow",
};

/**
 * Answered as if the kernel had no such call, so that programs take the older one, which can be filtered:
 * clone3 hides its flags in memory, the new mount API has no use without mount(2), the rest is asked by libraries.
 */
const absent = `
  clone3 open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick mount_setattr statmount listmount
  lsm_get_self_attr lsm_set_self_attr lsm_list_modules
`;

/** A guest with an own init: it mounts, makes namespaces for its services, and ends itself by reboot(2). */
const fullOs = `
  mount umount umount2 pivot_root unshare setns reboot sethostname setdomainname fanotify_init
`;

const common = `
  _llseek _newselect accept accept4 access adjtimex alarm arch_prctl arm_fadvise64_64 arm_sync_file_range
  bind breakpoint brk cachestat cacheflush capget capset chdir chmod chown chown32 chroot clock_adjtime clock_adjtime64
  clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
  close close_range connect copy_file_range creat dup dup2 dup3
  epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old
  eventfd eventfd2 execve execveat exit exit_group
  faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2
  fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr file_getattr file_setattr flistxattr flock fork
  fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64
  futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
  get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32
  getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom
  getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday
  getuid getuid32 getxattr getxattrat
  inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents
  io_pgetevents io_pgetevents_time64 io_setup io_submit ioprio_get ioprio_set ipc
  kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat
  listen listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64
  madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall
  mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
  mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap
  name_to_handle_at nanosleep newfstatat nice oldfstat oldlstat oldolduname oldstat olduname open openat openat2
  pause pidfd_open pidfd_send_signal pidfd_getfd pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64
  prctl pread64 preadv preadv2 prlimit64 process_madvise process_mrelease pselect6 pselect6_time64 ptrace
  pwrite64 pwritev pwritev2 read readahead readdir readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64
  recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall
  rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
  rt_sigtimedwait_time64 rt_tgsigqueueinfo
  sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
  sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
  sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64
  send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address set_tls
  setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority
  setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt
  setuid setuid32 setxattr setxattrat sgetmask shmat shmctl shmdt shmget shutdown sigaction sigaltstack signal signalfd
  signalfd4 sigpending sigprocmask sigreturn sigsuspend socketcall splice ssetmask stat stat64
  statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs sysinfo
  tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
  timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill
  truncate truncate64 ugetrlimit umask uname unlink unlinkat utime utimensat utimensat_time64 utimes
  vfork vmsplice wait4 waitid waitpid write writev
`;
