// Loop devices, loop(4), and the size of block devices.
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>

#include "addon.h"

namespace gimbal {
namespace {

bool Flag(const Napi::Object& options, const char* name) { return options.Get(name).ToBoolean().Value(); }

Napi::Value LoopAttach(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const int file = FdArg(info, 0);
  const Napi::Object options = ObjectArg(info, 1);
  const bool read_only = Flag(options, "readOnly");
  struct loop_config config = {};
  config.fd = static_cast<uint32_t>(file);
  if (read_only) config.info.lo_flags |= LO_FLAGS_READ_ONLY;
  if (Flag(options, "autoclear")) config.info.lo_flags |= LO_FLAGS_AUTOCLEAR;
  if (Flag(options, "directIo")) config.info.lo_flags |= LO_FLAGS_DIRECT_IO;
  Fd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control) throw SyscallError(env, errno, "open", "/dev/loop-control");
  // Another process may take the free device first: then it is busy, and the next free one is asked for.
  for (int attempt = 0;; attempt++) {
    const int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) throw SyscallError(env, errno, "ioctl LOOP_CTL_GET_FREE", "/dev/loop-control");
    const std::string path = "/dev/loop" + std::to_string(number);
    Fd device(open(path.c_str(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
    if (!device) throw SyscallError(env, errno, "open", path);
    if (ioctl(device.get(), LOOP_CONFIGURE, &config) == 0) {
      Napi::Object result = Napi::Object::New(env);
      result.Set("fd", device.release());
      result.Set("path", path);
      return result;
    }
    if (errno != EBUSY || attempt == 64) throw SyscallError(env, errno, "ioctl LOOP_CONFIGURE", path);
  }
}

Napi::Value LoopDetach(const Napi::CallbackInfo& info) {
  if (ioctl(FdArg(info, 0), LOOP_CLR_FD) < 0) throw SyscallError(info.Env(), errno, "ioctl LOOP_CLR_FD", "");
  return info.Env().Undefined();
}

Napi::Value BlockDeviceSize(const Napi::CallbackInfo& info) {
  uint64_t bytes = 0;
  if (ioctl(FdArg(info, 0), BLKGETSIZE64, &bytes) < 0)
    throw SyscallError(info.Env(), errno, "ioctl BLKGETSIZE64", "");
  return Napi::BigInt::New(info.Env(), bytes);
}

}  // namespace

void InitLoop(Napi::Object exports) {
  Export<LoopAttach>(exports, "loopAttach");
  Export<LoopDetach>(exports, "loopDetach");
  Export<BlockDeviceSize>(exports, "blockDeviceSize");
}

}  // namespace gimbal
