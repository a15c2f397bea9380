// The shim: carries out a start plan (addon/plan.h) in a fresh, single-threaded address space and execs the
// guest's init.
//
//   argv[0]  number of the descriptor that holds the plan, in decimal (never fixed: it may be taken)
//
// Freestanding: no libc, no heap. Whatever goes wrong is one PlanReport on the report descriptor and exit
// status 127; end of file there means that the exec happened. The plan was checked by clone.cc; it is checked
// here again, since a plan read wrongly would run as root of a container.

#include <asm/fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>

#include "../plan-check.h"
#include "syscall.h"

#define ENOENT 2
#define EACCES 13
#define EEXIST 17
#define ENOTDIR 20
#define EINVAL 22
#define EMFILE 24
#define ENAMETOOLONG 36
#define AT_FDCWD -100
#define AT_EMPTY_PATH 0x1000
#define AT_RECURSIVE 0x8000
#define O_PATH 010000000
#define O_DIRECTORY_PATH (O_PATH | 00200000)
#define MNT_DETACH 2
#define TIOCSCTTY 0x540E
#define KEYCTL_JOIN_SESSION_KEYRING 1
#define CLOSE_RANGE_CLOEXEC 4
#define F_DUPFD_CLOEXEC 1030
#define SEEK_END 2
#define PROT_READ 1
#define PROT_WRITE 2
#define MAP_SHARED 1
#define PATH_BYTES 4096

static struct {
  volatile struct PlanPrefix* prefix;
  const struct PlanOp* ops;
  uint32_t count;
  const char* strings;
} plan;

static void Report(uint32_t index, long error, uint32_t value) {
  const struct PlanReport report = {(uint16_t)index, (uint16_t)error, value};
  SYS3(__NR_write, plan.prefix->report_fd, &report, sizeof report);
}

static _Noreturn void Exit(int status) {
  for (;;) SYS1(__NR_exit_group, status);
}

static _Noreturn void Fail(uint32_t index, long negative_errno) {
  Report(index, -negative_errno, 0);
  Exit(127);
}

// The compiler may emit calls to these for copies and clears.
void* memcpy(void* to, const void* from, size_t length) {
  for (size_t i = 0; i < length; i++) ((char*)to)[i] = ((const char*)from)[i];
  return to;
}
void* memset(void* to, int value, size_t length) {
  for (size_t i = 0; i < length; i++) ((char*)to)[i] = (char)value;
  return to;
}

static size_t Length(const char* text) {
  size_t length = 0;
  while (text[length]) length++;
  return length;
}

// Texts, data and slots of an operation: PlanProblem found all of them inside of the plan.
static const char* Text(uint32_t offset) { return plan.strings + offset; }

static int Slot(int32_t slot) { return plan.prefix->fds[slot]; }

// Opens a path with the working directory as root: no symbolic link of the guest's tree leads out of it.
static long Resolve(const char* path, uint64_t flags) {
  struct open_how how = {0};
  how.flags = flags | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  return SYS4(__NR_openat2, AT_FDCWD, path, &how, sizeof how);
}

// Splits off the last component into `base`, and opens the directory before it.
static long ResolveParent(const char* path, char* scratch, const char** base) {
  const size_t length = Length(path);
  if (length >= PATH_BYTES) return -ENAMETOOLONG;
  memcpy(scratch, path, length + 1);
  size_t cut = length;
  while (cut > 0 && scratch[cut - 1] != '/') cut--;
  *base = path + cut;
  if (!**base) return -EINVAL;
  if (cut == 0) return Resolve(".", O_DIRECTORY_PATH);
  scratch[cut] = 0;
  return Resolve(scratch, O_DIRECTORY_PATH);
}

static long Attach(int mount, const char* path) {
  const long target = Resolve(path, O_PATH);
  if (target < 0) return target;
  const long result =
      SYS5(__NR_move_mount, mount, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
  SYS1(__NR_close, target);
  return result;
}

static long MountFs(const char* type, const char* path, const char* options, uint64_t attributes) {
  char option[PATH_BYTES];
  const long context = SYS2(__NR_fsopen, type, FSOPEN_CLOEXEC);
  if (context < 0) return context;
  long result = 0;
  while (*options && result >= 0) {
    size_t length = 0, equals = 0;
    while (options[length] && options[length] != ',') {
      if (options[length] == '=' && !equals) equals = length;
      length++;
    }
    if (length >= sizeof option) {
      result = -ENAMETOOLONG;
      break;
    }
    memcpy(option, options, length);
    option[length] = 0;
    if (equals) {
      option[equals] = 0;
      result = SYS5(__NR_fsconfig, context, FSCONFIG_SET_STRING, option, option + equals + 1, 0);
    } else {
      result = SYS5(__NR_fsconfig, context, FSCONFIG_SET_FLAG, option, 0, 0);
    }
    options += length + (options[length] == ',');
  }
  if (result >= 0) result = SYS5(__NR_fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0);
  long mount = result;
  if (result >= 0) mount = SYS3(__NR_fsmount, context, FSMOUNT_CLOEXEC, attributes);
  SYS1(__NR_close, context);
  if (mount < 0) return mount;
  result = Attach((int)mount, path);
  SYS1(__NR_close, mount);
  return result;
}

static long SetAttributes(int fd, uint64_t attributes, int recursive) {
  struct mount_attr attr = {0};
  attr.attr_set = attributes;
  return SYS5(__NR_mount_setattr, fd, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &attr, sizeof attr);
}

static long Bind(const struct PlanOp* op) {
  const int may_be_missing = op->b & 1, recursive = (op->b & 2) != 0;
  const long source = Resolve(Text(op->str0), O_PATH), target = Resolve(Text(op->str1), O_PATH);
  // Cloning a tree only to throw it away waits for an RCU grace period: look first.
  if (may_be_missing && (source == -ENOENT || target == -ENOENT)) {
    if (source >= 0) SYS1(__NR_close, source);
    if (target >= 0) SYS1(__NR_close, target);
    return 0;
  }
  if (source < 0) return source;
  if (target < 0) return target;
  const long tree =
      SYS3(__NR_open_tree, source, "",
           OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0));
  SYS1(__NR_close, source);
  if (tree < 0) return tree;
  long result = op->a ? SetAttributes((int)tree, op->a, recursive) : 0;
  if (result >= 0)
    result = SYS5(__NR_move_mount, tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
  SYS1(__NR_close, tree);
  SYS1(__NR_close, target);
  return result;
}

static long Remount(const struct PlanOp* op) {
  const long fd = Resolve(Text(op->str0), O_PATH);
  if (fd < 0) return fd;
  const long result = SetAttributes((int)fd, op->a, 0);
  SYS1(__NR_close, fd);
  return result;
}

static long Mkdir(const struct PlanOp* op) {
  char scratch[PATH_BYTES];
  const char* base;
  const long parent = ResolveParent(Text(op->str0), scratch, &base);
  if (parent < 0) return parent;
  const long result = SYS3(__NR_mkdirat, parent, base, op->a);
  SYS1(__NR_close, parent);
  return result == -EEXIST && op->b ? 0 : result;
}

static long Symlink(const struct PlanOp* op) {
  char scratch[PATH_BYTES];
  const char* base;
  const long parent = ResolveParent(Text(op->str1), scratch, &base);
  if (parent < 0) return parent;
  const long result = SYS3(__NR_symlinkat, Text(op->str0), parent, base);
  SYS1(__NR_close, parent);
  return result;
}

static long File(const struct PlanOp* op) {
  char scratch[PATH_BYTES];
  const char* base;
  const char* content = Text(op->str1);
  const long parent = ResolveParent(Text(op->str0), scratch, &base);
  if (parent < 0) return parent;
  const long fd =
      SYS4(__NR_openat, parent, base, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, op->a);
  SYS1(__NR_close, parent);
  if (fd < 0) return fd;
  long result = 0;
  for (uint32_t done = 0; done < op->length && result >= 0; done += (uint32_t)result) {
    result = SYS3(__NR_write, fd, content + done, op->length - done);
  }
  SYS1(__NR_close, fd);
  return result;
}

static long Ids(const struct PlanOp* op) {
  long result = SYS2(__NR_setgroups, op->length / 4, Text(op->str1));
  if (result >= 0) result = SYS3(__NR_setresgid, op->b, op->b, op->b);
  if (result >= 0) result = SYS3(__NR_setresuid, op->a, op->a, op->a);
  return result;
}

static long Rlimit(const struct PlanOp* op) {
  const uint64_t limit[2] = {op->a, op->b};
  return SYS4(__NR_prlimit64, 0, op->length, limit, 0);
}

static long Pivot(void) {
  long result = SYS2(__NR_pivot_root, ".", ".");
  // Both roots now lie on "/": the old one on top, as the new one was pushed below it.
  if (result >= 0) result = SYS2(__NR_umount2, ".", MNT_DETACH);
  if (result >= 0) result = SYS1(__NR_chdir, "/");
  return result;
}

static long BoundingSet(uint64_t keep) {
  for (int capability = 0; capability < 64; capability++) {
    if (keep >> capability & 1) continue;
    const long result = SYS5(__NR_prctl, PR_CAPBSET_DROP, capability, 0, 0, 0);
    if (result == -EINVAL) return 0;  // past the last one that this kernel knows
    if (result < 0) return result;
  }
  return 0;
}

static long Capabilities(uint64_t permitted, uint64_t inheritable) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2] = {
      {(uint32_t)permitted, (uint32_t)permitted, (uint32_t)inheritable},
      {(uint32_t)(permitted >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32)}};
  const long result = SYS2(__NR_capset, &header, data);
  if (result < 0) return result;
  return SYS5(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}

static long Seccomp(const struct PlanOp* op) {
  struct {
    uint16_t instructions;
    const void* filter;
  } program = {(uint16_t)(op->length / 8), Text(op->str1)};
  return SYS3(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

static long Reset(void) {
  // Ignored signals survive exec, and Node ignores some. The kernel's struct sigaction, all zero, is SIG_DFL.
  const uint64_t action[4] = {0, 0, 0, 0}, mask = 0;
  for (int signal = 1; signal <= 64; signal++) SYS4(__NR_rt_sigaction, signal, action, 0, 8);
  SYS4(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, &mask, 0, 8);
  const int priority = 0;
  long result = SYS3(__NR_setpriority, 0, 0, 0);
  if (result >= 0) result = SYS3(__NR_sched_setscheduler, 0, 0 /* SCHED_OTHER */, &priority);
  if (result >= 0) result = SYS1(__NR_personality, 0);
  return result;
}

static long LandlockScope(uint64_t scopes) {
  struct {
    uint64_t fs, net, scoped;
  } ruleset = {0, 0, scopes};
  const long fd = SYS3(__NR_landlock_create_ruleset, &ruleset, sizeof ruleset, 0);
  if (fd < 0) return fd;
  const long result = SYS2(__NR_landlock_restrict_self, fd, 0);
  SYS1(__NR_close, fd);
  return result;
}

// After setns of a pid namespace only children are inside. The sibling has the parent of this process as its
// own, so that the one who started the plan waits for it and gets its very exit status.
static void Fork(uint32_t index) {
  struct clone_args args = {0};
  args.flags = CLONE_PARENT;
  const long pid = SYS2(__NR_clone3, &args, sizeof args);
  if (pid < 0) Fail(index, pid);
  if (pid == 0) return;
  Report(index, 0, (uint32_t)pid);
  Exit(0);
}

static long ExecWithPath(const char* name, const char** argv, const char** envp) {
  char candidate[PATH_BYTES];
  const char* path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  for (const char** entry = envp; *entry; entry++) {
    const char* e = *entry;
    if (e[0] == 'P' && e[1] == 'A' && e[2] == 'T' && e[3] == 'H' && e[4] == '=') path = e + 5;
  }
  const size_t name_length = Length(name);
  long result = -ENOENT;
  while (*path) {
    size_t length = 0;
    while (path[length] && path[length] != ':') length++;
    if (length > 0 && length + 1 + name_length < sizeof candidate) {
      memcpy(candidate, path, length);
      candidate[length] = '/';
      memcpy(candidate + length + 1, name, name_length + 1);
      const long tried = SYS3(__NR_execve, candidate, argv, envp);
      // As a shell does: go on where there is nothing, but remember that something was there and could not
      // run.
      if (tried != -ENOENT && tried != -ENOTDIR) {
        result = tried;
        if (tried != -EACCES) return tried;
      }
    }
    path += length + (path[length] == ':');
  }
  return result;
}

static long Exec(const struct PlanOp* op) {
  static const char* pointers[GIMBAL_PLAN_MAX_STRINGS + 1];  // lives until exec
  const char** argv = pointers;
  const char** envp = pointers + op->length + 1;
  const char* text = Text(op->str1);
  for (uint32_t i = 0; i < op->length; i++, text += Length(text) + 1) argv[i] = text;
  text = Text(op->str2);
  for (uint64_t i = 0; i < op->a; i++, text += Length(text) + 1) envp[i] = text;
  argv[op->length] = envp[op->a] = 0;
  const char* path = Text(op->str0);
  for (const char* c = path; *c; c++) {
    if (*c == '/') return SYS3(__NR_execve, path, argv, envp);
  }
  return ExecWithPath(path, argv, envp);
}

static long OpenStdio(const char* path) {
  const long opened = Resolve(path, O_RDWR | O_NOCTTY);
  if (opened < 0) return opened;
  // dup3 to itself is refused, and 0 may have been free.
  const long fd = SYS3(__NR_fcntl, opened, F_DUPFD_CLOEXEC, 3);
  SYS1(__NR_close, opened);
  if (fd < 0) return fd;
  long result = 0;
  for (int to = 0; to < 3 && result >= 0; to++) result = SYS3(__NR_dup3, fd, to, 0);
  SYS1(__NR_close, fd);
  return result;
}

static long OomScore(uint64_t value) {
  char text[4];
  uint32_t length = 0;
  for (uint64_t divisor = 1000; divisor > 0; divisor /= 10) {
    if (value >= divisor || length > 0 || divisor == 1) text[length++] = (char)('0' + value / divisor % 10);
  }
  const long fd = SYS4(__NR_openat, AT_FDCWD, "/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC, 0);
  if (fd < 0) return fd;
  const long result = SYS3(__NR_write, fd, text, length);
  SYS1(__NR_close, fd);
  return result;
}

static long Setns(const struct PlanOp* op) {
  const long result = SYS2(__NR_setns, Slot(op->slot), op->a);
  // Now inside the guest's user namespace: its root must not trace this process nor open its descriptors.
  if (result >= 0) return SYS5(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
  return result;
}

static long Run(const struct PlanOp* op, uint32_t index) {
  switch (op->op) {
    case kOpSetsid:
      return SYS0(__NR_setsid);
    case kOpIds:
      return Ids(op);
    case kOpStdio:
      return SYS3(__NR_dup3, Slot(op->slot), op->a, 0);
    case kOpControllingTty:
      return SYS3(__NR_ioctl, 0, TIOCSCTTY, 0);
    case kOpUmask:
      return SYS1(__NR_umask, op->a);
    case kOpRlimit:
      return Rlimit(op);
    case kOpPropagation:
      return SYS5(__NR_mount, 0, Text(op->str0), 0, op->a, 0);
    case kOpMoveMount:
      return Attach(Slot(op->slot), Text(op->str0));
    case kOpMountFs:
      return MountFs(Text(op->str0), Text(op->str1), Text(op->str2), op->a);
    case kOpMkdir:
      return Mkdir(op);
    case kOpSymlink:
      return Symlink(op);
    case kOpFile:
      return File(op);
    case kOpBind:
      return Bind(op);
    case kOpRemount:
      return Remount(op);
    case kOpChdir:
      return SYS1(__NR_chdir, Text(op->str0));
    case kOpPivot:
      return Pivot();
    case kOpHostname:
      return SYS2(__NR_sethostname, Text(op->str0), Length(Text(op->str0)));
    case kOpCloseOnExec:
      return SYS3(__NR_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC);
    case kOpBoundingSet:
      return BoundingSet(op->a);
    case kOpCapabilities:
      return Capabilities(op->a, op->b);
    case kOpNoNewPrivs:
      return SYS5(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    case kOpSeccomp:
      return Seccomp(op);
    case kOpSetns:
      return Setns(op);
    case kOpFork:
      Fork(index);
      return 0;
    case kOpSessionKeyring:
      return SYS5(__NR_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0);
    case kOpLandlockScope:
      return LandlockScope(op->a);
    case kOpReset:
      return Reset();
    case kOpOomScore:
      return OomScore(op->a);
    case kOpOpenStdio:
      return OpenStdio(Text(op->str0));
    case kOpExec:
      return Exec(op);
    default:
      return -EINVAL;
  }
}

// Maps the plan. Until report_fd is known a failure can only be an exit status.
static void Load(int fd) {
  const long size = SYS3(__NR_lseek, fd, 0, SEEK_END);
  if (size < (long)sizeof(struct PlanPrefix) ||
      size > (long)(sizeof(struct PlanPrefix) + GIMBAL_PLAN_MAX_BYTES)) {
    Exit(126);
  }
  // Shared, so that the start program sees how far this got.
  const long at = Syscall6(__NR_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at < 0 && at > -4096) Exit(126);
  plan.prefix = (volatile struct PlanPrefix*)at;
  // Nothing that is open now gets past exec, whatever the plan says.
  if (SYS3(__NR_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC) < 0) Exit(126);
  const uint8_t* body = (const uint8_t*)at + sizeof(struct PlanPrefix);
  const size_t bytes = (size_t)size - sizeof(struct PlanPrefix);
  if (plan.prefix->bytes != bytes || plan.prefix->slots > GIMBAL_PLAN_MAX_SLOTS) Exit(126);
  uint32_t index;
  if (PlanProblem(body, bytes, plan.prefix->slots, &index)) Fail(index, -EINVAL);
  const struct PlanHeader* header = (const struct PlanHeader*)body;
  plan.ops = (const struct PlanOp*)(header + 1);
  plan.count = header->ops;
  plan.strings = (const char*)(plan.ops + plan.count);
}

// A program whose first open() gives 0, 1 or 2 would write its files' content where it means its messages.
static void OpenStandardFds(void) {
  for (;;) {
    const long fd = SYS4(__NR_openat, AT_FDCWD, "/dev/null", O_RDWR, 0);
    if (fd < 0) return;  // no /dev here: then the plan has to name them
    if (fd > 2) {
      SYS1(__NR_close, fd);
      return;
    }
  }
}

__attribute__((used)) static _Noreturn void Main(const long* stack) {
  if (stack[0] < 1) Exit(126);
  int fd = 0;
  for (const char* digit = (const char*)stack[1]; *digit; digit++) {
    if (*digit < '0' || *digit > '9' || fd > 1000000) Exit(126);
    fd = fd * 10 + (*digit - '0');
  }
  Load(fd);
  // The root that paths are resolved in until a `chdir` says otherwise.
  SYS1(__NR_chdir, "/");
  OpenStandardFds();
  for (uint32_t index = 0; index < plan.count; index++) {
    plan.prefix->progress = index;
    const long result = Run(plan.ops + index, index);
    if (result < 0) Fail(index, result);
  }
  Fail(plan.count, -EINVAL);  // not reached: the last operation is exec
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n  xor %ebp, %ebp\n  mov %rsp, %rdi\n  and $-16, %rsp\n  call Main\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n  mov x29, #0\n  mov x0, sp\n  bl Main\n");
#endif
