// This process and its children: prctl(2), prlimit(2), waitid(2).
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "addon.h"

namespace gimbal {
namespace {

Napi::Value SetDumpable(const Napi::CallbackInfo& info) {
  if (prctl(PR_SET_DUMPABLE, BoolArg(info, 0) ? 1 : 0, 0, 0, 0) < 0) {
    throw SyscallError(info.Env(), errno, "prctl PR_SET_DUMPABLE", "");
  }
  return info.Env().Undefined();
}

Napi::Value SetResourceLimit(const Napi::CallbackInfo& info) {
  const auto pid = static_cast<pid_t>(IntegerArg(info, 0, 0, INT32_MAX));
  const auto resource = static_cast<int>(IntegerArg(info, 1, 0, 64));
  const struct rlimit limit = {BigValue(info[2], "argument 3"), BigValue(info[3], "argument 4")};
  if (syscall(SYS_prlimit64, pid, resource, &limit, nullptr) < 0) {
    throw SyscallError(info.Env(), errno, "prlimit", std::to_string(pid));
  }
  return info.Env().Undefined();
}

Napi::Value SetHostname(const Napi::CallbackInfo& info) {
  const std::string name = TextArg(info, 0);
  if (sethostname(name.c_str(), name.size()) < 0) throw SyscallError(info.Env(), errno, "sethostname", name);
  return info.Env().Undefined();
}

Napi::Value PeekExitedChild(const Napi::CallbackInfo& info) {
  siginfo_t child = {};
  if (waitid(P_ALL, 0, &child, WEXITED | WNOHANG | WNOWAIT) < 0) {
    if (errno == ECHILD) return info.Env().Undefined();
    throw SyscallError(info.Env(), errno, "waitid", "");
  }
  if (child.si_pid == 0) return info.Env().Undefined();
  return Napi::Number::New(info.Env(), child.si_pid);
}

Napi::Value ReapChild(const Napi::CallbackInfo& info) {
  const auto pid = static_cast<pid_t>(IntegerArg(info, 0, 1, INT32_MAX));
  if (waitpid(pid, nullptr, WNOHANG) < 0)
    throw SyscallError(info.Env(), errno, "waitpid", std::to_string(pid));
  return info.Env().Undefined();
}

Napi::Value LandlockAbi(const Napi::CallbackInfo& info) {
  const long version = syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  return Napi::Number::New(info.Env(), version < 0 ? 0 : static_cast<double>(version));
}

}  // namespace

void InitProcess(Napi::Object exports) {
  Export<SetDumpable>(exports, "setDumpable");
  Export<SetResourceLimit>(exports, "setResourceLimit");
  Export<SetHostname>(exports, "setHostname");
  Export<PeekExitedChild>(exports, "peekExitedChild");
  Export<ReapChild>(exports, "reapChild");
  Export<LandlockAbi>(exports, "landlockAbi");
}

}  // namespace gimbal
