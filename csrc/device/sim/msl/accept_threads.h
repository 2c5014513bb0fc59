// csrc/device/sim/msl/accept_threads.h: what Metal's threads do together, for
// the type checker: barriers, functions of a simdgroup or quadgroup, atomics;
// see accept.h.
#pragma once

#include "accept_matrix.h"

namespace metal {

enum class mem_flags {
  mem_none = 0,
  mem_device = 1,
  mem_threadgroup = 2,
  mem_texture = 4,
  mem_threadgroup_imageblock = 8,
  mem_object_data = 16,
  mem_device_and_threadgroup = 3
};
#define MSL_FLAGS(op)                                                          \
  MSL_INLINE constexpr mem_flags operator op(mem_flags a, mem_flags b) {       \
    return static_cast<mem_flags>(static_cast<int>(a) op static_cast<int>(b)); \
  }
MSL_FLAGS(|)
MSL_FLAGS(&)
MSL_FLAGS(^)
#undef MSL_FLAGS
MSL_INLINE constexpr mem_flags operator~(mem_flags a) {
  return static_cast<mem_flags>(~static_cast<int>(a));
}
enum memory_order {
  memory_order_relaxed = 0,
#if MSL_LANGUAGE >= 320
  memory_order_seq_cst = 5,
#endif
};
#if MSL_LANGUAGE >= 320
enum thread_scope {
  thread_scope_thread,
  thread_scope_threadgroup,
  thread_scope_device,
  thread_scope_simdgroup,
};
#define MSL_CONSTANT(x)     \
  __attribute__((enable_if( \
      x == 0 || x != 0, "'" #x "' argument must be known at compile-time")))
void threadgroup_barrier(mem_flags,
                         thread_scope scope = thread_scope_threadgroup)
    MSL_CONSTANT(scope);
void simdgroup_barrier(mem_flags, thread_scope scope = thread_scope_simdgroup)
    MSL_CONSTANT(scope);
void atomic_thread_fence(mem_flags,
                         memory_order order,
                         thread_scope scope = thread_scope_device)
    MSL_CONSTANT(order) MSL_CONSTANT(scope);
#else
void threadgroup_barrier(mem_flags);
void simdgroup_barrier(mem_flags);
#endif

// No bool, bfloat or 64 bits, in no version.
template <class T>
constexpr __constant bool msl_is_exchanged_integer =
    __is_same(T, char) || __is_same(T, uchar) || __is_same(T, signed char) ||
    __is_same(T, short) || __is_same(T, ushort) || __is_same(T, int) ||
    __is_same(T, uint);
template <class T>
constexpr __constant bool msl_is_exchanged =
    msl_is_exchanged_integer<T> || __is_same(T, half) || __is_same(T, float);
// By this name public kernels ask, and add to it.
template <class T, class = void>
struct __is_valid_simdgroup_type
    : bool_constant<msl_is_exchanged<make_scalar_t<T>>> {};
template <class T>
using msl_simd = enable_if_t<msl_is_exchanged<make_scalar_t<T>>>;
template <class T>
using msl_simd_integer =
    enable_if_t<msl_is_exchanged_integer<make_scalar_t<T>>>;

template <class T>
T msl_exchanged(T);
template <class T, int N>
MSL_INLINE vec<T, N> msl_exchanged(vec<T, N> x) {
  for (int i = 0; i < N; ++i) x.msl_v[i] = msl_exchanged(x.msl_v[i]);
  return x;
}

#define MSL_REDUCE(name, kind)              \
  template <class T, class = msl_##kind<T>> \
  MSL_INLINE T simd_##name(T data) {        \
    return msl_exchanged(data);             \
  }                                         \
  template <class T, class = msl_##kind<T>> \
  MSL_INLINE T quad_##name(T data) {        \
    return msl_exchanged(data);             \
  }
MSL_REDUCE(sum, simd)
MSL_REDUCE(product, simd)
MSL_REDUCE(max, simd)
MSL_REDUCE(min, simd)
MSL_REDUCE(prefix_exclusive_sum, simd)
MSL_REDUCE(prefix_inclusive_sum, simd)
MSL_REDUCE(prefix_exclusive_product, simd)
MSL_REDUCE(prefix_inclusive_product, simd)
MSL_REDUCE(broadcast_first, simd)
MSL_REDUCE(and, simd_integer)
MSL_REDUCE(or, simd_integer)
MSL_REDUCE(xor, simd_integer)
#undef MSL_REDUCE
#define MSL_SHUFFLE(name)                         \
  template <class T, class = msl_simd<T>>         \
  MSL_INLINE T simd_##name(T data, ushort lane) { \
    return msl_exchanged(data);                   \
  }                                               \
  template <class T, class = msl_simd<T>>         \
  MSL_INLINE T quad_##name(T data, ushort lane) { \
    return msl_exchanged(data);                   \
  }
MSL_SHUFFLE(broadcast)
MSL_SHUFFLE(shuffle)
MSL_SHUFFLE(shuffle_xor)
MSL_SHUFFLE(shuffle_up)
MSL_SHUFFLE(shuffle_down)
MSL_SHUFFLE(shuffle_rotate_up)
MSL_SHUFFLE(shuffle_rotate_down)
#undef MSL_SHUFFLE
#define MSL_SHUFFLE(name)                                             \
  template <class T, class = msl_simd<T>>                             \
  MSL_INLINE T name(T data, T filling, ushort delta) {                \
    return msl_exchanged(data);                                       \
  }                                                                   \
  template <class T, class = msl_simd<T>>                             \
  MSL_INLINE T name(T data, T filling, ushort delta, ushort modulo) { \
    return msl_exchanged(data);                                       \
  }
MSL_SHUFFLE(simd_shuffle_and_fill_up)
MSL_SHUFFLE(simd_shuffle_and_fill_down)
MSL_SHUFFLE(quad_shuffle_and_fill_up)
MSL_SHUFFLE(quad_shuffle_and_fill_down)
#undef MSL_SHUFFLE

#define MSL_VOTE(group, bits)                                       \
  struct group##_vote {                                             \
    typedef bits vote_t;                                            \
    explicit constexpr group##_vote(vote_t v = 0) : msl_bits(v) {}  \
    explicit constexpr operator vote_t() const { return msl_bits; } \
    bool all() const { return ~msl_bits == 0; }                     \
    bool any() const { return msl_bits != 0; }                      \
                                                                    \
   private:                                                         \
    vote_t msl_bits;                                                \
  };                                                                \
  MSL_INLINE group##_vote group##_active_threads_mask() {           \
    return group##_vote(msl_exchanged(bits(0)));                    \
  }                                                                 \
  MSL_INLINE group##_vote group##_ballot(bool x) {                  \
    return group##_vote(msl_exchanged(bits(x)));                    \
  }                                                                 \
  bool group##_all(bool);                                           \
  bool group##_any(bool);                                           \
  bool group##_is_first();                                          \
  bool group##_is_helper_thread();
MSL_VOTE(simd, ulong)
MSL_VOTE(quad, uint)
#undef MSL_VOTE

// OpenCL has types of these names built in.
#define atomic_int msl_atomic_int
#define atomic_uint msl_atomic_uint
#define atomic_bool msl_atomic_bool
#define atomic_float msl_atomic_float
#define atomic_ulong msl_atomic_ulong
// Neither copied nor used as the number it holds.
template <class T>
struct msl_atomic {
  static_assert(__is_same(T, int) || __is_same(T, uint) || __is_same(T, bool) ||
                    __is_same(T, float) || __is_same(T, ulong),
                "invalid type for an atomic");
  msl_atomic() = default;
  msl_atomic(const msl_atomic&) = delete;
  msl_atomic(const __constant msl_atomic&) = delete;
  __generic msl_atomic& operator=(const msl_atomic&) = delete;

 private:
  T msl_value;
};
template <class T>
using atomic = msl_atomic<T>;
typedef msl_atomic<int> atomic_int;
typedef msl_atomic<uint> atomic_uint;
typedef msl_atomic<bool> atomic_bool;
typedef msl_atomic<float> atomic_float;
typedef msl_atomic<ulong> atomic_ulong;

#define MSL_RELAXED(order)                                  \
  __attribute__((enable_if(order == memory_order_relaxed,   \
                           "'" #order "' argument must be " \
                           "'metal::memory_order_relaxed'")))
template <class T>
constexpr __constant bool msl_counts = __is_same(T, int) || __is_same(T, uint);
template <class T>
constexpr __constant bool msl_stores = msl_counts<T> || __is_same(T, bool);
#define MSL_ATOMIC(space, is_float_too)                                       \
  template <class T, class U,                                                 \
            class = enable_if_t<(msl_stores<T> ||                             \
                                 is_float_too && __is_same(T, float)) &&      \
                                __is_convertible_to(T, U)>>                   \
  void atomic_store_explicit(volatile space msl_atomic<T>*, U,                \
                             memory_order order) MSL_RELAXED(order);          \
  template <class T, class = enable_if_t<msl_stores<T> ||                     \
                                         is_float_too&& __is_same(T, float)>> \
  T atomic_load_explicit(const volatile space msl_atomic<T>*,                 \
                         memory_order order) MSL_RELAXED(order);              \
  template <class T, class U,                                                 \
            class = enable_if_t<(msl_stores<T> ||                             \
                                 is_float_too && __is_same(T, float)) &&      \
                                __is_convertible_to(T, U)>>                   \
  T atomic_exchange_explicit(volatile space msl_atomic<T>*, U,                \
                             memory_order order) MSL_RELAXED(order);          \
  template <class T>                                                          \
  T msl_swap(volatile space msl_atomic<T>*);                                  \
  template <class T, class U,                                                 \
            class = enable_if_t<(msl_stores<T> ||                             \
                                 is_float_too && __is_same(T, float)) &&      \
                                __is_convertible_to(T, U)>>                   \
  MSL_INLINE bool atomic_compare_exchange_weak_explicit(                      \
      volatile space msl_atomic<T>* object, thread T* expected, U desired,    \
      memory_order success, memory_order failure) MSL_RELAXED(success)        \
      MSL_RELAXED(failure) {                                                  \
    const T found = msl_swap(object);                                         \
    const bool is_same = *expected == found;                                  \
    *expected = found;                                                        \
    return is_same;                                                           \
  }                                                                           \
  MSL_FETCH(space, add, is_float_too&& __is_same(T, float))                   \
  MSL_FETCH(space, sub, is_float_too&& __is_same(T, float))                   \
  MSL_FETCH(space, and, false)                                                \
  MSL_FETCH(space, or, false)                                                 \
  MSL_FETCH(space, xor, false)                                                \
  MSL_FETCH(space, max, false)                                                \
  MSL_FETCH(space, min, false)
#define MSL_FETCH(space, name, more)                                 \
  template <class T, class U,                                        \
            class = enable_if_t<(msl_counts<T> || more) &&           \
                                __is_convertible_to(T, U)>>          \
  T atomic_fetch_##name##_explicit(volatile space msl_atomic<T>*, U, \
                                   memory_order order) MSL_RELAXED(order);
MSL_ATOMIC(device, true)
MSL_ATOMIC(threadgroup, false)
#undef MSL_ATOMIC
#undef MSL_FETCH
#define MSL_WIDE(name)                                                         \
  template <class T, class U,                                                  \
            class =                                                            \
                enable_if_t<__is_same(T, ulong) && __is_convertible_to(T, U)>> \
  void atomic_##name##_explicit(volatile device msl_atomic<T>*, U,             \
                                memory_order order) MSL_RELAXED(order);
MSL_WIDE(max)
MSL_WIDE(min)
#undef MSL_WIDE

#if MSL_LANGUAGE >= 320
enum log_type {
  log_type_debug,
  log_type_info,
  log_type_default,
  log_type_error,
  log_type_fault
};
struct os_log {
  constexpr os_log(const __constant char*, const __constant char*) __constant {}
#define MSL_LOG(name)        \
  template <class... Values> \
  void name(const __constant char*, Values...) const __constant {}
  MSL_LOG(log)
  MSL_LOG(log_info)
  MSL_LOG(log_debug)
  MSL_LOG(log_error)
  MSL_LOG(log_fault)
#undef MSL_LOG
  template <class... Values>
  void log_with_type(log_type,
                     const __constant char*,
                     Values...) const __constant {}
};
extern const __constant os_log os_log_default;
extern const __constant os_log os_log_disabled;
#endif
}  // namespace metal
