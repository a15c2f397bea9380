// Is a plan well formed? One answer for both who ask: clone.cc before it makes a process, the shim before it
// acts. Plain C without a library. A field that an operation does not use must be empty, so that one plan has
// one encoding.
#ifndef GIMBAL_PLAN_CHECK_H_
#define GIMBAL_PLAN_CHECK_H_

#include <stddef.h>

#include "plan.h"

#define PLAN_STR0 1u
#define PLAN_STR1 2u
#define PLAN_STR2 4u
#define PLAN_SLOT 8u
#define PLAN_DATA 16u  // `length` octets at str1, in units of `unit`
#define PLAN_A 32u     // a is used, and has no bit outside of `a`
#define PLAN_B 64u

struct PlanRule {
  uint32_t uses;
  uint32_t unit;
  uint32_t max_length;
  uint64_t a;
  uint64_t b;
};

#define PLAN_NAMESPACES 0x7e020080u  // CLONE_NEW*
#define PLAN_ANY ~0ull

// The rule of an operation; `uses` is GIMBAL_NO_STRING for one that there is not.
static inline struct PlanRule PlanRuleOf(uint32_t op) {
  const struct PlanRule unknown = {GIMBAL_NO_STRING, 0, 0, 0, 0}, bare = {0, 0, 0, 0, 0};
  struct PlanRule rule = bare;
  switch (op) {
    case kOpSetsid:
    case kOpControllingTty:
    case kOpPivot:
    case kOpCloseOnExec:
    case kOpNoNewPrivs:
    case kOpFork:
    case kOpSessionKeyring:
    case kOpReset:
      return bare;
    case kOpIds:
      rule.uses = PLAN_STR1 | PLAN_DATA | PLAN_A | PLAN_B;
      rule.unit = 4;
      rule.max_length = 4 * 65536;
      rule.a = rule.b = 0xffffffffu;
      return rule;
    case kOpStdio:
      rule.uses = PLAN_SLOT | PLAN_A;
      rule.a = 3;
      return rule;
    case kOpUmask:
      rule.uses = PLAN_A;
      rule.a = 0777;
      return rule;
    case kOpRlimit:
      rule.uses = PLAN_A | PLAN_B;
      rule.max_length = 15;  // the resource
      rule.a = rule.b = PLAN_ANY;
      return rule;
    case kOpPropagation:
      rule.uses = PLAN_STR0 | PLAN_A;
      rule.a = 0x1e4000;  // MS_REC | MS_UNBINDABLE | MS_PRIVATE | MS_SLAVE | MS_SHARED
      return rule;
    case kOpMoveMount:
      rule.uses = PLAN_SLOT | PLAN_STR0;
      return rule;
    case kOpMountFs:
      rule.uses = PLAN_STR0 | PLAN_STR1 | PLAN_STR2 | PLAN_A;
      rule.a = 0xffffffffu;
      return rule;
    case kOpMkdir:
      rule.uses = PLAN_STR0 | PLAN_A | PLAN_B;
      rule.a = 07777;
      rule.b = 1;
      return rule;
    case kOpSymlink:
      rule.uses = PLAN_STR0 | PLAN_STR1;
      return rule;
    case kOpFile:
      rule.uses = PLAN_STR0 | PLAN_STR1 | PLAN_DATA | PLAN_A;
      rule.unit = 1;
      rule.max_length = GIMBAL_PLAN_MAX_BYTES;
      rule.a = 07777;
      return rule;
    case kOpBind:
      rule.uses = PLAN_STR0 | PLAN_STR1 | PLAN_A | PLAN_B;
      rule.a = 0xffffffffu;
      rule.b = 3;
      return rule;
    case kOpRemount:
      rule.uses = PLAN_STR0 | PLAN_A;
      rule.a = 0xffffffffu;
      return rule;
    case kOpChdir:
    case kOpHostname:
    case kOpOpenStdio:
      rule.uses = PLAN_STR0;
      return rule;
    case kOpBoundingSet:
      rule.uses = PLAN_A;
      rule.a = PLAN_ANY;
      return rule;
    case kOpCapabilities:
      rule.uses = PLAN_A | PLAN_B;
      rule.a = rule.b = PLAN_ANY;
      return rule;
    case kOpSeccomp:
      rule.uses = PLAN_STR1 | PLAN_DATA;
      rule.unit = 8;
      rule.max_length = 8 * 4096;  // BPF_MAXINSNS
      return rule;
    case kOpSetns:
      rule.uses = PLAN_SLOT | PLAN_A;
      rule.a = PLAN_NAMESPACES;
      return rule;
    case kOpLandlockScope:
      rule.uses = PLAN_A;
      rule.a = 3;
      return rule;
    case kOpOomScore:
      rule.uses = PLAN_A;
      rule.a = 1023;
      return rule;
    case kOpExec:
      rule.uses = PLAN_STR0 | PLAN_STR1 | PLAN_STR2 | PLAN_A;
      rule.max_length = GIMBAL_PLAN_MAX_STRINGS;
      rule.a = 0xffff;
      return rule;
    default:
      return unknown;
  }
}

// True if `count` texts, one after the other from `at` on, end inside of the string area.
static inline int PlanListFits(const char* strings, size_t bytes, size_t at, uint64_t count) {
  for (; count > 0; count--) {
    if (at >= bytes) return 0;
    while (strings[at]) at++;  // the area ends with NUL
    at++;
  }
  return 1;
}

// What is wrong with one operation, or null. `strings` ends with NUL and begins at a multiple of 8.
static inline const char* PlanOpProblem(const struct PlanOp* op, const char* strings, size_t bytes,
                                        uint32_t slots) {
  const struct PlanRule rule = PlanRuleOf(op->op);
  if (rule.uses == GIMBAL_NO_STRING) return "unknown operation";
  if (rule.uses & PLAN_SLOT ? op->slot < 0 || (uint32_t)op->slot >= slots : op->slot != -1) return "slot";
  const uint32_t texts[3] = {op->str0, op->str1, op->str2};
  for (uint32_t i = 0; i < 3; i++) {
    if (rule.uses & (PLAN_STR0 << i) ? texts[i] >= bytes : texts[i] != GIMBAL_NO_STRING) return "text";
  }
  if (op->length > rule.max_length) return "length";
  if (rule.uses & PLAN_DATA) {
    if (op->length % rule.unit || op->length > bytes - op->str1 || op->str1 % rule.unit) return "data";
  }
  if (op->a & ~rule.a || op->b & ~rule.b) return "value";
  switch (op->op) {
    case kOpStdio:
      return op->a > 2 ? "value" : NULL;
    case kOpOomScore:
      return op->a > 1000 ? "value" : NULL;
    case kOpSeccomp:
      return op->length == 0 ? "length" : NULL;
    case kOpExec:
      if (op->length == 0 || op->length + op->a + 2 > GIMBAL_PLAN_MAX_STRINGS) return "number of arguments";
      if (!PlanListFits(strings, bytes, op->str1, op->length)) return "arguments";
      return PlanListFits(strings, bytes, op->str2, op->a) ? NULL : "environment";
    default:
      return NULL;
  }
}

// What is wrong with a plan (PlanHeader and all that follows), or null. `plan` is aligned to 8; `at` gets the
// operation.
static inline const char* PlanProblem(const uint8_t* plan, size_t size, uint32_t slots, uint32_t* at) {
  const struct PlanHeader* header = (const struct PlanHeader*)plan;
  *at = 0;
  if (size < sizeof *header || size > GIMBAL_PLAN_MAX_BYTES) return "size";
  if (header->magic != GIMBAL_PLAN_MAGIC) return "magic";
  if (header->ops == 0 || header->ops > GIMBAL_PLAN_MAX_OPS) return "number of operations";
  const size_t strings_at = sizeof *header + header->ops * sizeof(struct PlanOp);
  if (size <= strings_at) return "no string area";
  if (plan[size - 1] != 0) return "the string area does not end with NUL";
  const struct PlanOp* ops = (const struct PlanOp*)(plan + sizeof *header);
  for (; *at < header->ops; (*at)++) {
    const char* problem = PlanOpProblem(ops + *at, (const char*)plan + strings_at, size - strings_at, slots);
    if (problem) return problem;
    if ((ops[*at].op == kOpExec) != (*at + 1 == header->ops)) return "exec is the last, and only the last";
  }
  return NULL;
}

#endif  // GIMBAL_PLAN_CHECK_H_
