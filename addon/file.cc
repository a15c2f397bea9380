// Files relative to descriptors: openat2(2), the *at calls, memfd_create(2), pipe2(2).
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "addon.h"

namespace gimbal {
namespace {

Napi::Value Done(const Napi::CallbackInfo& info, int result, const char* syscall, const std::string& on) {
  if (result < 0) throw SyscallError(info.Env(), errno, syscall, on);
  return info.Env().Undefined();
}

Napi::Value Openat2(const Napi::CallbackInfo& info) {
  const std::string path = TextArg(info, 1);
  struct open_how how = {};
  how.flags = FlagsArg(info, 2) | O_CLOEXEC;
  how.mode = FlagsArg(info, 3);
  how.resolve = FlagsArg(info, 4);
  Fd fd(static_cast<int>(syscall(SYS_openat2, FdArg(info, 0), path.c_str(), &how, sizeof how)));
  if (!fd) throw SyscallError(info.Env(), errno, "openat2", path);
  return Napi::Number::New(info.Env(), fd.release());
}

Napi::Value Mkdirat(const Napi::CallbackInfo& info) {
  const std::string path = TextArg(info, 1);
  return Done(info, mkdirat(FdArg(info, 0), path.c_str(), FlagsArg(info, 2)), "mkdirat", path);
}

Napi::Value Mknodat(const Napi::CallbackInfo& info) {
  const std::string path = TextArg(info, 1);
  const Napi::Object device = ObjectArg(info, 3);
  const auto number = makedev(static_cast<unsigned>(IntegerField(device, "major", 0, 0xfff)),
                              static_cast<unsigned>(IntegerField(device, "minor", 0, 0xfffff)));
  return Done(info, mknodat(FdArg(info, 0), path.c_str(), FlagsArg(info, 2), number), "mknodat", path);
}

Napi::Value Symlinkat(const Napi::CallbackInfo& info) {
  const std::string target = TextArg(info, 0), path = TextArg(info, 2);
  return Done(info, symlinkat(target.c_str(), FdArg(info, 1), path.c_str()), "symlinkat", path);
}

Napi::Value Unlinkat(const Napi::CallbackInfo& info) {
  const std::string path = TextArg(info, 1);
  return Done(info, unlinkat(FdArg(info, 0), path.c_str(), static_cast<int>(FlagsArg(info, 2))), "unlinkat",
              path);
}

Napi::Value Fchownat(const Napi::CallbackInfo& info) {
  const std::string path = TextArg(info, 1);
  const int flags = static_cast<int>(FlagsArg(info, 4)) | (path.empty() ? AT_EMPTY_PATH : 0);
  return Done(info, fchownat(FdArg(info, 0), path.c_str(), FlagsArg(info, 2), FlagsArg(info, 3), flags),
              "fchownat", path);
}

Napi::Value Fchmodat(const Napi::CallbackInfo& info) {
  const std::string path = TextArg(info, 1);
  return Done(info, fchmodat(FdArg(info, 0), path.c_str(), FlagsArg(info, 2), 0), "fchmodat", path);
}

Napi::Value Umask(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), umask(FlagsArg(info, 0)));
}

Napi::Value Memfd(const Napi::CallbackInfo& info) {
  const std::string name = TextArg(info, 0);
  const std::span<const uint8_t> content = BytesArg(info, 1);
  Fd fd = MemoryFile(name.c_str());
  if (!fd) throw SyscallError(info.Env(), errno, "memfd_create", name);
  for (size_t done = 0; done < content.size();) {
    const ssize_t wrote =
        pwrite(fd.get(), content.data() + done, content.size() - done, static_cast<off_t>(done));
    if (wrote < 0) throw SyscallError(info.Env(), errno, "pwrite", name);
    done += static_cast<size_t>(wrote);
  }
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0) {
    throw SyscallError(info.Env(), errno, "fcntl", name);
  }
  return Napi::Number::New(info.Env(), fd.release());
}

Napi::Value SetNonBlocking(const Napi::CallbackInfo& info) {
  const int fd = FdArg(info, 0);
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0) throw SyscallError(info.Env(), errno, "fcntl", "");
  return Done(info, fcntl(fd, F_SETFL, BoolArg(info, 1) ? flags | O_NONBLOCK : flags & ~O_NONBLOCK), "fcntl",
              "");
}

Napi::Value Pipe(const Napi::CallbackInfo& info) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) < 0) throw SyscallError(info.Env(), errno, "pipe2", "");
  Napi::Array pair = Napi::Array::New(info.Env(), 2);
  pair.Set(0u, fds[0]);
  pair.Set(1u, fds[1]);
  return pair;
}

}  // namespace

void InitFile(Napi::Object exports) {
  Export<Openat2>(exports, "openat2");
  Export<Mkdirat>(exports, "mkdirat");
  Export<Mknodat>(exports, "mknodat");
  Export<Symlinkat>(exports, "symlinkat");
  Export<Unlinkat>(exports, "unlinkat");
  Export<Fchownat>(exports, "fchownat");
  Export<Fchmodat>(exports, "fchmodat");
  Export<Umask>(exports, "umask");
  Export<Memfd>(exports, "memfd");
  Export<SetNonBlocking>(exports, "setNonBlocking");
  Export<Pipe>(exports, "pipe");
}

}  // namespace gimbal
