// csrc/device/sim/msl/traits.h: questions to types, as <metal_type_traits> has
// them.
#pragma once

// What some public kernels declare in namespace metal, or use as names of their
// own, is left out: is_empty, void_t, move, forward.
namespace metal {
template <class T, T v>
struct integral_constant {
  static constexpr T value = v;
  typedef T value_type;
  typedef integral_constant type;
  constexpr operator T() const { return v; }
  constexpr T operator()() const { return v; }
};
template <bool B>
using bool_constant = integral_constant<bool, B>;
typedef bool_constant<true> true_type;
typedef bool_constant<false> false_type;
// Inside Apple's headers, and called from outside.
template <class... B>
using _conjunction = bool_constant<(B::value && ...)>;
template <class... B>
using _disjunction = bool_constant<(B::value || ...)>;
template <class B>
using _negation = bool_constant<!B::value>;

template <bool B, class T = void>
struct enable_if {};
template <class T>
struct enable_if<true, T> {
  typedef T type;
};
template <bool B, class T = void>
using enable_if_t = typename enable_if<B, T>::type;
template <bool B, class T, class F>
struct conditional {
  typedef T type;
};
template <class T, class F>
struct conditional<false, T, F> {
  typedef F type;
};
template <bool B, class T, class F>
using conditional_t = typename conditional<B, T, F>::type;

// trait<T…>::value and trait_v<T…>, from an expression that is constant.
#define MSL_TRAIT(name, parameters, arguments, ...) \
  template <parameters>                             \
  struct name : bool_constant<(__VA_ARGS__)> {};    \
  template <parameters>                             \
  inline constexpr bool name##_v = (__VA_ARGS__);
#define MSL_COMMA ,
#define MSL_TRAIT1(name, ...) MSL_TRAIT(name, class T, T, __VA_ARGS__)
#define MSL_TRAIT2(name, ...) \
  MSL_TRAIT(name, class A MSL_COMMA class B, A MSL_COMMA B, __VA_ARGS__)
MSL_TRAIT2(is_same, __is_same(A, B))
MSL_TRAIT2(is_convertible, __is_convertible(A, B))
MSL_TRAIT2(is_base_of, __is_base_of(A, B))
MSL_TRAIT2(is_assignable, __is_assignable(A, B))
MSL_TRAIT1(is_void, __is_void(T))
MSL_TRAIT1(is_const, __is_const(T))
MSL_TRAIT1(is_volatile, __is_volatile(T))
MSL_TRAIT1(is_pointer, __is_pointer(T))
MSL_TRAIT1(is_reference, __is_reference(T))
MSL_TRAIT1(is_lvalue_reference, __is_lvalue_reference(T))
MSL_TRAIT1(is_rvalue_reference, __is_rvalue_reference(T))
MSL_TRAIT1(is_array, __is_array(T))
MSL_TRAIT1(is_enum, __is_enum(T))
MSL_TRAIT1(is_union, __is_union(T))
MSL_TRAIT1(is_class, __is_class(T))
MSL_TRAIT1(is_function, __is_function(T))
MSL_TRAIT1(is_trivially_copyable, __is_trivially_copyable(T))
MSL_TRAIT1(is_integral, __is_integral(T))
MSL_TRAIT1(is_floating_point,
           __is_same(__remove_cv(T), float) ||
               __is_same(__remove_cv(T), half) ||
               __is_same(__remove_cv(T), bfloat))
MSL_TRAIT1(is_arithmetic, __is_integral(T) || is_floating_point_v<T>)
MSL_TRAIT1(is_scalar, is_arithmetic_v<T> || __is_enum(T) || __is_pointer(T))
MSL_TRAIT1(is_signed, __is_signed(T) || is_floating_point_v<T>)
MSL_TRAIT1(is_unsigned, __is_unsigned(T))
template <class T, class... A>
struct is_constructible : bool_constant<__is_constructible(T, A...)> {};
template <class T, class... A>
inline constexpr bool is_constructible_v = __is_constructible(T, A...);

// Inside Apple's headers, where bfloat is none; texts add types of their own.
template <class T>
struct __is_valid_simdgroup_type
    : bool_constant<is_arithmetic_v<T> && !__is_same(T, bfloat)> {};

#define MSL_CHANGED(name, builtin) \
  template <class T>               \
  struct name {                    \
    typedef builtin(T) type;       \
  };                               \
  template <class T>               \
  using name##_t = builtin(T);
MSL_CHANGED(remove_cv, __remove_cv)
MSL_CHANGED(remove_const, __remove_const)
MSL_CHANGED(remove_volatile, __remove_volatile)
MSL_CHANGED(remove_reference, __remove_reference_t)
MSL_CHANGED(remove_pointer, __remove_pointer)
MSL_CHANGED(remove_extent, __remove_extent)
MSL_CHANGED(decay, __decay)
MSL_CHANGED(make_signed, __make_signed)
MSL_CHANGED(make_unsigned, __make_unsigned)
MSL_CHANGED(underlying_type, __underlying_type)
MSL_CHANGED(add_pointer, __add_pointer)
#undef MSL_CHANGED
#undef MSL_TRAIT1
#undef MSL_TRAIT2
#undef MSL_TRAIT
#undef MSL_COMMA

template <class T>
MSL_INLINE constexpr T&& declval() noexcept;
}  // namespace metal
