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

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory>
#include <vector>

#include "addon.h"
#include "plan-check.h"
#include "shim/syscall.h"

#ifndef PIDFD_GET_USER_NAMESPACE
#define PIDFD_GET_USER_NAMESPACE _IO(0xFF, 9)
#endif

namespace gimbal {
namespace {

constexpr size_t kStackBytes = 64 * 1024;

constexpr size_t kMaxKept = GIMBAL_PLAN_MAX_SLOTS + 4;

// What the child needs. It lies at the foot of the child's stack, so that both live equally long.
struct ChildArgs {
  int sync_fd;
  int shim_fd;
  int plan_fd;
  int report_fd;
  int keeps_ids;  // without a user namespace the ids stay as they are
  uint32_t slots;
  int32_t fds[GIMBAL_PLAN_MAX_SLOTS];
  // Ranges of descriptors that are none of the above.
  uint32_t gaps;
  struct {
    uint32_t first, last;
  } gap[kMaxKept + 1];
  char plan_name[16];
  const char* argv[2];
  const char* envp[1];
};

[[noreturn]] __attribute__((optimize("no-stack-protector"))) void Child(void* context) noexcept {
  const ChildArgs* args = static_cast<const ChildArgs*>(context);
  const auto fail = [&](long negative_errno) {
    const PlanReport report = {GIMBAL_PLAN_NOT_BEGUN, static_cast<uint16_t>(-negative_errno), 0};
    SYS3(__NR_write, args->report_fd, &report, sizeof report);
    for (;;) SYS1(__NR_exit_group, 127);
  };
  // First of all: the pipes of other starts lie open here. A copy kept while this one waits would hide their
  // ends, and a copy of the parent's end of its own barrier would hide that the parent gave up.
  long result = 0;
  for (uint32_t i = 0; i < args->gaps; i++) {
    result = SYS3(__NR_close_range, args->gap[i].first, args->gap[i].last, 0);
    if (result < 0) fail(result);
  }
  // The barrier: id maps are written now. Anything but one octet means that the parent gave up.
  char go = 0;
  const long got = SYS3(__NR_read, args->sync_fd, &go, 1);
  if (got != 1) {
    for (;;) SYS1(__NR_exit_group, 127);
  }
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

// The plan as the shim will read it, aligned; a TypeError if it is malformed.
std::vector<uint64_t> CheckedPlan(Napi::Env env, std::span<const uint8_t> octets, uint32_t slots) {
  std::vector<uint64_t> plan((octets.size() + 7) / 8);
  if (octets.size() <= GIMBAL_PLAN_MAX_BYTES)
    std::copy(octets.begin(), octets.end(), reinterpret_cast<uint8_t*>(plan.data()));
  uint32_t at = 0;
  const char* problem = PlanProblem(reinterpret_cast<const uint8_t*>(plan.data()), octets.size(), slots, &at);
  if (problem != nullptr) {
    throw Napi::TypeError::New(env,
                               "the plan is malformed at operation " + std::to_string(at) + ": " + problem);
  }
  return plan;
}

// All descriptors but the ones that the child needs, as ranges.
void SetGaps(ChildArgs* child) {
  std::vector<uint32_t> kept = {static_cast<uint32_t>(child->sync_fd), static_cast<uint32_t>(child->shim_fd),
                                static_cast<uint32_t>(child->plan_fd),
                                static_cast<uint32_t>(child->report_fd)};
  kept.insert(kept.end(), child->fds, child->fds + child->slots);
  std::sort(kept.begin(), kept.end());
  uint32_t next = 0;
  for (const uint32_t fd : kept) {
    if (fd > next) child->gap[child->gaps++] = {next, fd - 1};
    if (fd >= next) next = fd + 1;
  }
  child->gap[child->gaps++] = {next, UINT32_MAX};
}

Fd PlanFd(Napi::Env env, std::span<const uint8_t> plan, const ChildArgs& args) {
  PlanPrefix prefix = {};
  prefix.bytes = static_cast<uint32_t>(plan.size());
  prefix.report_fd = args.report_fd;
  prefix.progress = GIMBAL_PLAN_NOT_BEGUN;
  prefix.slots = args.slots;
  memcpy(prefix.fds, args.fds, sizeof prefix.fds);
  Fd fd = MemoryFile("gimbal-plan");
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

// What must live until the shim runs or has ended: the child's stack, and the plan, in which the shim notes
// where it is.
struct Job {
  void* memory = MAP_FAILED;
  Fd plan{-1};
  ~Job() { Free(); }
  void Free() {
    if (memory != MAP_FAILED) munmap(memory, kStackBytes);
    memory = MAP_FAILED;
    plan = Fd(-1);
  }
};

constexpr napi_type_tag kJobTag = {0x9b1c5d2f40e64a11, 0xa3f07f6cbb2e8d57};

std::vector<int32_t> Slots(Napi::Env env, const Napi::Value& value) {
  if (!value.IsArray()) throw Napi::TypeError::New(env, "slots is not a list");
  const Napi::Array list = value.As<Napi::Array>();
  if (list.Length() > GIMBAL_PLAN_MAX_SLOTS) throw Napi::TypeError::New(env, "too many slots");
  std::vector<int32_t> slots;
  for (uint32_t i = 0; i < list.Length(); i++) {
    if (!list.Get(i).IsNumber()) throw Napi::TypeError::New(env, "a slot is not a number");
    const double fd = list.Get(i).As<Napi::Number>().DoubleValue();
    if (!(fd >= 0 && fd <= INT32_MAX && fd == std::trunc(fd)))
      throw Napi::TypeError::New(env, "a slot is not a descriptor");
    slots.push_back(static_cast<int32_t>(fd));
  }
  return slots;
}

Napi::Value Clone(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object request = ObjectArg(info, 0);
  const auto namespaces = static_cast<uint64_t>(IntegerField(request, "namespaces", 0, UINT32_MAX));
  if (namespaces & ~uint64_t{PLAN_NAMESPACES})
    throw Napi::TypeError::New(env, "namespaces has other bits than CLONE_NEW*");
  const auto cgroup_fd = static_cast<int>(IntegerField(request, "cgroupFd", -1, INT32_MAX));
  const auto shim_fd = static_cast<int>(IntegerField(request, "shimFd", 0, INT32_MAX));
  const std::vector<int32_t> slots = Slots(env, request.Get("slots"));
  const std::string uid_map = TextField(request, "uidMap"), gid_map = TextField(request, "gidMap"),
                    time_offsets = TextField(request, "timeOffsets");
  const std::span<const uint8_t> octets = BytesField(request, "plan");
  const std::vector<uint64_t> plan_words = CheckedPlan(env, octets, static_cast<uint32_t>(slots.size()));
  const std::span<const uint8_t> plan(reinterpret_cast<const uint8_t*>(plan_words.data()), octets.size());

  int sync[2], report[2];
  if (pipe2(sync, O_CLOEXEC) < 0) throw SyscallError(env, errno, "pipe2", "sync");
  Fd sync_read(sync[0]), sync_write(sync[1]);
  if (pipe2(report, O_CLOEXEC) < 0) throw SyscallError(env, errno, "pipe2", "report");
  Fd report_read(report[0]), report_write(report[1]);
  if (fcntl(report_read.get(), F_SETFL, O_NONBLOCK) < 0) throw SyscallError(env, errno, "fcntl", "report");

  auto job = std::make_unique<Job>();
  job->memory =
      mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (job->memory == MAP_FAILED) throw SyscallError(env, errno, "mmap", "stack");
  ChildArgs* child = new (job->memory) ChildArgs();
  child->sync_fd = sync_read.get();
  child->shim_fd = shim_fd;
  child->report_fd = report_write.get();
  child->keeps_ids = (namespaces & CLONE_NEWUSER) == 0;
  child->slots = static_cast<uint32_t>(slots.size());
  std::copy(slots.begin(), slots.end(), child->fds);
  job->plan = PlanFd(env, plan, *child);
  child->plan_fd = job->plan.get();
  snprintf(child->plan_name, sizeof child->plan_name, "%d", child->plan_fd);
  child->argv[0] = child->plan_name;
  SetGaps(child);

  int pidfd_number = -1;
  clone_args args = {};
  args.flags = CLONE_VM | CLONE_PIDFD | namespaces | (cgroup_fd >= 0 ? CLONE_INTO_CGROUP : 0);
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd_number);
  args.stack = reinterpret_cast<uint64_t>(job->memory);
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
    const auto handle =
        Napi::External<Job>::New(env, job.get(), [](Napi::Env, Job* finished) { delete finished; });
    job.release();
    handle.TypeTag(&kJobTag);
    result.Set("job", handle);
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

Job* JobArg(const Napi::CallbackInfo& info) {
  if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "argument 1 is not a job");
  const auto external = info[0].As<Napi::External<Job>>();
  if (!external.CheckTypeTag(&kJobTag)) throw Napi::TypeError::New(info.Env(), "argument 1 is not a job");
  return external.Data();
}

Napi::Value PlanProgress(const Napi::CallbackInfo& info) {
  const Job* job = JobArg(info);
  uint32_t progress = GIMBAL_PLAN_NOT_BEGUN;
  if (pread(job->plan.get(), &progress, sizeof progress, offsetof(PlanPrefix, progress)) < 0) {
    throw SyscallError(info.Env(), errno, "pread", "plan");
  }
  return Napi::Number::New(info.Env(), progress);
}

Napi::Value FreeJob(const Napi::CallbackInfo& info) {
  JobArg(info)->Free();
  return info.Env().Undefined();
}

}  // namespace

void InitClone(Napi::Object exports) {
  Export<Clone>(exports, "clone");
  Export<PlanProgress>(exports, "planProgress");
  Export<FreeJob>(exports, "freeJob");
}

}  // namespace gimbal
