// clone3(2) of a child that execs the shim. The child shares this process's memory (CLONE_VM) until then: it
// makes raw system calls only, on a stack of its own. Every record of the plan is checked before the clone.
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cstring>
#include <vector>

#include "addon.h"
#include "plan.h"
#include "shim/syscall.h"

#ifndef PIDFD_GET_USER_NAMESPACE
#define PIDFD_GET_USER_NAMESPACE _IO(0xFF, 9)
#endif

namespace gimbal {
namespace {

constexpr size_t kStackBytes = 64 * 1024;

// What the child needs. It lies at the foot of the child's stack, so that both live equally long.
struct ChildArgs {
  int sync_fd;
  int parents_sync_fd;
  int shim_fd;
  int plan_fd;
  int report_fd;
  int keeps_ids;  // without a user namespace the ids stay as they are
  uint32_t slots;
  int32_t fds[GIMBAL_PLAN_MAX_SLOTS];
  char plan_name[16];
  const char* argv[2];
  const char* envp[1];
};

[[noreturn]] __attribute__((optimize("no-stack-protector"))) void Child(void* context) noexcept {
  const ChildArgs* args = static_cast<const ChildArgs*>(context);
  const auto fail = [&](long negative_errno) {
    const PlanReport report = {UINT16_MAX, static_cast<uint16_t>(-negative_errno), 0};
    SYS3(__NR_write, args->report_fd, &report, sizeof report);
    for (;;) SYS1(__NR_exit_group, 127);
  };
  // The barrier: id maps are written now. Anything but one octet means that the parent gave up.
  // This copy of the parent's end must go first, or its end of file would never come.
  SYS1(__NR_close, args->parents_sync_fd);
  char go = 0;
  const long got = SYS3(__NR_read, args->sync_fd, &go, 1);
  if (got != 1) {
    for (;;) SYS1(__NR_exit_group, 127);
  }
  long result = 0;
  if (!args->keeps_ids) {
    result = SYS3(__NR_setresgid, 0, 0, 0);
    if (result >= 0) result = SYS2(__NR_setgroups, 0, 0);
    if (result >= 0) result = SYS3(__NR_setresuid, 0, 0, 0);
    if (result < 0) fail(result);
  }
  for (uint32_t i = 0; i < args->slots; i++) {
    result = SYS3(__NR_fcntl, args->fds[i], F_SETFD, 0);
    if (result < 0) fail(result);
  }
  SYS3(__NR_fcntl, args->plan_fd, F_SETFD, 0);
  SYS3(__NR_fcntl, args->report_fd, F_SETFD, 0);
  fail(SYS5(__NR_execveat, args->shim_fd, "", args->argv, args->envp, AT_EMPTY_PATH));
  __builtin_unreachable();
}

// clone3 with the child on its own stack, entering `child(context)` without returning through this frame.
long Clone3(clone_args* args, [[noreturn]] void (*child)(void*) noexcept, void* context) {
#if defined(__x86_64__)
  long result;
  __asm__ volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xor %%ebp, %%ebp\n\t"
      "mov %[context], %%rdi\n\t"
      "call *%[child]\n\t"
      "ud2\n"
      "1:"
      : "=a"(result)
      : "a"(__NR_clone3), "D"(args), "S"(sizeof *args), [child] "r"(child), [context] "r"(context)
      : "rcx", "r11", "memory", "cc");
  return result;
#elif defined(__aarch64__)
  register long x8 __asm__("x8") = __NR_clone3;
  register long x0 __asm__("x0") = reinterpret_cast<long>(args);
  register long x1 __asm__("x1") = sizeof *args;
  __asm__ volatile(
      "svc 0\n\t"
      "cbnz x0, 1f\n\t"
      "mov x29, #0\n\t"
      "mov x0, %[context]\n\t"
      "blr %[child]\n\t"
      "brk #0\n"
      "1:"
      : "+r"(x0)
      : "r"(x8), "r"(x1), [child] "r"(child), [context] "r"(context)
      : "memory", "cc");
  return x0;
#endif
}

[[noreturn]] void Malformed(Napi::Env env, const std::string& why) {
  throw Napi::TypeError::New(env, "the plan is malformed: " + why);
}

// Each text must lie inside the string area (which ends with NUL), each slot in the list.
void CheckPlan(Napi::Env env, std::span<const uint8_t> plan, uint32_t slots) {
  PlanHeader header;
  if (plan.size() < sizeof header || plan.size() > GIMBAL_PLAN_MAX_BYTES) Malformed(env, "size");
  memcpy(&header, plan.data(), sizeof header);
  if (header.magic != GIMBAL_PLAN_MAGIC) Malformed(env, "magic");
  if (header.ops == 0 || header.ops > GIMBAL_PLAN_MAX_OPS) Malformed(env, "number of operations");
  const size_t strings_at = sizeof header + header.ops * sizeof(PlanOp);
  if (plan.size() <= strings_at) Malformed(env, "no string area");
  if (plan.back() != 0) Malformed(env, "the string area does not end with NUL");
  const size_t string_bytes = plan.size() - strings_at;
  for (uint32_t i = 0; i < header.ops; i++) {
    PlanOp op;
    memcpy(&op, plan.data() + sizeof header + i * sizeof op, sizeof op);
    const std::string at = "operation " + std::to_string(i);
    if (op.op == 0 || op.op >= kOpLimit) Malformed(env, at + " is unknown");
    if (op.slot < -1 || (op.slot >= 0 && static_cast<uint32_t>(op.slot) >= slots))
      Malformed(env, at + ": slot");
    const bool needs_slot = op.op == kOpStdio || op.op == kOpMoveMount || op.op == kOpSetns;
    if (needs_slot != (op.slot >= 0)) Malformed(env, at + ": slot");
    for (const uint32_t text : {op.str0, op.str1, op.str2}) {
      if (text != GIMBAL_NO_STRING && text >= string_bytes) Malformed(env, at + ": text");
    }
    if (op.op != kOpRlimit && op.op != kOpExec && op.length != 0 &&
        (op.str1 == GIMBAL_NO_STRING || op.length > string_bytes - op.str1)) {
      Malformed(env, at + ": length");
    }
    if ((op.op == kOpExec) != (i + 1 == header.ops))
      Malformed(env, at + ": exec is the last, and only the last");
  }
}

Fd PlanFd(Napi::Env env, std::span<const uint8_t> plan, const ChildArgs& args) {
  PlanPrefix prefix = {};
  prefix.bytes = static_cast<uint32_t>(plan.size());
  prefix.report_fd = args.report_fd;
  prefix.slots = args.slots;
  memcpy(prefix.fds, args.fds, sizeof prefix.fds);
  Fd fd(memfd_create("gimbal-plan", MFD_CLOEXEC));
  if (!fd) throw SyscallError(env, errno, "memfd_create", "plan");
  if (pwrite(fd.get(), &prefix, sizeof prefix, 0) != static_cast<ssize_t>(sizeof prefix) ||
      pwrite(fd.get(), plan.data(), plan.size(), sizeof prefix) != static_cast<ssize_t>(plan.size())) {
    throw SyscallError(env, errno, "pwrite", "plan");
  }
  return fd;
}

void WriteProc(Napi::Env env, pid_t pid, const char* file, const std::string& content) {
  if (content.empty()) return;
  const std::string path = "/proc/" + std::to_string(pid) + "/" + file;
  Fd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) throw SyscallError(env, errno, "open", path);
  if (write(fd.get(), content.data(), content.size()) != static_cast<ssize_t>(content.size())) {
    throw SyscallError(env, errno, "write", path);
  }
}

// By pidfd since Linux 6.11, else through /proc: the child is not reaped, so its pid is its own.
Fd UserNamespace(Napi::Env env, pid_t pid, int pidfd) {
  Fd userns(ioctl(pidfd, PIDFD_GET_USER_NAMESPACE));
  if (userns) return userns;
  const std::string path = "/proc/" + std::to_string(pid) + "/ns/user";
  userns = Fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!userns) throw SyscallError(env, errno, "open", path);
  return userns;
}

struct Stack {
  void* memory = MAP_FAILED;
  ~Stack() { Free(); }
  void Free() {
    if (memory != MAP_FAILED) munmap(memory, kStackBytes);
    memory = MAP_FAILED;
  }
};

std::vector<int32_t> Slots(Napi::Env env, const Napi::Value& value) {
  if (!value.IsArray()) throw Napi::TypeError::New(env, "slots is not a list");
  const Napi::Array list = value.As<Napi::Array>();
  if (list.Length() > GIMBAL_PLAN_MAX_SLOTS) throw Napi::TypeError::New(env, "too many slots");
  std::vector<int32_t> slots;
  for (uint32_t i = 0; i < list.Length(); i++) {
    if (!list.Get(i).IsNumber()) throw Napi::TypeError::New(env, "a slot is not a number");
    slots.push_back(list.Get(i).As<Napi::Number>().Int32Value());
    if (slots.back() < 0) throw Napi::TypeError::New(env, "a slot is not a descriptor");
  }
  return slots;
}

Napi::Value Clone(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object request = ObjectArg(info, 0);
  const auto namespaces = static_cast<uint64_t>(IntegerField(request, "namespaces", 0, UINT32_MAX));
  const auto cgroup_fd = static_cast<int>(IntegerField(request, "cgroupFd", -1, INT32_MAX));
  const auto shim_fd = static_cast<int>(IntegerField(request, "shimFd", 0, INT32_MAX));
  const std::vector<int32_t> slots = Slots(env, request.Get("slots"));
  const std::string uid_map = TextField(request, "uidMap"), gid_map = TextField(request, "gidMap"),
                    time_offsets = TextField(request, "timeOffsets");
  if (!request.Get("plan").IsTypedArray()) throw Napi::TypeError::New(env, "plan is not a Uint8Array");
  const Napi::Uint8Array plan_array = request.Get("plan").As<Napi::Uint8Array>();
  const std::span<const uint8_t> plan(plan_array.Data(), plan_array.ByteLength());
  CheckPlan(env, plan, static_cast<uint32_t>(slots.size()));

  int sync[2], report[2];
  if (pipe2(sync, O_CLOEXEC) < 0) throw SyscallError(env, errno, "pipe2", "sync");
  Fd sync_read(sync[0]), sync_write(sync[1]);
  if (pipe2(report, O_CLOEXEC) < 0) throw SyscallError(env, errno, "pipe2", "report");
  Fd report_read(report[0]), report_write(report[1]);
  if (fcntl(report_read.get(), F_SETFL, O_NONBLOCK) < 0) throw SyscallError(env, errno, "fcntl", "report");

  auto stack = std::make_unique<Stack>();
  stack->memory =
      mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack->memory == MAP_FAILED) throw SyscallError(env, errno, "mmap", "stack");
  ChildArgs* child = new (stack->memory) ChildArgs();
  child->sync_fd = sync_read.get();
  child->parents_sync_fd = sync_write.get();
  child->shim_fd = shim_fd;
  child->report_fd = report_write.get();
  child->keeps_ids = (namespaces & CLONE_NEWUSER) == 0;
  child->slots = static_cast<uint32_t>(slots.size());
  std::copy(slots.begin(), slots.end(), child->fds);
  Fd plan_fd = PlanFd(env, plan, *child);
  child->plan_fd = plan_fd.get();
  snprintf(child->plan_name, sizeof child->plan_name, "%d", plan_fd.get());
  child->argv[0] = child->plan_name;

  int pidfd_number = -1;
  clone_args args = {};
  args.flags = CLONE_VM | CLONE_PIDFD | namespaces | (cgroup_fd >= 0 ? CLONE_INTO_CGROUP : 0);
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd_number);
  args.stack = reinterpret_cast<uint64_t>(stack->memory);
  args.stack_size = kStackBytes;
  args.cgroup = cgroup_fd >= 0 ? static_cast<uint64_t>(cgroup_fd) : 0;
  // No handler of this process may run in the child, which borrows its memory. The shim unblocks them by
  // `reset`.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const long pid = Clone3(&args, Child, child);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) throw SyscallError(env, static_cast<int>(-pid), "clone3", "");

  Fd pidfd(pidfd_number);
  try {
    WriteProc(env, static_cast<pid_t>(pid), "uid_map", uid_map);
    WriteProc(env, static_cast<pid_t>(pid), "gid_map", gid_map);
    WriteProc(env, static_cast<pid_t>(pid), "timens_offsets", time_offsets);
    Fd userns =
        namespaces & CLONE_NEWUSER ? UserNamespace(env, static_cast<pid_t>(pid), pidfd.get()) : Fd(-1);
    Napi::Object result = Napi::Object::New(env);
    result.Set("stack", Napi::External<Stack>::New(env, stack.get(), [](Napi::Env, Stack* s) { delete s; }));
    stack.release();
    result.Set("pid", static_cast<double>(pid));
    result.Set("pidfd", pidfd.release());
    result.Set("usernsFd", userns ? userns.release() : -1);
    result.Set("syncFd", sync_write.release());
    result.Set("reportFd", report_read.release());
    return result;
  } catch (...) {
    // It waits at the barrier on memory that goes now: end it, and wait until it has ended.
    syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0);
    siginfo_t ended = {};
    waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd.get()), &ended, WEXITED | __WALL);
    throw;
  }
}

Napi::Value FreeStack(const Napi::CallbackInfo& info) {
  if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "argument 1 is not a stack");
  info[0].As<Napi::External<Stack>>().Data()->Free();
  return info.Env().Undefined();
}

}  // namespace

void InitClone(Napi::Object exports) {
  Export<Clone>(exports, "clone");
  Export<FreeStack>(exports, "freeStack");
}

}  // namespace gimbal
