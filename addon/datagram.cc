// Unix datagram sockets that tell who sent: what sd_notify(3) writes to.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <vector>

#include "addon.h"

namespace gimbal {
namespace {

Napi::Value BindDatagram(const Napi::CallbackInfo& info) {
  const std::string path = TextArg(info, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path)
    throw SyscallError(info.Env(), ENAMETOOLONG, "bind", path);
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  Fd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) throw SyscallError(info.Env(), errno, "socket AF_UNIX", path);
  const int on = 1;
  if (setsockopt(fd.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0) {
    throw SyscallError(info.Env(), errno, "setsockopt SO_PASSCRED", path);
  }
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) {
    throw SyscallError(info.Env(), errno, "bind", path);
  }
  return Napi::Number::New(info.Env(), fd.release());
}

// A sender may attach descriptors; the ones that fit the control buffer would otherwise stay open here.
void CloseReceived(msghdr& message, ucred& sender) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET) continue;
    if (part->cmsg_type == SCM_CREDENTIALS) memcpy(&sender, CMSG_DATA(part), sizeof sender);
    if (part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      close(fd);
    }
  }
}

Napi::Value ReceiveDatagram(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::vector<uint8_t> data(static_cast<size_t>(IntegerArg(info, 1, 1, 1 << 20)));
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(8 * sizeof(int))];
  iovec part = {data.data(), data.size()};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t length = recvmsg(FdArg(info, 0), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (length < 0) {
    if (errno == EAGAIN) return env.Undefined();
    throw SyscallError(env, errno, "recvmsg", "");
  }
  ucred sender = {0, UINT32_MAX, UINT32_MAX};
  CloseReceived(message, sender);
  Napi::Object datagram = Napi::Object::New(env);
  datagram.Set("data", Napi::Buffer<uint8_t>::Copy(env, data.data(), static_cast<size_t>(length)));
  datagram.Set("pid", sender.pid);
  datagram.Set("uid", sender.uid);
  datagram.Set("gid", sender.gid);
  return datagram;
}

}  // namespace

void InitDatagram(Napi::Object exports) {
  Export<BindDatagram>(exports, "bindDatagram");
  Export<ReceiveDatagram>(exports, "receiveDatagram");
}

}  // namespace gimbal
