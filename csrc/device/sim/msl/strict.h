// csrc/device/sim/msl/strict.h: strict mode's view of every memory access: the
// compiler's thread-sanitizer calls, handed to the runtime.
#pragma once

#define MSL_UNCHECKED __attribute__((no_sanitize("thread"), nodebug))

namespace orchard::sim::strict {
MSL_UNCHECKED inline __attribute__((always_inline)) void access(
    const void* at, abi::u64 bytes, bool is_write, bool is_vector, void* pc) {
  abi::Context* c = abi::context();
  // The arena, which the context begins, holds the stacks: nothing is shared
  // there.
  if (abi::uptr(at) - abi::uptr(c) < abi::arena_bytes) return;
  c->runtime->access(c, at, bytes, is_write, is_vector, pc);
}
}  // namespace orchard::sim::strict

#define MSL_PC __builtin_return_address(0)
// What the compiler tells of an index that its array has not.
struct msl_array_index {
  const char* file;
  orchard::sim::abi::u32 line, column;
  const void* array_type;
  const void* index_type;
};
extern "C" MSL_UNCHECKED void __ubsan_handle_out_of_bounds(
    const msl_array_index* at, __UINTPTR_TYPE__) {
  orchard::sim::abi::Context* c = orchard::sim::abi::context();
  c->runtime->wrong_index(c, at->line, __builtin_return_address(0));
}
#define MSL_ACCESS(bytes)                                                 \
  extern "C" MSL_UNCHECKED void __tsan_read##bytes(void* at) {            \
    orchard::sim::strict::access(at, bytes, false, true, MSL_PC);         \
  }                                                                       \
  extern "C" MSL_UNCHECKED void __tsan_write##bytes(void* at) {           \
    orchard::sim::strict::access(at, bytes, true, true, MSL_PC);          \
  }                                                                       \
  extern "C" MSL_UNCHECKED void __tsan_unaligned_read##bytes(void* at) {  \
    orchard::sim::strict::access(at, bytes, false, false, MSL_PC);        \
  }                                                                       \
  extern "C" MSL_UNCHECKED void __tsan_unaligned_write##bytes(void* at) { \
    orchard::sim::strict::access(at, bytes, true, false, MSL_PC);         \
  }                                                                       \
  extern "C" MSL_UNCHECKED void __tsan_volatile_read##bytes(void* at) {   \
    orchard::sim::strict::access(at, bytes, false, true, MSL_PC);         \
  }                                                                       \
  extern "C" MSL_UNCHECKED void __tsan_volatile_write##bytes(void* at) {  \
    orchard::sim::strict::access(at, bytes, true, true, MSL_PC);          \
  }
MSL_ACCESS(1)
MSL_ACCESS(2)
MSL_ACCESS(4)
MSL_ACCESS(8)
MSL_ACCESS(16)
#undef MSL_ACCESS

extern "C" {
MSL_UNCHECKED void __tsan_init() {}
MSL_UNCHECKED void __tsan_func_entry(void*) {}
MSL_UNCHECKED void __tsan_func_exit() {}
MSL_UNCHECKED void __tsan_vptr_update(void*, void*) {}
MSL_UNCHECKED void __tsan_vptr_read(void*) {}
MSL_UNCHECKED void* __tsan_memcpy(void* to, const void* from, __SIZE_TYPE__ n) {
  orchard::sim::strict::access(from, n, false, false, MSL_PC);
  orchard::sim::strict::access(to, n, true, false, MSL_PC);
  return __builtin_memcpy(to, from, n);
}
MSL_UNCHECKED void* __tsan_memmove(void* to,
                                   const void* from,
                                   __SIZE_TYPE__ n) {
  orchard::sim::strict::access(from, n, false, false, MSL_PC);
  orchard::sim::strict::access(to, n, true, false, MSL_PC);
  return __builtin_memmove(to, from, n);
}
MSL_UNCHECKED void* __tsan_memset(void* to, int value, __SIZE_TYPE__ n) {
  orchard::sim::strict::access(to, n, true, false, MSL_PC);
  return __builtin_memset(to, value, n);
}
}
