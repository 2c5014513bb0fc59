// csrc/device/sim/msl/accept_types.h: Metal's scalars and type traits for the
// type checker; see accept.h.
#pragma once

#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma OPENCL EXTENSION __cl_clang_function_pointers : enable
// Kernels may point to templates and classes, whose layout OpenCL distrusts.
#pragma OPENCL EXTENSION __cl_clang_non_portable_kernel_param_types : enable

#define device __global
#define threadgroup __local
#define thread __private
#define MSL_PURE __attribute__((const))
#define MSL_INLINE inline __attribute__((always_inline))
// What the compiler makes for a class by itself copies from no constant memory,
// which is apart from all other memory here.  Spelled out so, a class stays an
// aggregate.
#define MSL_COPIES(name)                                         \
  MSL_LOCAL_COPIES(name)                                         \
  /* A template, which no other type is converted for. */        \
  template <class MslSame>                                       \
  metal::enable_if_t<__is_same(MslSame, name), name&> operator=( \
      const __constant MslSame& o) {                             \
    return *this = MslSame(o);                                   \
  }
// A class in a function has no templates.
#define MSL_LOCAL_COPIES(name)                       \
  name(const name&) = default;                       \
  name(const __constant name&) = default;            \
  name(const __constant name&) __constant = default; \
  name& operator=(const name&) = default;

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef signed char int8_t;
typedef uchar uint8_t;
typedef short int16_t;
typedef ushort uint16_t;
typedef int int32_t;
typedef uint uint32_t;
typedef long int64_t;
typedef ulong uint64_t;
typedef unsigned long size_t;
typedef long ptrdiff_t;
typedef long intptr_t;
typedef ulong uintptr_t;
#if MSL_LANGUAGE >= 310
typedef decltype(nullptr) nullptr_t;
#endif

#define MSL_EACH_INTEGER(f) \
  f(char) f(uchar) f(short) f(ushort) f(int) f(uint) f(long) f(ulong)

// Classes that stand for types of the language are in a namespace apart, so
// that a call does not look into metal for the sake of such an argument.
namespace msl {
template <class T, int N>
struct vec;
template <class T, int N>
struct packed_vec;
}  // namespace msl

namespace metal {
using namespace msl;
using ::int16_t;
using ::int32_t;
using ::int64_t;
using ::int8_t;
using ::intptr_t;
#if MSL_LANGUAGE >= 310
using ::nullptr_t;
#endif
using ::ptrdiff_t;
using ::size_t;
using ::uchar;
using ::uint;
using ::uint16_t;
using ::uint32_t;
using ::uint64_t;
using ::uint8_t;
using ::uintptr_t;
using ::ulong;
using ::ushort;

template <bool condition, class T = void>
struct enable_if {};
template <class T>
struct enable_if<true, T> {
  typedef T type;
};
template <bool condition, class T = void>
using enable_if_t = typename enable_if<condition, T>::type;
template <bool condition, class T, class F>
struct conditional {
  typedef T type;
};
template <class T, class F>
struct conditional<false, T, F> {
  typedef F type;
};
template <bool condition, class T, class F>
using conditional_t = typename conditional<condition, T, F>::type;

template <class T, T v>
struct integral_constant {
  typedef T value_type;
  typedef integral_constant type;
  static constexpr __constant T value = v;
};
template <bool v>
using bool_constant = integral_constant<bool, v>;
typedef bool_constant<true> true_type;
typedef bool_constant<false> false_type;
}  // namespace metal

#if MSL_LANGUAGE >= 310
namespace msl {
// Becomes a float silently, and nothing else; only integers become one.
struct bfloat {
  bfloat() = default;
  MSL_COPIES(bfloat)
#define MSL_FROM(space)                                                  \
  template <class T, class = metal::enable_if_t<__is_floating_point(T)>, \
            class = void>                                                \
  constexpr explicit bfloat(T x) space                                   \
      : bits(__builtin_bit_cast(unsigned, float(x)) >> 16) {}            \
  template <class T, class = metal::enable_if_t<__is_integral(T)>>       \
  constexpr bfloat(T x) space : bfloat(float(x)) {}
  MSL_FROM()
  MSL_FROM(__constant)
#undef MSL_FROM
#define MSL_TO(space)                                                         \
  template <class T, class = metal::enable_if_t<__is_same(T, float)>>         \
  constexpr operator T() const space {                                        \
    return __builtin_bit_cast(float, unsigned(bits) << 16);                   \
  }                                                                           \
  template <                                                                  \
      class T,                                                                \
      class = metal::enable_if_t<__is_arithmetic(T) && !__is_same(T, float)>, \
      class = void>                                                           \
  constexpr explicit operator T() const space {                               \
    return T(operator float());                                               \
  }
  MSL_TO()
  MSL_TO(__constant)
#undef MSL_TO
#define MSL_ASSIGN(op)                                                  \
  template <class T, class = metal::enable_if_t<__is_same(T, bfloat) || \
                                                __is_integral(T)>>      \
  bfloat& operator op## = (T x) {                                       \
    return *this = bfloat(float(*this) op float(x));                    \
  }
  MSL_ASSIGN(+)
  MSL_ASSIGN(-)
  MSL_ASSIGN(*)
  MSL_ASSIGN(/)
#undef MSL_ASSIGN
  // What becomes a number.
#define MSL_FROM_CLASS(space)                                            \
  template <class T, class = metal::enable_if_t<                         \
                         __is_class(T) && !__is_same(T, const bfloat) && \
                         !__is_same(T, bfloat) &&                        \
                         __is_convertible_to(const space T, bool)>>      \
  bfloat& operator=(const space T& x) {                                  \
    return *this = bfloat(int(bool(x)));                                 \
  }
  MSL_FROM_CLASS(device)
  MSL_FROM_CLASS(threadgroup)
#undef MSL_FROM_CLASS
  bfloat& operator++() { return *this = bfloat(float(*this) + 1.0f); }
  bfloat& operator--() { return *this = bfloat(float(*this) - 1.0f); }
  friend MSL_INLINE bfloat msl_either(bfloat x, bfloat y, bool c) {
    const ushort a = x.bits;
    const ushort b = y.bits;
    x.bits = c ? b : a;
    return x;
  }
  constexpr bfloat operator-() const { return bfloat(-float(*this)); }
  constexpr bfloat operator-() const __constant {
    return bfloat(-float(*this));
  }
  constexpr bfloat operator+() const { return *this; }
  bfloat operator++(int) { return bfloat(float(++*this) - 1.0f); }
  bfloat operator--(int) { return bfloat(float(--*this) + 1.0f); }

 private:
  ushort bits;
};
#define MSL_BINARY(result, op)                                     \
  MSL_INLINE constexpr result operator op(bfloat a, bfloat b) {    \
    return result(float(a) op float(b));                           \
  }                                                                \
  template <class T, class = metal::enable_if_t<__is_integral(T)>> \
  MSL_INLINE constexpr result operator op(bfloat a, T b) {         \
    return result(float(a) op float(b));                           \
  }                                                                \
  template <class T, class = metal::enable_if_t<__is_integral(T)>> \
  MSL_INLINE constexpr result operator op(T a, bfloat b) {         \
    return result(float(a) op float(b));                           \
  }
MSL_BINARY(bfloat, +)
MSL_BINARY(bfloat, -)
MSL_BINARY(bfloat, *)
MSL_BINARY(bfloat, /)
MSL_BINARY(bool, ==)
MSL_BINARY(bool, !=)
MSL_BINARY(bool, <)
MSL_BINARY(bool, >)
MSL_BINARY(bool, <=)
MSL_BINARY(bool, >=)
#undef MSL_BINARY
}  // namespace msl
using msl::bfloat;
#define MSL_EACH_FLOAT(f) f(bfloat) f(half) f(float)
#define MSL_IS_BFLOAT(T) __is_same(T, bfloat)
#else
#define MSL_EACH_FLOAT(f) f(half) f(float)
#define MSL_IS_BFLOAT(T) false
#endif

namespace metal {
template <class T>
struct remove_volatile {
  typedef T type;
};
template <class T>
struct remove_volatile<volatile T> {
  typedef T type;
};
template <class T>
struct remove_const {
  typedef T type;
};
template <class T>
struct remove_const<const T> {
  typedef T type;
};
template <class T>
using remove_volatile_t = typename remove_volatile<T>::type;
template <class T>
using remove_const_t = typename remove_const<T>::type;
template <class T>
struct remove_cv {
  typedef remove_volatile_t<remove_const_t<T>> type;
};
template <class T>
using remove_cv_t = typename remove_cv<T>::type;

template <class T>
struct remove_reference {
  typedef T type;
};
template <class T>
struct remove_pointer {
  typedef T type;
};
template <class T>
struct remove_addrspace {
  typedef T type;
};
template <class T>
struct msl_is_pointer : false_type {};
#define MSL_SPACE(space)               \
  template <class T>                   \
  struct remove_reference<space T&> {  \
    typedef space T type;              \
  };                                   \
  template <class T>                   \
  struct remove_reference<space T&&> { \
    typedef space T type;              \
  };                                   \
  template <class T>                   \
  struct remove_pointer<space T*> {    \
    typedef space T type;              \
  };                                   \
  template <class T>                   \
  struct remove_addrspace<space T> {   \
    typedef T type;                    \
  };                                   \
  template <class T>                   \
  struct msl_is_pointer<space T*> : true_type {};
MSL_SPACE(device)
MSL_SPACE(__constant)
MSL_SPACE(threadgroup)
MSL_SPACE(thread)
#undef MSL_SPACE
template <class T>
using remove_reference_t = typename remove_reference<T>::type;
template <class T>
using remove_pointer_t = typename remove_pointer<T>::type;
template <class T>
using remove_addrspace_t = typename remove_addrspace<T>::type;

// The element of a vector, and what else is its own element.
template <class T>
struct msl_element {
  typedef T type;
  static constexpr __constant int count = 0;
};
template <class T, int N>
struct msl_element<vec<T, N>> {
  typedef T type;
  static constexpr __constant int count = N;
};
template <class T, int N>
struct msl_element<packed_vec<T, N>> {
  typedef T type;
  static constexpr __constant int count = N;
};
template <class T>
struct make_scalar {
  typedef typename msl_element<remove_cv_t<T>>::type type;
};
template <class T>
using make_scalar_t = typename make_scalar<T>::type;
template <class T>
struct vec_elements
    : integral_constant<size_t, msl_element<remove_cv_t<T>>::count> {};
template <class T>
using msl_bare =
    remove_cv_t<remove_addrspace_t<make_scalar_t<remove_addrspace_t<T>>>>;

#define MSL_TRAIT(name, condition)             \
  template <class T>                           \
  struct name : bool_constant<(condition)> {}; \
  template <class T>                           \
  constexpr __constant bool name##_v = name<T>::value;
MSL_TRAIT(is_integral, __is_integral(msl_bare<T>))
MSL_TRAIT(is_floating_point,
          __is_floating_point(msl_bare<T>) || MSL_IS_BFLOAT(msl_bare<T>))
MSL_TRAIT(is_arithmetic,
          __is_arithmetic(msl_bare<T>) || MSL_IS_BFLOAT(msl_bare<T>))
MSL_TRAIT(is_scalar, __is_scalar(T) || MSL_IS_BFLOAT(remove_cv_t<T>))
MSL_TRAIT(is_vector, vec_elements<T>::value != 0)
MSL_TRAIT(is_signed, __is_signed(msl_bare<T>) || MSL_IS_BFLOAT(msl_bare<T>))
MSL_TRAIT(is_unsigned, __is_unsigned(msl_bare<T>))
MSL_TRAIT(is_class,
          __is_class(T) && !is_vector<T>::value &&
              !MSL_IS_BFLOAT(remove_cv_t<T>))
MSL_TRAIT(is_enum, __is_enum(T))
MSL_TRAIT(is_const, __is_const(T))
MSL_TRAIT(is_function, __is_function(T))
#if MSL_LANGUAGE >= 400
MSL_TRAIT(is_volatile, __is_volatile(T))
MSL_TRAIT(is_array, __is_array(T))
MSL_TRAIT(is_default_constructible, __is_constructible(T))
MSL_TRAIT(is_lvalue_reference, __is_lvalue_reference(T))
#endif
MSL_TRAIT(is_pointer, msl_is_pointer<remove_cv_t<T>>::value)
#undef MSL_TRAIT
#define MSL_TRAIT(name, condition)             \
  template <class T, class U>                  \
  struct name : bool_constant<(condition)> {}; \
  template <class T, class U>                  \
  constexpr __constant bool name##_v = name<T, U>::value;
MSL_TRAIT(is_convertible, __is_convertible_to(T, U))
MSL_TRAIT(is_same, __is_same(T, U))
#undef MSL_TRAIT
#if MSL_LANGUAGE >= 400
template <class T, class... Arguments>
struct is_constructible : bool_constant<__is_constructible(T, Arguments...)> {};
template <class T, class... Arguments>
constexpr __constant bool is_constructible_v =
    is_constructible<T, Arguments...>::value;
#endif
template <class T>
constexpr __constant size_t vec_elements_v = vec_elements<T>::value;

template <class... T>
struct disjunction : false_type {};
template <class T>
struct disjunction<T> : T {};
template <class T, class... U>
struct disjunction<T, U...>
    : conditional_t<bool(T::value), T, disjunction<U...>> {};
template <class... T>
struct conjunction : true_type {};
template <class T>
struct conjunction<T> : T {};
template <class T, class... U>
struct conjunction<T, U...>
    : conditional_t<bool(T::value), conjunction<U...>, T> {};
template <class... T>
using _disjunction = disjunction<T...>;
template <class... T>
using _conjunction = conjunction<T...>;
template <class... T>
constexpr __constant bool disjunction_v = disjunction<T...>::value;
template <class... T>
constexpr __constant bool conjunction_v = conjunction<T...>::value;
#if MSL_LANGUAGE >= 400
template <class...>
using void_t = void;
template <class T>
struct add_const {
  typedef const T type;
};
template <class T>
using add_const_t = typename add_const<T>::type;
template <class T>
struct remove_extent {
  typedef T type;
};
template <class T>
struct remove_extent<T[]> {
  typedef T type;
};
template <class T, size_t N>
struct remove_extent<T[N]> {
  typedef T type;
};
template <class T>
using remove_extent_t = typename remove_extent<T>::type;
template <class T>
struct decay {
  typedef remove_cv_t<remove_addrspace_t<remove_reference_t<T>>> type;
};
template <class T>
using decay_t = typename decay<T>::type;
template <class T>
T declval();
#endif
template <class T>
struct underlying_type {
  typedef __underlying_type(T) type;
};
template <class T>
using underlying_type_t = typename underlying_type<T>::type;
#define MSL_SIGN(name, trait)           \
  template <class T>                    \
  struct name {                         \
    typedef trait(remove_cv_t<T>) type; \
  };                                    \
  template <class T, int N>             \
  struct name<vec<T, N>> {              \
    typedef vec<trait(T), N> type;      \
  };                                    \
  template <class T>                    \
  using name##_t = typename name<T>::type;
MSL_SIGN(make_signed, __make_signed)
MSL_SIGN(make_unsigned, __make_unsigned)
#undef MSL_SIGN
template <class T>
MSL_INLINE constexpr remove_reference_t<T>&& move(T&& x) {
  return static_cast<remove_reference_t<T>&&>(x);
}

template <class T, size_t N>
struct array {
  T elements[N];
#define MSL_AT(space)                                                   \
  constexpr space T& operator[](size_t i) space { return elements[i]; } \
  constexpr const space T& operator[](size_t i) const space {           \
    return elements[i];                                                 \
  }                                                                     \
  constexpr space T* data() space { return elements; }                  \
  constexpr const space T* data() const space { return elements; }      \
  constexpr size_t size() const space { return N; }                     \
  constexpr bool empty() const space { return N == 0; }
  MSL_AT(thread)
  MSL_AT(device)
  MSL_AT(threadgroup)
#undef MSL_AT
  constexpr const __constant T& operator[](size_t i) const __constant {
    return elements[i];
  }
  constexpr size_t size() const __constant { return N; }
};
}  // namespace metal
