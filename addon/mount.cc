// Mounts: mount(2), the mount API by descriptors (fsopen(2) ... mount_setattr(2)), pivot_root(2), chroot(2).
#include <fcntl.h>
#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include "addon.h"

namespace gimbal {
namespace {

// What the file system wrote into the context: one message per read, "e text" for an error.
std::string FsLog(int context) {
  std::string log;
  char message[512];
  for (int lines = 0; lines < 8; lines++) {
    const ssize_t length = read(context, message, sizeof message);
    if (length <= 0) break;
    if (!log.empty()) log += "; ";
    log.append(message, static_cast<size_t>(length));
    while (!log.empty() && log.back() == '\n') log.pop_back();
  }
  return log;
}

Napi::Value Mount(const Napi::CallbackInfo& info) {
  const std::string source = TextArg(info, 0), target = TextArg(info, 1), type = TextArg(info, 2),
                    data = TextArg(info, 4);
  if (mount(source.c_str(), target.c_str(), type.empty() ? nullptr : type.c_str(), FlagsArg(info, 3),
            data.empty() ? nullptr : data.c_str()) < 0) {
    throw SyscallError(info.Env(), errno, "mount", target);
  }
  return info.Env().Undefined();
}

Napi::Value Umount(const Napi::CallbackInfo& info) {
  const std::string target = TextArg(info, 0);
  if (umount2(target.c_str(), static_cast<int>(FlagsArg(info, 1))) < 0) {
    throw SyscallError(info.Env(), errno, "umount2", target);
  }
  return info.Env().Undefined();
}

Napi::Value FsMount(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string type = TextArg(info, 0);
  if (!info[1].IsArray()) throw Napi::TypeError::New(env, "argument 2 is not a list of options");
  const Napi::Array options = info[1].As<Napi::Array>();
  const uint32_t attributes = FlagsArg(info, 2);
  Fd context(static_cast<int>(syscall(SYS_fsopen, type.c_str(), FSOPEN_CLOEXEC)));
  if (!context) throw SyscallError(env, errno, "fsopen", type);
  for (uint32_t i = 0; i < options.Length(); i++) {
    if (!options.Get(i).IsArray()) throw Napi::TypeError::New(env, "an option is not a list");
    const Napi::Array option = options.Get(i).As<Napi::Array>();
    const std::string key = TextValue(option.Get(0u), "an option's key");
    int result;
    if (option.Length() < 2) {
      result =
          static_cast<int>(syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_FLAG, key.c_str(), nullptr, 0));
    } else {
      const std::string value = TextValue(option.Get(1u), "an option's value");
      result = static_cast<int>(
          syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_STRING, key.c_str(), value.c_str(), 0));
    }
    if (result < 0) {
      const int number = errno;  // reading the log changes it
      throw SyscallError(env, number, "fsconfig", type + " " + key, FsLog(context.get()));
    }
  }
  if (syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0) {
    const int number = errno;
    throw SyscallError(env, number, "fsconfig", type, FsLog(context.get()));
  }
  Fd mounted(static_cast<int>(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, attributes)));
  if (!mounted) throw SyscallError(env, errno, "fsmount", type);
  return Napi::Number::New(env, mounted.release());
}

Napi::Value OpenTree(const Napi::CallbackInfo& info) {
  const std::string path = TextArg(info, 1);
  Fd tree(static_cast<int>(
      syscall(SYS_open_tree, FdArg(info, 0), path.c_str(), FlagsArg(info, 2) | OPEN_TREE_CLOEXEC)));
  if (!tree) throw SyscallError(info.Env(), errno, "open_tree", path);
  return Napi::Number::New(info.Env(), tree.release());
}

Napi::Value MoveMount(const Napi::CallbackInfo& info) {
  const std::string path = TextArg(info, 2);
  if (syscall(SYS_move_mount, FdArg(info, 0), "", FdArg(info, 1), path.c_str(),
              MOVE_MOUNT_F_EMPTY_PATH | (path.empty() ? MOVE_MOUNT_T_EMPTY_PATH : 0)) < 0) {
    throw SyscallError(info.Env(), errno, "move_mount", path);
  }
  return info.Env().Undefined();
}

Napi::Value MountSetattr(const Napi::CallbackInfo& info) {
  const std::string path = TextArg(info, 1);
  const Napi::Object wanted = ObjectArg(info, 3);
  struct mount_attr attr = {};
  if (wanted.Has("set")) attr.attr_set = static_cast<uint64_t>(IntegerField(wanted, "set", 0, UINT32_MAX));
  if (wanted.Has("clear"))
    attr.attr_clr = static_cast<uint64_t>(IntegerField(wanted, "clear", 0, UINT32_MAX));
  if (wanted.Has("propagation")) {
    attr.propagation = static_cast<uint64_t>(IntegerField(wanted, "propagation", 0, UINT32_MAX));
  }
  if (wanted.Has("usernsFd")) {
    attr.attr_set |= MOUNT_ATTR_IDMAP;
    attr.userns_fd = static_cast<uint64_t>(IntegerField(wanted, "usernsFd", 0, INT32_MAX));
  }
  const uint32_t flags = FlagsArg(info, 2) | (path.empty() ? static_cast<uint32_t>(AT_EMPTY_PATH) : 0u);
  if (syscall(SYS_mount_setattr, FdArg(info, 0), path.c_str(), flags, &attr, sizeof attr) < 0) {
    throw SyscallError(info.Env(), errno, "mount_setattr", path);
  }
  return info.Env().Undefined();
}

Napi::Value PivotRoot(const Napi::CallbackInfo& info) {
  const std::string new_root = TextArg(info, 0), put_old = TextArg(info, 1);
  if (syscall(SYS_pivot_root, new_root.c_str(), put_old.c_str()) < 0) {
    throw SyscallError(info.Env(), errno, "pivot_root", new_root);
  }
  return info.Env().Undefined();
}

Napi::Value Chroot(const Napi::CallbackInfo& info) {
  const std::string path = TextArg(info, 0);
  if (chroot(path.c_str()) < 0) throw SyscallError(info.Env(), errno, "chroot", path);
  return info.Env().Undefined();
}

}  // namespace

void InitMount(Napi::Object exports) {
  Export<Mount>(exports, "mount");
  Export<Umount>(exports, "umount");
  Export<FsMount>(exports, "fsMount");
  Export<OpenTree>(exports, "openTree");
  Export<MoveMount>(exports, "moveMount");
  Export<MountSetattr>(exports, "mountSetattr");
  Export<PivotRoot>(exports, "pivotRoot");
  Export<Chroot>(exports, "chroot");
}

}  // namespace gimbal
