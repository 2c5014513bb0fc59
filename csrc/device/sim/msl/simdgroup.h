// csrc/device/sim/msl/simdgroup.h: shuffles, votes, reductions, barriers and
// atomics.
#pragma once

// Where a collective stands in the kernel's text.
#define MSL_SITE uint line = __builtin_LINE()

namespace metal {

enum class mem_flags : uint {
  mem_none = 0,
  mem_device = 1,
  mem_threadgroup = 2,
  mem_texture = 4,
  mem_threadgroup_imageblock = 8,
  mem_object_data = 16,
  mem_device_and_threadgroup = 3,
};
MSL_INLINE constexpr mem_flags operator|(mem_flags a, mem_flags b) {
  return mem_flags(uint(a) | uint(b));
}

enum memory_order {
  memory_order_relaxed = 0,
  memory_order_acquire = 2,
  memory_order_release = 3,
  memory_order_acq_rel = 4,
  memory_order_seq_cst = 5,
};
enum thread_scope {
  thread_scope_thread,
  thread_scope_simdgroup,
  thread_scope_threadgroup,
  thread_scope_device,
};

namespace msl_detail {
MSL_INLINE void wait(msl_abi::Op op, uint flags, uint line) {
  msl_abi::Context* c = msl_abi::context();
  c->runtime->sync(c, op, 0, line, flags);
}

// Gives this lane's value to the simdgroup; those of the active lanes, which
// have not returned from the kernel, are there when it returns.
template <class T>
MSL_INLINE msl_abi::u64* publish(msl_abi::Op op, T value, uint line) {
  static_assert(sizeof(T) <= 8, "simdgroup functions take up to 8 bytes");
  msl_abi::Context* c = msl_abi::context();
  msl_abi::u64 bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  c->slots[c->lane] = bits;
  c->runtime->sync(c, op, 0, line, 0);
  return c->slots + msl_abi::lanes;
}

template <class T>
MSL_INLINE T slot(const msl_abi::u64* slots, uint lane) {
  T value;
  __builtin_memcpy(&value, slots + lane, sizeof(T));
  return value;
}

MSL_INLINE uint lane() { return msl_abi::context()->lane; }
// Bits of the lanes that took part in the last collective.
MSL_INLINE uint active() { return msl_abi::context()->active; }
MSL_INLINE bool is_active(uint lane) {
  return lane < msl_abi::lanes && (active() >> lane & 1) != 0;
}
MSL_INLINE uint lowest(uint lanes) { return uint(__builtin_ctz(lanes)); }

// The values of some lanes, combined in their order.
template <class T, class F>
MSL_INLINE T fold(const msl_abi::u64* slots, uint lanes, T start, F combine) {
  for (; lanes != 0; lanes &= lanes - 1)
    start = combine(start, slot<T>(slots, lowest(lanes)));
  return start;
}
template <class T, class F>
MSL_INLINE T fold(const msl_abi::u64* slots, uint lanes, F combine) {
  T first = slot<T>(slots, lowest(lanes));
  return fold<T>(slots, lanes & (lanes - 1), first, combine);
}
}  // namespace msl_detail

MSL_INLINE void threadgroup_barrier(mem_flags flags, MSL_SITE) {
  msl_detail::wait(msl_abi::Op::threadgroup_barrier, uint(flags), line);
}
MSL_INLINE void threadgroup_barrier(mem_flags flags, thread_scope, MSL_SITE) {
  msl_detail::wait(msl_abi::Op::threadgroup_barrier, uint(flags), line);
}
MSL_INLINE void simdgroup_barrier(mem_flags flags, MSL_SITE) {
  msl_detail::wait(msl_abi::Op::simdgroup_barrier, uint(flags), line);
}

// From a lane that is not there, a lane reads its own value back.  Metal leaves
// what it reads undefined.
#define MSL_SHUFFLE(name, argument, source)                               \
  template <class T>                                                      \
  MSL_INLINE enable_if_t<!msl_is_vector<T>::value, T> name(               \
      T value, ushort argument, MSL_SITE) {                               \
    msl_abi::u64* slots =                                                 \
        msl_detail::publish(msl_abi::Op::shuffle, value, line);           \
    uint lane = msl_detail::lane();                                       \
    uint from = (source);                                                 \
    return msl_detail::is_active(from) ? msl_detail::slot<T>(slots, from) \
                                       : value;                           \
  }                                                                       \
  template <class T, uint N>                                              \
  MSL_INLINE vec<T, N> name(vec<T, N> value, ushort argument, MSL_SITE) { \
    vec<T, N> r;                                                          \
    for (uint i = 0; i < N; ++i)                                          \
      r.data[i] = name(value.data[i], argument, line);                    \
    return r;                                                             \
  }
MSL_SHUFFLE(simd_shuffle, index, (index + 0u * lane))
MSL_SHUFFLE(simd_shuffle_xor, mask, (lane ^ mask))
MSL_SHUFFLE(simd_shuffle_up, delta, (lane >= delta ? lane - delta : lane))
MSL_SHUFFLE(simd_shuffle_down,
            delta,
            (lane + delta < msl_abi::lanes ? lane + delta : lane))
MSL_SHUFFLE(simd_shuffle_rotate_up, delta, ((lane - delta) % msl_abi::lanes))
MSL_SHUFFLE(simd_shuffle_rotate_down, delta, ((lane + delta) % msl_abi::lanes))
MSL_SHUFFLE(simd_broadcast, index, (index + 0u * lane))
MSL_SHUFFLE(quad_shuffle, index, ((lane & ~3u) + index))
MSL_SHUFFLE(quad_shuffle_xor, mask, (lane ^ (mask & 3u)))
MSL_SHUFFLE(quad_shuffle_up,
            delta,
            ((lane & 3u) >= delta ? lane - delta : lane))
MSL_SHUFFLE(quad_shuffle_down,
            delta,
            ((lane & 3u) + delta < 4u ? lane + delta : lane))
MSL_SHUFFLE(quad_broadcast, index, ((lane & ~3u) + index))
#undef MSL_SHUFFLE

template <class T>
MSL_INLINE T simd_broadcast_first(T value, MSL_SITE) {
  msl_abi::u64* slots = msl_detail::publish(msl_abi::Op::shuffle, value, line);
  return msl_detail::slot<T>(slots, msl_detail::lowest(msl_detail::active()));
}
template <class T, uint N>
MSL_INLINE vec<T, N> simd_broadcast_first(vec<T, N> value, MSL_SITE) {
  vec<T, N> r;
  for (uint i = 0; i < N; ++i)
    r.data[i] = simd_broadcast_first(value.data[i], line);
  return r;
}
// Lanes that a shift leaves without a value take one of `fill`, as if it stood
// beside `value`; shifts stay within stretches of `modulo` lanes.
template <class T>
MSL_INLINE T simd_shuffle_and_fill_down(
    T value, T fill, ushort delta, ushort modulo, MSL_SITE) {
  uint place = msl_detail::lane() % modulo, base = msl_detail::lane() - place;
  T here = simd_shuffle(value, ushort(base + (place + delta) % modulo), line);
  T next = simd_shuffle(fill, ushort(base + (place + delta) % modulo), line);
  return place + delta < modulo ? here : next;
}
template <class T>
MSL_INLINE T
simd_shuffle_and_fill_down(T value, T fill, ushort delta, MSL_SITE) {
  return simd_shuffle_and_fill_down(value, fill, delta, ushort(msl_abi::lanes),
                                    line);
}
template <class T>
MSL_INLINE T simd_shuffle_and_fill_up(
    T value, T fill, ushort delta, ushort modulo, MSL_SITE) {
  uint place = msl_detail::lane() % modulo, base = msl_detail::lane() - place;
  ushort from = ushort(base + (place + modulo - delta % modulo) % modulo);
  T here = simd_shuffle(value, from, line);
  T before = simd_shuffle(fill, from, line);
  return place >= delta ? here : before;
}
template <class T>
MSL_INLINE T simd_shuffle_and_fill_up(T value, T fill, ushort delta, MSL_SITE) {
  return simd_shuffle_and_fill_up(value, fill, delta, ushort(msl_abi::lanes),
                                  line);
}

struct simd_vote {
  typedef ulong vote_t;
  vote_t bits;
  MSL_INLINE explicit constexpr simd_vote(vote_t v = 0) : bits(v) {}
  MSL_INLINE explicit constexpr operator vote_t() const { return bits; }
  MSL_INLINE bool all() const { return bits == 0xffffffffu; }
  MSL_INLINE bool any() const { return bits != 0; }
};

namespace msl_detail {
MSL_INLINE uint ballot(bool value, uint line) {
  msl_abi::u64* slots = publish(msl_abi::Op::vote, uint(value), line);
  uint bits = 0;
  for (uint i = 0; i < msl_abi::lanes; ++i) bits |= uint(slots[i] & 1) << i;
  return bits & active();
}
}  // namespace msl_detail

MSL_INLINE simd_vote simd_ballot(bool value, MSL_SITE) {
  return simd_vote(msl_detail::ballot(value, line));
}
MSL_INLINE bool simd_any(bool value, MSL_SITE) {
  return msl_detail::ballot(value, line) != 0;
}
MSL_INLINE bool simd_all(bool value, MSL_SITE) {
  return msl_detail::ballot(!value, line) == 0;
}
MSL_INLINE simd_vote simd_active_threads_mask(MSL_SITE) {
  return simd_vote(msl_detail::ballot(true, line));
}
MSL_INLINE bool simd_is_first(MSL_SITE) {
  msl_detail::ballot(true, line);
  return msl_detail::lane() == msl_detail::lowest(msl_detail::active());
}

#define MSL_REDUCE(name, expression)                                    \
  template <class T>                                                    \
  MSL_INLINE enable_if_t<!msl_is_vector<T>::value, T> name(T value,     \
                                                           MSL_SITE) {  \
    msl_abi::u64* slots =                                               \
        msl_detail::publish(msl_abi::Op::reduce, value, line);          \
    return msl_detail::fold<T>(slots, msl_detail::active(),             \
                               [](T a, T b) { return T(expression); }); \
  }                                                                     \
  template <class T, uint N>                                            \
  MSL_INLINE vec<T, N> name(vec<T, N> value, MSL_SITE) {                \
    vec<T, N> r;                                                        \
    for (uint i = 0; i < N; ++i) r.data[i] = name(value.data[i], line); \
    return r;                                                           \
  }
MSL_REDUCE(simd_sum, a + b)
MSL_REDUCE(simd_product, a* b)
MSL_REDUCE(simd_max, max(a, b))
MSL_REDUCE(simd_min, min(a, b))
MSL_REDUCE(simd_and, a& b)
MSL_REDUCE(simd_or, a | b)
MSL_REDUCE(simd_xor, a ^ b)
#undef MSL_REDUCE

#define MSL_QUAD(name, expression)                                      \
  template <class T>                                                    \
  MSL_INLINE T name(T value, MSL_SITE) {                                \
    msl_abi::u64* slots =                                               \
        msl_detail::publish(msl_abi::Op::reduce, value, line);          \
    uint quad = 15u << (msl_detail::lane() & ~3u);                      \
    return msl_detail::fold<T>(slots, msl_detail::active() & quad,      \
                               [](T a, T b) { return T(expression); }); \
  }
MSL_QUAD(quad_sum, a + b)
MSL_QUAD(quad_product, a* b)
MSL_QUAD(quad_max, max(a, b))
MSL_QUAD(quad_min, min(a, b))
#undef MSL_QUAD

#define MSL_PREFIX(name, start, beyond, expression)                            \
  template <class T>                                                           \
  MSL_INLINE T name(T value, MSL_SITE) {                                       \
    msl_abi::u64* slots =                                                      \
        msl_detail::publish(msl_abi::Op::reduce, value, line);                 \
    uint before = msl_detail::active() & ((beyond << msl_detail::lane()) - 1); \
    return msl_detail::fold<T>(slots, before, T(start),                        \
                               [](T a, T b) { return T(expression); });        \
  }
MSL_PREFIX(simd_prefix_inclusive_sum, 0.0f, 2u, a + b)
MSL_PREFIX(simd_prefix_exclusive_sum, 0.0f, 1u, a + b)
MSL_PREFIX(simd_prefix_inclusive_product, 1.0f, 2u, a* b)
MSL_PREFIX(simd_prefix_exclusive_product, 1.0f, 1u, a* b)
#undef MSL_PREFIX

template <class T>
struct atomic {
  T value;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
typedef atomic<ulong> atomic_ulong;

// All memory is the host's, and coherent.
MSL_INLINE void atomic_thread_fence(mem_flags,
                                    memory_order,
                                    thread_scope = thread_scope_device) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

namespace msl_detail {
// Threadgroups run on several threads of the host.
template <class P>
using value_of = remove_cv_t<decltype(P::value)>;

template <class T, class F>
MSL_INLINE T update(volatile T* at, F change) {
  T old;
  __atomic_load(at, &old, __ATOMIC_RELAXED);
  T next = change(old);
  while (!__atomic_compare_exchange(at, &old, &next, true, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED)) {
    next = change(old);
  }
  return old;
}
}  // namespace msl_detail

#define MSL_ATOMICS(SPACE)                                                  \
  template <class T>                                                        \
  MSL_INLINE T atomic_load_explicit(const volatile SPACE atomic<T>* object, \
                                    memory_order) {                         \
    T value;                                                                \
    __atomic_load((const volatile T*)&object->value, &value,                \
                  __ATOMIC_RELAXED);                                        \
    return value;                                                           \
  }                                                                         \
  template <class T, class S>                                               \
  MSL_INLINE void atomic_store_explicit(volatile SPACE atomic<T>* object,   \
                                        S value, memory_order) {            \
    T copy = T(value);                                                      \
    __atomic_store((volatile T*)&object->value, &copy, __ATOMIC_RELAXED);   \
  }                                                                         \
  template <class T, class S>                                               \
  MSL_INLINE T atomic_exchange_explicit(volatile SPACE atomic<T>* object,   \
                                        S value, memory_order) {            \
    return msl_detail::update((volatile T*)&object->value,                  \
                              [=](T) { return T(value); });                 \
  }                                                                         \
  template <class T, class S>                                               \
  MSL_INLINE bool atomic_compare_exchange_weak_explicit(                    \
      volatile SPACE atomic<T>* object, T* expected, S value, memory_order, \
      memory_order) {                                                       \
    T next = T(value);                                                      \
    return __atomic_compare_exchange((volatile T*)&object->value, expected, \
                                     &next, false, __ATOMIC_RELAXED,        \
                                     __ATOMIC_RELAXED);                     \
  }                                                                         \
  MSL_ATOMIC(SPACE, add, T(old + T(value)))                                 \
  MSL_ATOMIC(SPACE, sub, T(old - T(value)))                                 \
  MSL_ATOMIC(SPACE, min, old < T(value) ? old : T(value))                   \
  MSL_ATOMIC(SPACE, max, old > T(value) ? old : T(value))                   \
  MSL_ATOMIC(SPACE, and, T(old& T(value)))                                  \
  MSL_ATOMIC(SPACE, or, T(old | T(value)))                                  \
  MSL_ATOMIC(SPACE, xor, T(old ^ T(value)))
// Without a result, for 64 bits.
#define MSL_ATOMIC_VOID(SPACE, name)                                         \
  template <class T, class S>                                                \
  MSL_INLINE void atomic_##name##_explicit(volatile SPACE atomic<T>* object, \
                                           S value, memory_order) {          \
    atomic_fetch_##name##_explicit(object, value, memory_order_relaxed);     \
  }
#define MSL_ATOMIC(SPACE, name, expression)                       \
  template <class T, class S>                                     \
  MSL_INLINE T atomic_fetch_##name##_explicit(                    \
      volatile SPACE atomic<T>* object, S value, memory_order) {  \
    return msl_detail::update((volatile T*)&object->value,        \
                              [=](T old) { return expression; }); \
  }
MSL_ATOMICS(device)
MSL_ATOMICS(threadgroup)
MSL_ATOMIC_VOID(device, min)
MSL_ATOMIC_VOID(device, max)
#undef MSL_ATOMIC_VOID
#undef MSL_ATOMICS
#undef MSL_ATOMIC
}  // namespace metal

using metal::mem_flags;
using metal::memory_order_relaxed;
