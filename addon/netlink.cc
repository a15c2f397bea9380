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

// How many ends of answers a request asks for: one per message that wants an acknowledgement or a dump, at
// least one.
size_t WantedEnds(std::span<const uint8_t> request) {
  size_t wanted = 0;
  for (size_t at = 0; at + sizeof(nlmsghdr) <= request.size();) {
    nlmsghdr header;
    memcpy(&header, request.data() + at, sizeof header);
    if (header.nlmsg_flags & NLM_F_ACK || (header.nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP) wanted++;
    if (header.nlmsg_len < sizeof header) break;
    at += NLMSG_ALIGN(header.nlmsg_len);
  }
  return wanted > 0 ? wanted : 1;
}

struct Ends {
  size_t count;
  bool error;
};

// The ends of answers that a datagram holds, and whether one of them is a refusal.
Ends EndsIn(const std::vector<uint8_t>& datagram) {
  Ends ends = {0, false};
  for (size_t at = 0; at + sizeof(nlmsghdr) <= datagram.size();) {
    nlmsghdr header;
    memcpy(&header, datagram.data() + at, sizeof header);
    if (header.nlmsg_type == NLMSG_DONE || header.nlmsg_type == NLMSG_ERROR) {
      int32_t number = 0;
      if (at + sizeof header + sizeof number <= datagram.size()) {
        memcpy(&number, datagram.data() + at + sizeof header, sizeof number);
      }
      ends.count++;
      ends.error |= number != 0;
    }
    if (header.nlmsg_len < sizeof header) return {SIZE_MAX, true};
    at += NLMSG_ALIGN(header.nlmsg_len);
  }
  return ends;
}

Napi::Value Netlink(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto netns = static_cast<int>(IntegerArg(info, 0, -1, INT32_MAX));
  const auto protocol = static_cast<int>(IntegerArg(info, 1, 0, 31));
  const std::span<const uint8_t> request = BytesArg(info, 2);
  Fd fd = SocketIn(env, netns, protocol);
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
  // After a refusal nothing more is waited for, what is there already is taken: a batch stops at its first
  // error.
  bool refused = false;
  for (size_t wanted = WantedEnds(request), got = 0; got < wanted;) {
    datagram.resize(256 * 1024);
    const ssize_t length = recv(fd.get(), datagram.data(), datagram.size(), refused ? MSG_DONTWAIT : 0);
    if (length < 0 && refused) break;
    if (length < 0) throw SyscallError(env, errno, "recv netlink", "");
    datagram.resize(static_cast<size_t>(length));
    answers.Set(answers.Length(), Napi::Buffer<uint8_t>::Copy(env, datagram.data(), datagram.size()));
    const Ends ends = EndsIn(datagram);
    if (ends.count == SIZE_MAX) break;
    got += ends.count;
    refused |= ends.error;
  }
  return answers;
}

}  // namespace

void InitNetlink(Napi::Object exports) { Export<Netlink>(exports, "netlink"); }

}  // namespace gimbal
