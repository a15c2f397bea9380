// One netlink exchange, netlink(7), in a network namespace of choice.
#include <fcntl.h>
#include <linux/netlink.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cstring>
#include <vector>

#include "addon.h"

namespace gimbal {
namespace {

// A socket keeps the namespace it was made in, so this thread is elsewhere only while socket(2) runs.
Fd SocketIn(Napi::Env env, int netns, int protocol) {
  const auto make = [&] { return Fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)); };
  if (netns < 0) {
    Fd fd = make();
    if (!fd) throw SyscallError(env, errno, "socket AF_NETLINK", "");
    return fd;
  }
  Fd home(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!home) throw SyscallError(env, errno, "open", "/proc/thread-self/ns/net");
  if (setns(netns, CLONE_NEWNET) < 0) throw SyscallError(env, errno, "setns", "network namespace");
  Fd fd = make();
  const int number = errno;
  // A thread that stayed in a guest's network must not go on: ending the process is the smaller evil.
  if (setns(home.get(), CLONE_NEWNET) < 0) abort();
  if (!fd) throw SyscallError(env, number, "socket AF_NETLINK", "");
  return fd;
}

// True if the datagram holds the end of an answer.
bool IsLast(const std::vector<uint8_t>& datagram) {
  size_t at = 0;
  while (at + sizeof(nlmsghdr) <= datagram.size()) {
    nlmsghdr header;
    memcpy(&header, datagram.data() + at, sizeof header);
    if (header.nlmsg_type == NLMSG_DONE || header.nlmsg_type == NLMSG_ERROR) return true;
    if (header.nlmsg_len < sizeof header) return true;
    at += NLMSG_ALIGN(header.nlmsg_len);
  }
  return false;
}

Napi::Value Netlink(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto protocol = static_cast<int>(IntegerArg(info, 1, 0, 31));
  const std::span<const uint8_t> request = BytesArg(info, 2);
  Fd fd = SocketIn(env, static_cast<int>(IntegerArg(info, 0, -1, INT32_MAX)), protocol);
  const struct timeval limit = {5, 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  sockaddr_nl kernel = {};
  kernel.nl_family = AF_NETLINK;
  if (sendto(fd.get(), request.data(), request.size(), 0, reinterpret_cast<sockaddr*>(&kernel),
             sizeof kernel) < 0) {
    throw SyscallError(env, errno, "sendto netlink", "");
  }
  Napi::Array answers = Napi::Array::New(env);
  std::vector<uint8_t> datagram;
  do {
    datagram.resize(256 * 1024);
    const ssize_t length = recv(fd.get(), datagram.data(), datagram.size(), 0);
    if (length < 0) throw SyscallError(env, errno, "recv netlink", "");
    datagram.resize(static_cast<size_t>(length));
    answers.Set(answers.Length(), Napi::Buffer<uint8_t>::Copy(env, datagram.data(), datagram.size()));
  } while (!IsLast(datagram));
  return answers;
}

}  // namespace

void InitNetlink(Napi::Object exports) { Export<Netlink>(exports, "netlink"); }

}  // namespace gimbal
