// The start plan: what PID 1 writes and the shim carries out. init/container/plan.ts encodes it, clone.cc
// checks each record, shim/shim.c decodes it. All numbers are in the byte order of the machine: the plan
// never leaves it.
#ifndef GIMBAL_PLAN_H_
#define GIMBAL_PLAN_H_

#include <stdint.h>

#define GIMBAL_PLAN_MAGIC 0x316e6c70u  // "pln1"
#define GIMBAL_PLAN_MAX_OPS 512u
#define GIMBAL_PLAN_MAX_SLOTS 32u
#define GIMBAL_PLAN_MAX_BYTES (1u << 20)
#define GIMBAL_PLAN_MAX_STRINGS 65535u  // of argv and envp together, with their two ends

// As TypeScript writes it: PlanHeader, then `ops` records, then the string area up to the end.
struct PlanHeader {
  uint32_t magic;
  uint32_t ops;
};

// In the memfd that the shim maps, this stands before PlanHeader: which descriptor each slot is.
struct PlanPrefix {
  uint32_t bytes;     // of PlanHeader and all that follows it
  int32_t report_fd;  // PlanReport records go here
  uint32_t
      progress;  // the shim's: index of the operation it is at. The start program reads it after a time limit
  uint32_t slots;
  int32_t fds[GIMBAL_PLAN_MAX_SLOTS];
};

#define GIMBAL_PLAN_NOT_BEGUN 0xffffu  // progress, and index of a report: the shim does not run yet

#define GIMBAL_NO_STRING 0xffffffffu

// Strings are offsets into the string area; each ends with NUL inside it.
struct PlanOp {
  uint32_t op;
  int32_t slot;  // index into the slots, or -1
  uint32_t str0;
  uint32_t str1;
  uint32_t str2;
  uint32_t length;  // octets at str1 or str2 where these are data, or a count
  uint64_t a;
  uint64_t b;
};

// What the shim writes to report_fd. A failure: where `index` is the operation and `error` the errno, and the
// shim has ended. A fork: `error` is 0 and `value` the pid (in the namespace of whoever started the shim)
// that goes on.
struct PlanReport {
  uint16_t index;
  uint16_t error;
  uint32_t value;
};

enum PlanOpCode {
  kOpSetsid = 1,
  kOpIds = 2,    // a: uid, b: gid; str1: u32 groups, length in octets
  kOpStdio = 3,  // slot -> descriptor number a
  kOpControllingTty = 4,
  kOpUmask = 5,        // a
  kOpRlimit = 6,       // length: resource, a: soft, b: hard
  kOpPropagation = 7,  // str0: path, a: MS_* flags
  kOpMoveMount = 8,    // slot: detached mount -> str0: path
  kOpMountFs = 9,      // str0: type, str1: path, str2: options "k=v,k", a: MOUNT_ATTR_*
  kOpMkdir = 10,       // str0: path, a: mode; b != 0: may exist
  kOpSymlink = 11,     // str0: target, str1: path
  kOpFile = 12,        // str0: path, str1: contents, length, a: mode
  kOpBind = 13,        // str0: source, str1: path, a: MOUNT_ATTR_*; b bit 0: may be missing, bit 1: recursive
  kOpChdir = 14,       // str0
  kOpPivot = 15,       // pivot_root(".", ".") and lazily unmount the old root
  kOpHostname = 16,    // str0
  kOpCloseOnExec = 17,   // all descriptors from 3 on
  kOpBoundingSet = 18,   // a: mask of capabilities to keep
  kOpCapabilities = 19,  // a: effective and permitted, b: inheritable; ambient is cleared
  kOpNoNewPrivs = 20,
  kOpSeccomp = 21,  // str1: struct sock_filter[], length in octets
  kOpSetns = 22,    // slot, a: CLONE_NEW* or 0
  kOpFork = 23,     // goes on in a sibling (CLONE_PARENT) whose pid is reported
  kOpExec = 24,     // str0: path; str1: argv, length of them; str2: envp, a of them
  kOpSessionKeyring = 25,
  kOpLandlockScope = 26,  // a: LANDLOCK_SCOPE_* bits
  kOpReset = 27,          // signal dispositions and mask, nice, scheduling policy, personality
  kOpRemount = 28,        // str0: path, a: MOUNT_ATTR_* to set on it
  kOpOpenStdio = 29,      // str0: path of a terminal, opened as 0, 1 and 2
  kOpOomScore = 30,       // a: 0 to 1000
  kOpLimit,
};

#endif  // GIMBAL_PLAN_H_
