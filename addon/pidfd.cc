// Processes by descriptor: pidfd_open(2), pidfd_send_signal(2), waitid(2) with P_PIDFD.
#include <sys/syscall.h>
#include <sys/wait.h>

#include "addon.h"

namespace gimbal {
namespace {

Napi::Value PidfdOpen(const Napi::CallbackInfo& info) {
  const auto pid = static_cast<pid_t>(IntegerArg(info, 0, 1, INT32_MAX));
  Fd fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!fd) throw SyscallError(info.Env(), errno, "pidfd_open", std::to_string(pid));
  return Napi::Number::New(info.Env(), fd.release());
}

Napi::Value PidfdSignal(const Napi::CallbackInfo& info) {
  if (syscall(SYS_pidfd_send_signal, FdArg(info, 0), IntegerArg(info, 1, 0, 64), nullptr, 0) < 0) {
    throw SyscallError(info.Env(), errno, "pidfd_send_signal", "");
  }
  return info.Env().Undefined();
}

Napi::Value PidfdWait(const Napi::CallbackInfo& info) {
  siginfo_t child = {};
  if (waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(FdArg(info, 0)), &child,
             WEXITED | WNOHANG | __WALL) < 0) {
    throw SyscallError(info.Env(), errno, "waitid", "");
  }
  if (child.si_pid == 0) return info.Env().Undefined();
  Napi::Object status = Napi::Object::New(info.Env());
  status.Set("pid", child.si_pid);
  status.Set("code", child.si_code);
  status.Set("status", child.si_status);
  return status;
}

Napi::Value PidfdGetfd(const Napi::CallbackInfo& info) {
  const auto target = static_cast<unsigned>(IntegerArg(info, 1, 0, INT32_MAX));
  Fd fd(static_cast<int>(syscall(SYS_pidfd_getfd, FdArg(info, 0), target, 0)));
  if (!fd) throw SyscallError(info.Env(), errno, "pidfd_getfd", std::to_string(target));
  return Napi::Number::New(info.Env(), fd.release());
}

}  // namespace

void InitPidfd(Napi::Object exports) {
  Export<PidfdOpen>(exports, "pidfdOpen");
  Export<PidfdSignal>(exports, "pidfdSignal");
  Export<PidfdWait>(exports, "pidfdWait");
  Export<PidfdGetfd>(exports, "pidfdGetfd");
}

}  // namespace gimbal
