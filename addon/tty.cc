// Pseudoterminals, pty(7), and window sizes.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "addon.h"

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

namespace gimbal {
namespace {

Napi::Value OpenPty(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  // A ptmx opened with O_PATH, or any descriptor of it, is opened anew: each open is another terminal.
  const std::string path =
      info[0].IsUndefined() ? "/dev/ptmx" : "/proc/self/fd/" + std::to_string(FdArg(info, 0));
  Fd master(open(path.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!master) throw SyscallError(env, errno, "open", path);
  const int unlock = 0;
  if (ioctl(master.get(), TIOCSPTLCK, &unlock) < 0) throw SyscallError(env, errno, "ioctl TIOCSPTLCK", path);
  Fd slave(ioctl(master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!slave) throw SyscallError(env, errno, "ioctl TIOCGPTPEER", path);
  Napi::Object pair = Napi::Object::New(env);
  pair.Set("master", master.release());
  pair.Set("slave", slave.release());
  return pair;
}

Napi::Value SetWindowSize(const Napi::CallbackInfo& info) {
  const Napi::Object wanted = ObjectArg(info, 1);
  struct winsize size = {};
  size.ws_row = static_cast<uint16_t>(IntegerField(wanted, "rows", 0, UINT16_MAX));
  size.ws_col = static_cast<uint16_t>(IntegerField(wanted, "columns", 0, UINT16_MAX));
  if (ioctl(FdArg(info, 0), TIOCSWINSZ, &size) < 0)
    throw SyscallError(info.Env(), errno, "ioctl TIOCSWINSZ", "");
  return info.Env().Undefined();
}

Napi::Value WindowSize(const Napi::CallbackInfo& info) {
  struct winsize size = {};
  if (ioctl(FdArg(info, 0), TIOCGWINSZ, &size) < 0)
    throw SyscallError(info.Env(), errno, "ioctl TIOCGWINSZ", "");
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("rows", size.ws_row);
  result.Set("columns", size.ws_col);
  return result;
}

}  // namespace

void InitTty(Napi::Object exports) {
  Export<OpenPty>(exports, "openPty");
  Export<SetWindowSize>(exports, "setWindowSize");
  Export<WindowSize>(exports, "windowSize");
}

}  // namespace gimbal
