// Kernel keys: add_key(2), keyctl(2).
#include <linux/keyctl.h>
#include <sys/syscall.h>

#include "addon.h"

namespace gimbal {
namespace {

Napi::Value AddKey(const Napi::CallbackInfo& info) {
  const std::string type = TextArg(info, 0), description = TextArg(info, 1);
  const std::span<const uint8_t> payload = BytesArg(info, 2);
  const auto keyring = static_cast<int32_t>(IntegerArg(info, 3, INT32_MIN, INT32_MAX));
  const long serial =
      syscall(SYS_add_key, type.c_str(), description.c_str(), payload.data(), payload.size(), keyring);
  if (serial < 0) throw SyscallError(info.Env(), errno, "add_key", description);
  return Napi::Number::New(info.Env(), static_cast<double>(serial));
}

Napi::Value Revoke(const Napi::CallbackInfo& info) {
  if (syscall(SYS_keyctl, KEYCTL_REVOKE, IntegerArg(info, 0, INT32_MIN, INT32_MAX)) < 0) {
    throw SyscallError(info.Env(), errno, "keyctl KEYCTL_REVOKE", "");
  }
  return info.Env().Undefined();
}

Napi::Value Unlink(const Napi::CallbackInfo& info) {
  if (syscall(SYS_keyctl, KEYCTL_UNLINK, IntegerArg(info, 0, INT32_MIN, INT32_MAX),
              IntegerArg(info, 1, INT32_MIN, INT32_MAX)) < 0) {
    throw SyscallError(info.Env(), errno, "keyctl KEYCTL_UNLINK", "");
  }
  return info.Env().Undefined();
}

}  // namespace

void InitKeyring(Napi::Object exports) {
  Export<AddKey>(exports, "addKey");
  Export<Revoke>(exports, "revokeKey");
  Export<Unlink>(exports, "unlinkKey");
}

}  // namespace gimbal
