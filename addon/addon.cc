#include "addon.h"

#include <sys/mman.h>

#include <cmath>
#include <cstring>

namespace gimbal {

Napi::Error SyscallError(Napi::Env env, int number, const char* syscall, const std::string& on,
                         const std::string& detail) {
  const char* name = strerrorname_np(number);
  const std::string code = name != nullptr ? name : "E" + std::to_string(number);
  std::string message = std::string(syscall) + (on.empty() ? "" : " " + on) + ": " + strerror(number);
  if (!detail.empty()) message += " (" + detail + ")";
  Napi::Error error = Napi::Error::New(env, message);
  Napi::Object value = error.Value();
  value.Set("code", code);
  value.Set("errno", number);
  value.Set("syscall", syscall);
  value.Set("on", on);
  if (!detail.empty()) value.Set("detail", detail);
  return error;
}

Fd MemoryFile(const char* name) {
  constexpr unsigned kNoExecSeal = 8;  // MFD_NOEXEC_SEAL
  Fd fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | kNoExecSeal));
  if (fd || errno != EINVAL) return fd;
  return Fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
}

namespace {

[[noreturn]] void WrongType(Napi::Env env, const std::string& what, const char* wanted) {
  throw Napi::TypeError::New(env, what + " is not " + wanted);
}

int64_t Integer(const Napi::Value& value, const std::string& what, int64_t min, int64_t max) {
  if (!value.IsNumber()) WrongType(value.Env(), what, "a number");
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(number >= static_cast<double>(min) && number <= static_cast<double>(max)) ||
      number != std::trunc(number)) {
    WrongType(value.Env(), what, "a whole number in range");
  }
  return static_cast<int64_t>(number);
}

std::string Text(const Napi::Value& value, const std::string& what) {
  if (!value.IsString()) WrongType(value.Env(), what, "a text");
  std::string text = value.As<Napi::String>().Utf8Value();
  if (text.find('\0') != std::string::npos) WrongType(value.Env(), what, "a text without NUL");
  return text;
}

std::span<const uint8_t> Bytes(const Napi::Value& value, const std::string& what) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    WrongType(value.Env(), what, "a Uint8Array");
  }
  const Napi::Uint8Array array = value.As<Napi::Uint8Array>();
  return {array.Data(), array.ByteLength()};
}

std::string Argument(size_t at) { return "argument " + std::to_string(at + 1); }

}  // namespace

int64_t IntegerArg(const Napi::CallbackInfo& info, size_t at, int64_t min, int64_t max) {
  return Integer(info[at], Argument(at), min, max);
}

std::string TextArg(const Napi::CallbackInfo& info, size_t at) { return Text(info[at], Argument(at)); }

bool BoolArg(const Napi::CallbackInfo& info, size_t at) {
  if (!info[at].IsBoolean()) WrongType(info.Env(), Argument(at), "true or false");
  return info[at].As<Napi::Boolean>().Value();
}

std::span<const uint8_t> BytesArg(const Napi::CallbackInfo& info, size_t at) {
  return Bytes(info[at], Argument(at));
}

Napi::Object ObjectArg(const Napi::CallbackInfo& info, size_t at) {
  if (!info[at].IsObject()) WrongType(info.Env(), Argument(at), "an object");
  return info[at].As<Napi::Object>();
}

std::string TextValue(const Napi::Value& value, const char* name) { return Text(value, name); }

std::string TextField(const Napi::Object& object, const char* name) { return Text(object.Get(name), name); }

int64_t IntegerField(const Napi::Object& object, const char* name, int64_t min, int64_t max) {
  return Integer(object.Get(name), name, min, max);
}

std::span<const uint8_t> BytesField(const Napi::Object& object, const char* name) {
  return Bytes(object.Get(name), name);
}

uint64_t BigValue(const Napi::Value& value, const char* name) {
  if (!value.IsBigInt()) WrongType(value.Env(), name, "a bigint");
  bool lossless = false;
  const uint64_t number = value.As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless) WrongType(value.Env(), name, "a bigint of 64 bits");
  return number;
}

uint64_t BigField(const Napi::Object& object, const char* name) { return BigValue(object.Get(name), name); }

namespace {

Napi::Object Init(Napi::Env, Napi::Object exports) {
  InitMount(exports);
  InitFile(exports);
  InitModule(exports);
  InitLoop(exports);
  InitDm(exports);
  InitPower(exports);
  InitProcess(exports);
  InitPidfd(exports);
  InitPoll(exports);
  InitTty(exports);
  InitKeyring(exports);
  InitBpf(exports);
  InitNetlink(exports);
  InitDatagram(exports);
  InitClone(exports);
  return exports;
}

}  // namespace
}  // namespace gimbal

static Napi::Object InitAll(Napi::Env env, Napi::Object exports) { return gimbal::Init(env, exports); }
NODE_API_MODULE(gimbal, InitAll)
