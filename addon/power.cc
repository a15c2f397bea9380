// reboot(2), sync(2), syslog(2), the clock and the watchdog.
#include <linux/watchdog.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/reboot.h>
#include <time.h>

#include "addon.h"

namespace gimbal {
namespace {

Napi::Value Reboot(const Napi::CallbackInfo& info) {
  const uint32_t command = FlagsArg(info, 0);
  if (reboot(static_cast<int>(command)) < 0) throw SyscallError(info.Env(), errno, "reboot", "");
  return info.Env().Undefined();
}

Napi::Value Sync(const Napi::CallbackInfo& info) {
  sync();
  return info.Env().Undefined();
}

Napi::Value SetConsoleLogLevel(const Napi::CallbackInfo& info) {
  constexpr int kConsoleLevel = 8;  // SYSLOG_ACTION_CONSOLE_LEVEL
  if (klogctl(kConsoleLevel, nullptr, static_cast<int>(IntegerArg(info, 0, 1, 8))) < 0) {
    throw SyscallError(info.Env(), errno, "syslog", "");
  }
  return info.Env().Undefined();
}

Napi::Value SetClock(const Napi::CallbackInfo& info) {
  const struct timespec time = {static_cast<time_t>(BigValue(info[0], "argument 1")), 0};
  if (clock_settime(CLOCK_REALTIME, &time) < 0) throw SyscallError(info.Env(), errno, "clock_settime", "");
  return info.Env().Undefined();
}

Napi::Value SetWatchdogTimeout(const Napi::CallbackInfo& info) {
  auto seconds = static_cast<int>(IntegerArg(info, 1, 1, INT32_MAX));
  if (ioctl(FdArg(info, 0), WDIOC_SETTIMEOUT, &seconds) < 0) {
    throw SyscallError(info.Env(), errno, "ioctl WDIOC_SETTIMEOUT", "");
  }
  return Napi::Number::New(info.Env(), seconds);
}

}  // namespace

void InitPower(Napi::Object exports) {
  Export<Reboot>(exports, "reboot");
  Export<Sync>(exports, "sync");
  Export<SetClock>(exports, "setClock");
  Export<SetWatchdogTimeout>(exports, "setWatchdogTimeout");
  Export<SetConsoleLogLevel>(exports, "setConsoleLogLevel");
}

}  // namespace gimbal
