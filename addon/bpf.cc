// bpf(2): cgroup device programs only.
#include <linux/bpf.h>
#include <sys/syscall.h>

#include <cstring>
#include <vector>

#include "addon.h"

namespace gimbal {
namespace {

// What the verifier says of a program that it refused: its last lines, by loading it once more.
std::string VerifierLog(union bpf_attr attr) {
  constexpr size_t kShown = 500;
  std::vector<char> log(64 * 1024);
  attr.log_level = 1;
  attr.log_buf = reinterpret_cast<uint64_t>(log.data());
  attr.log_size = static_cast<uint32_t>(log.size());
  Fd loaded(static_cast<int>(syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr)));
  const std::string text(log.data(), strnlen(log.data(), log.size()));
  return text.size() > kShown ? text.substr(text.size() - kShown) : text;
}

Napi::Value LoadDeviceProgram(const Napi::CallbackInfo& info) {
  const std::span<const uint8_t> bytes = BytesArg(info, 0);
  if (bytes.empty() || bytes.size() % sizeof(bpf_insn) != 0) {
    throw Napi::TypeError::New(info.Env(), "argument 1 is not a list of instructions of 8 octets");
  }
  std::vector<bpf_insn> instructions(bytes.size() / sizeof(bpf_insn));
  memcpy(instructions.data(), bytes.data(), bytes.size());
  static const char license[] = "GPL";
  union bpf_attr attr = {};
  attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attr.expected_attach_type = BPF_CGROUP_DEVICE;
  attr.insns = reinterpret_cast<uint64_t>(instructions.data());
  attr.insn_cnt = static_cast<uint32_t>(instructions.size());
  attr.license = reinterpret_cast<uint64_t>(license);
  Fd program(static_cast<int>(syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr)));
  if (!program) {
    const int number = errno;
    throw SyscallError(info.Env(), number, "bpf BPF_PROG_LOAD", "", VerifierLog(attr));
  }
  return Napi::Number::New(info.Env(), program.release());
}

Napi::Value AttachDeviceProgram(const Napi::CallbackInfo& info) {
  union bpf_attr attr = {};
  attr.target_fd = static_cast<uint32_t>(FdArg(info, 0));
  attr.attach_bpf_fd = static_cast<uint32_t>(FdArg(info, 1));
  attr.attach_type = BPF_CGROUP_DEVICE;
  attr.attach_flags = BPF_F_ALLOW_MULTI;
  if (!info[2].IsUndefined()) {
    attr.attach_flags |= BPF_F_REPLACE;
    attr.replace_bpf_fd = static_cast<uint32_t>(FdArg(info, 2));
  }
  if (syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof attr) < 0) {
    throw SyscallError(info.Env(), errno, "bpf BPF_PROG_ATTACH", "");
  }
  return info.Env().Undefined();
}

}  // namespace

void InitBpf(Napi::Object exports) {
  Export<LoadDeviceProgram>(exports, "loadDeviceProgram");
  Export<AttachDeviceProgram>(exports, "attachDeviceProgram");
}

}  // namespace gimbal
