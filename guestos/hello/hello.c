// The smallest guest: prints a line and exits with 0. With the argument "idle" it waits for a signal instead. No C library.
#include "../../addon/shim/syscall.h"

__attribute__((used)) static _Noreturn void Main(const long* stack) {
  static const char line[] = "hello from a container\n";
  const char* argument = stack[0] > 1 ? (const char*)stack[2] : "";
  SYS3(__NR_write, 1, line, sizeof line - 1);
  if (argument[0] == 'i') {
    // pid 1 of a container has no default action for SIGTERM, so it waits for that signal by name.
    const unsigned long term = 1ul << 14;
    SYS4(__NR_rt_sigprocmask, 0, &term, 0, 8);
    SYS4(__NR_rt_sigtimedwait, &term, 0, 0, 8);
  }
  for (;;) SYS1(__NR_exit_group, 0);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n  xor %ebp, %ebp\n  mov %rsp, %rdi\n  and $-16, %rsp\n  call Main\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n  mov x29, #0\n  mov x0, sp\n  bl Main\n");
#endif
