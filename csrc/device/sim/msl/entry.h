// csrc/device/sim/msl/entry.h: from the runtime's argument table to a kernel's
// parameters, by the types of the kernel's own signature.
#pragma once

#if defined(__x86_64__)
#define MSL_X86 1
#endif

namespace orchard::sim::entry {

#define MSL_GLOBAL __attribute__((opencl_global_device))
#define MSL_CONSTANT __attribute__((opencl_global_host))
#define MSL_LOCAL __attribute__((opencl_local))

template <class T>
struct scalar_of {
  static constexpr abi::Scalar kind = abi::Scalar::other;
  static constexpr uint bytes = 0, components = 1;
};
#define MSL_SCALAR(T, name)                                \
  template <>                                              \
  struct scalar_of<T> {                                    \
    static constexpr abi::Scalar kind = abi::Scalar::name; \
    static constexpr uint bytes = sizeof(T);               \
    static constexpr uint components = 1;                  \
  };
MSL_SCALAR(bool, boolean)
MSL_SCALAR(char, signed_integer)
MSL_SCALAR(signed char, signed_integer)
MSL_SCALAR(short, signed_integer)
MSL_SCALAR(int, signed_integer)
MSL_SCALAR(long, signed_integer)
MSL_SCALAR(uchar, unsigned_integer)
MSL_SCALAR(ushort, unsigned_integer)
MSL_SCALAR(uint, unsigned_integer)
MSL_SCALAR(ulong, unsigned_integer)
MSL_SCALAR(half, floating)
MSL_SCALAR(float, floating)
MSL_SCALAR(bfloat, bfloat)
#undef MSL_SCALAR
template <class T, __SIZE_TYPE__ N>
struct scalar_of<T[N]> : scalar_of<T> {
  static constexpr uint components = N * scalar_of<T>::components;
};
template <class T, uint N>
struct scalar_of<metal::vec<T, N>> : scalar_of<T[N]> {};
template <class T, uint N>
struct scalar_of<metal::packed_vec<T, N>> : scalar_of<T[N]> {};
template <class T>
struct scalar_of<metal::atomic<T>> : scalar_of<T> {};

template <class T>
struct pointee {
  using scalar = scalar_of<T>;
  static constexpr abi::Space space = abi::Space::thread;
  static constexpr bool is_const = false;
  static constexpr uint bytes = sizeof(T);
  static constexpr uint alignment = alignof(T);
};
template <>
struct pointee<void> : pointee<char> {};
template <class T>
struct pointee<const T> : pointee<T> {
  static constexpr bool is_const = true;
};
template <class T>
struct pointee<volatile T> : pointee<T> {};
template <class T>
struct pointee<MSL_GLOBAL T> : pointee<T> {
  static constexpr abi::Space space = abi::Space::device;
};
template <class T>
struct pointee<const MSL_GLOBAL T> : pointee<MSL_GLOBAL T> {
  static constexpr bool is_const = true;
};
template <class T>
struct pointee<volatile MSL_GLOBAL T> : pointee<MSL_GLOBAL T> {};
template <class T>
struct pointee<const MSL_CONSTANT T> : pointee<T> {
  static constexpr abi::Space space = abi::Space::constant;
  static constexpr bool is_const = true;
};
template <class T>
struct pointee<MSL_LOCAL T> : pointee<T> {
  static constexpr abi::Space space = abi::Space::threadgroup;
};
template <class T>
struct pointee<const MSL_LOCAL T> : pointee<MSL_LOCAL T> {};
template <class T>
struct pointee<volatile MSL_LOCAL T> : pointee<MSL_LOCAL T> {};

template <class P>
struct parameter : pointee<P> {
  static constexpr bool is_pointer = false;
  static constexpr bool is_reference = false;
};
template <class T>
struct parameter<T*> : pointee<T> {
  static constexpr bool is_pointer = true;
  static constexpr bool is_reference = false;
  static T* from(void* p) { return (T*)p; }
};
template <class T>
struct parameter<T&> : pointee<T> {
  static constexpr bool is_pointer = true;
  static constexpr bool is_reference = true;
  static T& from(void* p) { return *(T*)p; }
};

template <class P>
MSL_INLINE P triple(const abi::u32* v) {
  if constexpr (metal::msl_component_count<P>::value == 1) {
    return P(v[0]);
  } else if constexpr (metal::msl_component_count<P>::value == 2) {
    return P(v[0], v[1]);
  } else {
    return P(v[0], v[1], v[2]);
  }
}

// Where a parameter comes from; `get` makes it.
template <abi::u32 I>
struct buffer {
  static constexpr abi::u32 kind = 0, index = I;
  template <class P>
  static MSL_INLINE P get(const abi::Arguments* a, const abi::Thread*) {
    static_assert(parameter<P>::is_pointer,
                  "[[buffer]] must be a pointer or a reference");
    static_assert(parameter<P>::space == abi::Space::device ||
                      parameter<P>::space == abi::Space::constant,
                  "[[buffer]] must be in the device or constant space");
    static_assert(I < abi::max_buffers, "buffer index above 30");
    return parameter<P>::from(a->buffers[I]);
  }
};
template <abi::u32 I>
struct group_memory {
  static constexpr abi::u32 kind = 1, index = I;
  template <class P>
  static MSL_INLINE P get(const abi::Arguments* a, const abi::Thread*) {
    static_assert(parameter<P>::space == abi::Space::threadgroup,
                  "[[threadgroup]] must be in the threadgroup space");
    return parameter<P>::from(a->group_memory[I]);
  }
};

#define MSL_ATTRIBUTE(name, expression)                                    \
  struct name {                                                            \
    static constexpr abi::u32 kind = 2, index = 0;                         \
    template <class P>                                                     \
    static MSL_INLINE P get(const abi::Arguments*, const abi::Thread* t) { \
      expression;                                                          \
    }                                                                      \
  };
#define MSL_PRODUCT(name, expression)                            \
  MSL_ATTRIBUTE(name, abi::u32 v[3];                             \
                for (int i = 0; i < 3; ++i) v[i] = (expression); \
                return triple<P>(v))
MSL_PRODUCT(thread_position_in_grid,
            t->group[i] * t->dispatched[i] + t->local[i])
MSL_PRODUCT(threads_per_grid, t->grid[i])
MSL_PRODUCT(grid_size, t->grid[i])
MSL_PRODUCT(threadgroup_position_in_grid, t->group[i])
MSL_PRODUCT(threadgroups_per_grid, t->groups[i])
MSL_PRODUCT(thread_position_in_threadgroup, t->local[i])
MSL_PRODUCT(threads_per_threadgroup, t->threads[i])
MSL_PRODUCT(dispatch_threads_per_threadgroup, t->dispatched[i])
MSL_ATTRIBUTE(thread_index_in_threadgroup, return P(t->local_index))
MSL_ATTRIBUTE(simdgroup_index_in_threadgroup, return P(t->simdgroup))
MSL_ATTRIBUTE(thread_index_in_simdgroup, return P(t->lane))
MSL_ATTRIBUTE(simdgroups_per_threadgroup, return P(t->simdgroups))
MSL_ATTRIBUTE(dispatch_simdgroups_per_threadgroup,
              return P(t->dispatched_simdgroups))
MSL_ATTRIBUTE(threads_per_simdgroup, return P(abi::lanes))
MSL_ATTRIBUTE(thread_execution_width, return P(abi::lanes))
MSL_ATTRIBUTE(quadgroup_index_in_threadgroup, return P(t->local_index / 4))
MSL_ATTRIBUTE(thread_index_in_quadgroup, return P(t->local_index % 4))
#undef MSL_PRODUCT
#undef MSL_ATTRIBUTE

template <class... S>
struct Signature {
  template <class... P>
  static MSL_INLINE void call(void (*kernel)(P...),
                              const abi::Arguments* a,
                              const abi::Thread* t) {
    static_assert(sizeof...(S) == sizeof...(P), "kernel parameters");
    kernel(S::template get<P>(a, t)...);
  }

  template <class... P>
  struct Table {
    static constexpr abi::Parameter rows[sizeof...(P) + 1] = {
        {S::kind, S::index, abi::u32(parameter<P>::space),
         parameter<P>::is_const, parameter<P>::bytes, parameter<P>::alignment,
         parameter<P>::is_reference, parameter<P>::scalar::kind,
         parameter<P>::scalar::bytes, parameter<P>::scalar::components}...,
        {}};
  };

  template <class... P>
  static constexpr const abi::Parameter* table(void (*)(P...)) {
    return Table<P...>::rows;
  }
};

template <class T>
MSL_INLINE T* local(abi::u32 id) {
  abi::Context* c = abi::context();
  return (T*)c->runtime->local(c, id, sizeof(T), alignof(T));
}
}  // namespace orchard::sim::entry
