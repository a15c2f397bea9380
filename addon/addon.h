// What all facilities share: errors with facts, descriptors that close themselves, checked arguments.
#ifndef GIMBAL_ADDON_H_
#define GIMBAL_ADDON_H_

#include <napi.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <span>
#include <string>

namespace gimbal {

// Owns a descriptor. release() hands it on.
class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      if (fd_ >= 0) close(fd_);
      fd_ = other.release();
    }
    return *this;
  }
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  explicit operator bool() const { return fd_ >= 0; }
  int get() const { return fd_; }
  int release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }

 private:
  int fd_;
};

// A memfd that cannot be executed. Kernels before 6.3 know no such flag, later ones log those who do not say.
Fd MemoryFile(const char* name);

// The error of kernel.ts: code, errno, syscall, on, detail.
Napi::Error SyscallError(Napi::Env env, int number, const char* syscall, const std::string& on,
                         const std::string& detail = "");

// Arguments. Each throws a TypeError naming the position when the value is of another type or out of range.
int64_t IntegerArg(const Napi::CallbackInfo& info, size_t at, int64_t min, int64_t max);
inline int FdArg(const Napi::CallbackInfo& info, size_t at) {
  return static_cast<int>(IntegerArg(info, at, -100, INT32_MAX));
}
inline uint32_t FlagsArg(const Napi::CallbackInfo& info, size_t at) {
  return static_cast<uint32_t>(IntegerArg(info, at, 0, UINT32_MAX));
}
// A text without NUL: what the kernel sees is what was passed.
std::string TextArg(const Napi::CallbackInfo& info, size_t at);
bool BoolArg(const Napi::CallbackInfo& info, size_t at);
// A view of a Uint8Array; valid as long as the call.
std::span<const uint8_t> BytesArg(const Napi::CallbackInfo& info, size_t at);
Napi::Object ObjectArg(const Napi::CallbackInfo& info, size_t at);

// The same for a value, and for a property of an object.
std::string TextValue(const Napi::Value& value, const char* name);
std::string TextField(const Napi::Object& object, const char* name);
int64_t IntegerField(const Napi::Object& object, const char* name, int64_t min, int64_t max);
std::span<const uint8_t> BytesField(const Napi::Object& object, const char* name);
uint64_t BigField(const Napi::Object& object, const char* name);
uint64_t BigValue(const Napi::Value& value, const char* name);

template <Napi::Value (*Function)(const Napi::CallbackInfo&)>
void Export(Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New(exports.Env(), Function, name));
}

// One per facility, each in the file of that name.
void InitMount(Napi::Object exports);
void InitFile(Napi::Object exports);
void InitModule(Napi::Object exports);
void InitLoop(Napi::Object exports);
void InitDm(Napi::Object exports);
void InitPower(Napi::Object exports);
void InitProcess(Napi::Object exports);
void InitPidfd(Napi::Object exports);
void InitPoll(Napi::Object exports);
void InitTty(Napi::Object exports);
void InitKeyring(Napi::Object exports);
void InitBpf(Napi::Object exports);
void InitNetlink(Napi::Object exports);
void InitDatagram(Napi::Object exports);
void InitClone(Napi::Object exports);

}  // namespace gimbal

#endif  // GIMBAL_ADDON_H_
