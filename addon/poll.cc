// Descriptors in the event loop: uv_poll_t, one per watch.
#include <fcntl.h>
#include <uv.h>

#include <memory>

#include "addon.h"

namespace gimbal {
namespace {

// Freed by libuv's close callback: the handle must outlive uv_close.
struct Poll {
  uv_poll_t handle;
  Napi::Env env;
  Napi::FunctionReference callback;
  napi_async_context context = nullptr;
  bool closed = false;
  // A copy of the descriptor of its own: libuv takes one poll per number, and a terminal is read and written.
  Fd fd;

  Poll(Napi::Env environment, int copy) : handle(), env(environment), fd(copy) {}
};

void OnEvent(uv_poll_t* handle, int status, int events) {
  Poll* poll = static_cast<Poll*>(handle->data);
  Napi::HandleScope scope(poll->env);
  const Napi::Env env = poll->env;  // the callback may close, and by that free, the poll
  try {
    poll->callback.MakeCallback(
        env.Global(), {Napi::Number::New(env, status < 0 ? -status : 0), Napi::Number::New(env, events)},
        poll->context);
  } catch (const Napi::Error& error) {
    // Below this are libuv's C frames: a C++ exception there would end the process. It becomes an
    // uncaughtException.
    napi_fatal_exception(env, error.Value());
  }
}

void Close(Poll* poll) {
  if (poll->closed) return;
  poll->closed = true;
  uv_poll_stop(&poll->handle);
  poll->fd = Fd(-1);  // after the stop epoll knows of it no more
  uv_close(reinterpret_cast<uv_handle_t*>(&poll->handle), [](uv_handle_t* handle) {
    Poll* finished = static_cast<Poll*>(handle->data);
    Napi::HandleScope scope(finished->env);
    if (finished->context != nullptr) napi_async_destroy(finished->env, finished->context);
    delete finished;
  });
}

Napi::Value WatchFd(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const int fd = FdArg(info, 0);
  const auto events = static_cast<int>(IntegerArg(info, 1, 1, 7));
  if (!info[2].IsFunction()) throw Napi::TypeError::New(env, "argument 3 is not a function");
  uv_loop_s* loop = nullptr;
  napi_get_uv_event_loop(env, &loop);
  auto poll = std::make_unique<Poll>(env, fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!poll->fd) throw SyscallError(env, errno, "fcntl F_DUPFD_CLOEXEC", "");
  const int result = uv_poll_init(loop, &poll->handle, poll->fd.get());
  if (result < 0) throw SyscallError(env, -result, "epoll_ctl", "");
  poll->handle.data = poll.get();
  poll->callback = Napi::Persistent(info[2].As<Napi::Function>());
  napi_async_init(env, nullptr, Napi::String::New(env, "gimbal.watch"), &poll->context);
  Poll* owned = poll.release();  // from here on Close frees it
  const int started = uv_poll_start(&owned->handle, events, OnEvent);
  if (started < 0) {
    Close(owned);
    throw SyscallError(env, -started, "epoll_ctl", "");
  }
  // The two functions share one flag, so that a second close after the handle was freed touches nothing.
  auto open = std::make_shared<bool>(true);
  Napi::Object watch = Napi::Object::New(env);
  watch.Set("close", Napi::Function::New(env, [owned, open](const Napi::CallbackInfo& call) {
              if (*open) {
                *open = false;
                Close(owned);
              }
              return call.Env().Undefined();
            }));
  watch.Set("unref", Napi::Function::New(env, [owned, open](const Napi::CallbackInfo& call) {
              if (*open) uv_unref(reinterpret_cast<uv_handle_t*>(&owned->handle));
              return call.Env().Undefined();
            }));
  return watch;
}

}  // namespace

void InitPoll(Napi::Object exports) { Export<WatchFd>(exports, "watchFd"); }

}  // namespace gimbal
