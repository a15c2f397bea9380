// finit_module(2).
#include <sys/syscall.h>

#include "addon.h"

namespace gimbal {
namespace {

Napi::Value FinitModule(const Napi::CallbackInfo& info) {
  const std::string parameters = TextArg(info, 1);
  if (syscall(SYS_finit_module, FdArg(info, 0), parameters.c_str(), FlagsArg(info, 2)) < 0) {
    throw SyscallError(info.Env(), errno, "finit_module", "");
  }
  return info.Env().Undefined();
}

}  // namespace

void InitModule(Napi::Object exports) { Export<FinitModule>(exports, "finitModule"); }

}  // namespace gimbal
