// Device-mapper by ioctl, without libdevmapper and udev: include/uapi/linux/dm-ioctl.h.
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include <cstring>
#include <vector>

#include "addon.h"

namespace gimbal {
namespace {

constexpr char kControl[] = "/dev/mapper/control";
constexpr size_t kReplyBytes = 64 * 1024;

// One request: struct dm_ioctl followed by its payload.
class Request {
 public:
  Request(const std::string& name, const std::string& uuid, uint32_t flags, size_t payload = 0)
      : buffer_(sizeof(dm_ioctl) + payload) {
    dm_ioctl* header = Header();
    header->version[0] = DM_VERSION_MAJOR;
    header->data_size = static_cast<uint32_t>(buffer_.size());
    header->data_start = sizeof(dm_ioctl);
    header->flags = flags;
    name.copy(header->name, DM_NAME_LEN - 1);
    uuid.copy(header->uuid, DM_UUID_LEN - 1);
  }
  Request(Request&&) = default;
  // A table may hold a key.
  ~Request() { explicit_bzero(buffer_.data(), buffer_.size()); }
  dm_ioctl* Header() { return reinterpret_cast<dm_ioctl*>(buffer_.data()); }
  char* Payload() { return buffer_.data() + sizeof(dm_ioctl); }
  size_t PayloadBytes() const { return buffer_.size() - sizeof(dm_ioctl); }

 private:
  std::vector<char> buffer_;
};

Fd OpenControl(Napi::Env env) {
  Fd control(open(kControl, O_RDWR | O_CLOEXEC));
  if (!control) throw SyscallError(env, errno, "open", kControl);
  return control;
}

struct Target {
  uint64_t start, length;
  std::string type, parameters;
};

size_t Padded(size_t bytes) { return (bytes + 7) & ~size_t{7}; }

std::vector<Target> Targets(const Napi::Value& value) {
  if (!value.IsArray()) throw Napi::TypeError::New(value.Env(), "the targets are not a list");
  const Napi::Array list = value.As<Napi::Array>();
  std::vector<Target> targets;
  for (uint32_t i = 0; i < list.Length(); i++) {
    if (!list.Get(i).IsObject()) throw Napi::TypeError::New(value.Env(), "a target is not an object");
    const Napi::Object target = list.Get(i).As<Napi::Object>();
    targets.push_back({BigField(target, "start"), BigField(target, "length"), TextField(target, "type"),
                       TextField(target, "parameters")});
    if (targets.back().type.size() >= DM_MAX_TYPE_NAME) {
      throw Napi::TypeError::New(value.Env(), "the type of a target is too long");
    }
  }
  return targets;
}

Request TableRequest(const std::string& name, uint32_t flags, const std::vector<Target>& targets) {
  size_t bytes = 0;
  for (const Target& target : targets) bytes += sizeof(dm_target_spec) + Padded(target.parameters.size() + 1);
  Request request(name, "", flags, bytes);
  request.Header()->target_count = static_cast<uint32_t>(targets.size());
  char* at = request.Payload();
  for (const Target& target : targets) {
    const size_t length = sizeof(dm_target_spec) + Padded(target.parameters.size() + 1);
    dm_target_spec spec = {};
    spec.sector_start = target.start;
    spec.length = target.length;
    spec.next = static_cast<uint32_t>(length);
    target.type.copy(spec.target_type, DM_MAX_TYPE_NAME - 1);
    memcpy(at, &spec, sizeof spec);
    memcpy(at + sizeof spec, target.parameters.c_str(), target.parameters.size() + 1);
    at += length;
  }
  return request;
}

Napi::Value DmCreate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string name = TextArg(info, 0), uuid = TextArg(info, 1);
  if (name.empty() || name.size() >= DM_NAME_LEN || uuid.size() >= DM_UUID_LEN) {
    throw Napi::TypeError::New(env, "the name or the uuid is too long");
  }
  const uint32_t read_only = BoolArg(info, 2) ? DM_READONLY_FLAG : 0u;
  // The table may hold a key: the kernel then wipes its copy of the buffer.
  const std::vector<Target> targets = Targets(info[3]);
  Fd control = OpenControl(env);
  Request create(name, uuid, read_only);
  if (ioctl(control.get(), DM_DEV_CREATE, create.Header()) < 0)
    throw SyscallError(env, errno, "ioctl DM_DEV_CREATE", name);
  const auto undo = [&](int number, const char* step) {
    Request remove(name, "", 0);
    ioctl(control.get(), DM_DEV_REMOVE, remove.Header());
    return SyscallError(env, number, step, name);
  };
  Request load = TableRequest(name, read_only | DM_SECURE_DATA_FLAG, targets);
  if (ioctl(control.get(), DM_TABLE_LOAD, load.Header()) < 0) throw undo(errno, "ioctl DM_TABLE_LOAD");
  Request resume(name, "", read_only);  // DM_DEV_SUSPEND without the suspend flag resumes
  if (ioctl(control.get(), DM_DEV_SUSPEND, resume.Header()) < 0) throw undo(errno, "ioctl DM_DEV_SUSPEND");
  const uint64_t device = resume.Header()->dev;
  Napi::Object result = Napi::Object::New(env);
  result.Set("major", major(device));
  result.Set("minor", minor(device));
  return result;
}

Napi::Value DmRemove(const Napi::CallbackInfo& info) {
  const std::string name = TextArg(info, 0);
  Fd control = OpenControl(info.Env());
  Request remove(name, "", BoolArg(info, 1) ? DM_DEFERRED_REMOVE : 0u);
  if (ioctl(control.get(), DM_DEV_REMOVE, remove.Header()) < 0) {
    throw SyscallError(info.Env(), errno, "ioctl DM_DEV_REMOVE", name);
  }
  return info.Env().Undefined();
}

Napi::Value DmStatus(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string name = TextArg(info, 0);
  Fd control = OpenControl(env);
  Request status(name, "", 0, kReplyBytes);
  if (ioctl(control.get(), DM_TABLE_STATUS, status.Header()) < 0)
    throw SyscallError(env, errno, "ioctl DM_TABLE_STATUS", name);
  if (status.Header()->flags & DM_BUFFER_FULL_FLAG)
    throw SyscallError(env, E2BIG, "ioctl DM_TABLE_STATUS", name);
  Napi::Array lines = Napi::Array::New(env);
  size_t at = 0;
  for (uint32_t i = 0; i < status.Header()->target_count; i++) {
    dm_target_spec spec;
    if (at + sizeof spec > status.PayloadBytes()) break;
    memcpy(&spec, status.Payload() + at, sizeof spec);
    const char* text = status.Payload() + at + sizeof spec;
    lines.Set(i, std::string(text, strnlen(text, status.PayloadBytes() - at - sizeof spec)));
    at = spec.next;  // counted from the first spec in a reply
  }
  return lines;
}

Napi::Value DmList(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Fd control = OpenControl(env);
  Request list("", "", 0, kReplyBytes);
  if (ioctl(control.get(), DM_LIST_DEVICES, list.Header()) < 0)
    throw SyscallError(env, errno, "ioctl DM_LIST_DEVICES", "");
  Napi::Array names = Napi::Array::New(env);
  for (size_t at = 0, i = 0;;) {
    dm_name_list entry;
    if (at + sizeof entry > list.PayloadBytes()) break;
    memcpy(&entry, list.Payload() + at, sizeof entry);
    if (entry.dev == 0) break;  // no device at all
    const char* text = list.Payload() + at + offsetof(dm_name_list, name);
    names.Set(static_cast<uint32_t>(i++), std::string(text, strnlen(text, DM_NAME_LEN)));
    if (entry.next == 0) break;
    at += entry.next;
  }
  return names;
}

}  // namespace

void InitDm(Napi::Object exports) {
  Export<DmCreate>(exports, "dmCreate");
  Export<DmRemove>(exports, "dmRemove");
  Export<DmStatus>(exports, "dmStatus");
  Export<DmList>(exports, "dmList");
}

}  // namespace gimbal
