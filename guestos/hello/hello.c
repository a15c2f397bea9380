// The smallest guest: prints a line and exits with 0. With the argument "idle", or HELLO=idle in its
// environment (init_env of the container's config), it waits for SIGTERM instead: a guest that costs next to
// nothing. No C library.
#include "../../addon/shim/syscall.h"

// struct sigaction as the kernel has it.
struct Action {
  void (*handler)(int);
  unsigned long flags;
  void (*restorer)(void);
  unsigned long mask;
};
enum { kTerm = 15, kRestorer = 0x04000000 };

// Never returns, so that no restorer is needed.
static void End(int number) {
  (void)number;
  for (;;) SYS1(__NR_exit_group, 0);
}

static int Is(const char* text, const char* wanted) {
  while (*text != '\0' && *text == *wanted) text++, wanted++;
  return *text == *wanted;
}

// The stack of a new process: argc, argv, 0, envp, 0 (System V ABI).
__attribute__((used)) static _Noreturn void Main(const long* stack) {
  static const char line[] = "hello from a container\n";
  const long argc = stack[0];
  const char* const* argv = (const char* const*)(stack + 1);
  int idle = argc > 1 && Is(argv[1], "idle");
  for (const char* const* entry = argv + argc + 1; *entry != 0; entry++) {
    if (Is(*entry, "HELLO=idle")) idle = 1;
  }
  // pid 1 of a container gets only signals that it handles. Before the line: whoever read it may send one.
  const struct Action on_term = {End, kRestorer, 0, 0};
  if (idle) SYS4(__NR_rt_sigaction, kTerm, &on_term, 0, 8);
  SYS3(__NR_write, 1, line, sizeof line - 1);
  while (idle) SYS4(__NR_ppoll, 0, 0, 0, 0);
  for (;;) SYS1(__NR_exit_group, 0);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n  xor %ebp, %ebp\n  mov %rsp, %rdi\n  and $-16, %rsp\n  call Main\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n  mov x29, #0\n  mov x0, sp\n  bl Main\n");
#endif
