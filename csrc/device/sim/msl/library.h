// csrc/device/sim/msl/library.h: small parts of Metal's library: array, logs,
// what takes a type out of its address space.
#pragma once

namespace metal {
template <class T>
struct remove_addrspace {
  typedef T type;
};
#define MSL_WITHOUT(SPACE)           \
  template <class T>                 \
  struct remove_addrspace<SPACE T> { \
    typedef T type;                  \
  };
MSL_WITHOUT(device)
MSL_WITHOUT(const device)
MSL_WITHOUT(threadgroup)
MSL_WITHOUT(const threadgroup)
MSL_WITHOUT(constant)
#undef MSL_WITHOUT
template <class T>
using remove_addrspace_t = typename remove_addrspace<T>::type;

namespace msl_detail {
// A result of ?:, see compile/operands.h: objects of an address space by value.
template <class T>
MSL_INLINE constexpr T&& operand(T&& value) {
  return static_cast<T&&>(value);
}
template <class T>
  requires(__is_class(T) || __is_union(T))
MSL_INLINE constexpr T operand(T&& value) {
  return value;
}
#define MSL_OPERAND(SPACE)                         \
  template <class T>                               \
    requires(__is_class(T) || __is_union(T))       \
  MSL_INLINE constexpr T operand(SPACE T& value) { \
    return value;                                  \
  }
MSL_OPERAND(device)
MSL_OPERAND(const device)
MSL_OPERAND(threadgroup)
MSL_OPERAND(const threadgroup)
MSL_OPERAND(constant)
#undef MSL_OPERAND
}  // namespace msl_detail

template <class T, size_t N>
struct array {
  typedef T value_type;
  T elements[N];

  MSL_INLINE constexpr size_t size() const { return N; }
  MSL_INLINE constexpr bool empty() const { return N == 0; }
  MSL_INLINE constexpr T& operator[](size_t i) { return elements[i]; }
  MSL_INLINE constexpr const T& operator[](size_t i) const {
    return elements[i];
  }
  MSL_INLINE constexpr T* data() { return elements; }
  MSL_INLINE constexpr const T* data() const { return elements; }
  MSL_INLINE constexpr T* begin() { return elements; }
  MSL_INLINE constexpr T* end() { return elements + N; }
  MSL_INLINE constexpr const T* begin() const { return elements; }
  MSL_INLINE constexpr const T* end() const { return elements + N; }
  MSL_INLINE constexpr T& front() { return elements[0]; }
  MSL_INLINE constexpr T& back() { return elements[N - 1]; }
};

// A value that all threads agree on.
template <class T>
struct uniform {
  T value;
  MSL_INLINE constexpr uniform(T v) : value(v) {}
  MSL_INLINE constexpr operator T() const { return value; }
};
template <class T>
MSL_INLINE constexpr T make_uniform(T value) {
  return value;
}

// Nothing is logged.
struct os_log {
  constexpr os_log(const char*, const char*) {}
  template <class... A>
  MSL_INLINE void log_debug(const char*, A...) const {}
  template <class... A>
  MSL_INLINE void log_info(const char*, A...) const {}
  template <class... A>
  MSL_INLINE void log_default(const char*, A...) const {}
  template <class... A>
  MSL_INLINE void log_error(const char*, A...) const {}
  template <class... A>
  MSL_INLINE void log_fault(const char*, A...) const {}
};
}  // namespace metal
