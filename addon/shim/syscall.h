// System calls without a C library: six arguments in registers, a negative errno comes back. Used where no
// libc may run: in the shim, and in the CLONE_VM child that shares PID 1's memory until it execs the shim.
#ifndef GIMBAL_SYSCALL_H_
#define GIMBAL_SYSCALL_H_

#include <asm/unistd.h>

static inline long Syscall6(long n, long a, long b, long c, long d, long e, long f) {
#if defined(__x86_64__)
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 __asm__("x8") = n;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  register long x4 __asm__("x4") = e;
  register long x5 __asm__("x5") = f;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
#else
#error "no system call stub for this architecture"
#endif
}

#define SYS0(n) Syscall6(n, 0, 0, 0, 0, 0, 0)
#define SYS1(n, a) Syscall6(n, (long)(a), 0, 0, 0, 0, 0)
#define SYS2(n, a, b) Syscall6(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define SYS3(n, a, b, c) Syscall6(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define SYS4(n, a, b, c, d) Syscall6(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define SYS5(n, a, b, c, d, e) Syscall6(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

#endif  // GIMBAL_SYSCALL_H_
