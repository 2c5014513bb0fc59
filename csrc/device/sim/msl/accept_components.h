// csrc/device/sim/msl/accept_components.h: put into the body of a vector of
// MSL_N elements: its components by name, in every order, as accept_vector.h
// says.  No #pragma once: it is read once for each kind of vector.
#define MSL_PROPERTY(type, name, colour)                                      \
  __declspec(property(get = msl_get_##name, put = msl_put_##name)) type name; \
  __declspec(property(get = msl_get_##name, put = msl_put_##name)) type colour;
#define MSL_GET(type, name, ...)                                \
  MSL_INLINE constexpr type msl_get_##name() const {            \
    return type(__VA_ARGS__);                                   \
  }                                                             \
  MSL_INLINE constexpr type msl_get_##name() const __constant { \
    return type(__VA_ARGS__);                                   \
  }
#define MSL_DISTINCT(...)                     \
  static_assert(msl_distinct<T>(__VA_ARGS__), \
                "vector is not assignable (contains duplicate components)");

#define MSL_ONE(a, p, i)                  \
  MSL_GET(T, a, msl_v[i])                 \
  void msl_put_##a(T x) { msl_v[i] = x; } \
  MSL_PROPERTY(T, a, p)
#define MSL_TWO(b, q, j, a, p, i)               \
  MSL_GET(MSL_VEC(2), a##b, msl_v[i], msl_v[j]) \
  void msl_put_##a##b(MSL_VEC(2) x) {           \
    MSL_DISTINCT(i, j)                          \
    msl_v[i] = x.msl_v[0];                      \
    msl_v[j] = x.msl_v[1];                      \
  }                                             \
  MSL_PROPERTY(MSL_VEC(2), a##b, p##q)
#define MSL_THREE(c, r, k, b, q, j, a, p, i)                 \
  MSL_GET(MSL_VEC(3), a##b##c, msl_v[i], msl_v[j], msl_v[k]) \
  void msl_put_##a##b##c(MSL_VEC(3) x) {                     \
    MSL_DISTINCT(i, j, k)                                    \
    msl_v[i] = x.msl_v[0];                                   \
    msl_v[j] = x.msl_v[1];                                   \
    msl_v[k] = x.msl_v[2];                                   \
  }                                                          \
  MSL_PROPERTY(MSL_VEC(3), a##b##c, p##q##r)
#define MSL_FOUR(d, s, l, c, r, k, b, q, j, a, p, i)                      \
  MSL_GET(MSL_VEC(4), a##b##c##d, msl_v[i], msl_v[j], msl_v[k], msl_v[l]) \
  void msl_put_##a##b##c##d(MSL_VEC(4) x) {                               \
    MSL_DISTINCT(i, j, k, l)                                              \
    msl_v[i] = x.msl_v[0];                                                \
    msl_v[j] = x.msl_v[1];                                                \
    msl_v[k] = x.msl_v[2];                                                \
    msl_v[l] = x.msl_v[3];                                                \
  }                                                                       \
  MSL_PROPERTY(MSL_VEC(4), a##b##c##d, p##q##r##s)
#define MSL_VEC(n) vec<T, n>

// f(letter, colour, index, what came before) for each component; a macro is not
// expanded within itself, so each level has its own.
#if MSL_N == 2
#define MSL_EACH(f, ...) f(x, r, 0, ##__VA_ARGS__) f(y, g, 1, ##__VA_ARGS__)
#define MSL_EACHB(f, ...) f(x, r, 0, ##__VA_ARGS__) f(y, g, 1, ##__VA_ARGS__)
#define MSL_EACHC(f, ...) f(x, r, 0, ##__VA_ARGS__) f(y, g, 1, ##__VA_ARGS__)
#define MSL_EACHD(f, ...) f(x, r, 0, ##__VA_ARGS__) f(y, g, 1, ##__VA_ARGS__)
#elif MSL_N == 3
#define MSL_EACH(f, ...) \
  f(x, r, 0, ##__VA_ARGS__) f(y, g, 1, ##__VA_ARGS__) f(z, b, 2, ##__VA_ARGS__)
#define MSL_EACHB(f, ...) \
  f(x, r, 0, ##__VA_ARGS__) f(y, g, 1, ##__VA_ARGS__) f(z, b, 2, ##__VA_ARGS__)
#define MSL_EACHC(f, ...) \
  f(x, r, 0, ##__VA_ARGS__) f(y, g, 1, ##__VA_ARGS__) f(z, b, 2, ##__VA_ARGS__)
#define MSL_EACHD(f, ...) \
  f(x, r, 0, ##__VA_ARGS__) f(y, g, 1, ##__VA_ARGS__) f(z, b, 2, ##__VA_ARGS__)
#else
#define MSL_EACH(f, ...)                              \
  f(x, r, 0, ##__VA_ARGS__) f(y, g, 1, ##__VA_ARGS__) \
      f(z, b, 2, ##__VA_ARGS__) f(w, a, 3, ##__VA_ARGS__)
#define MSL_EACHB(f, ...)                             \
  f(x, r, 0, ##__VA_ARGS__) f(y, g, 1, ##__VA_ARGS__) \
      f(z, b, 2, ##__VA_ARGS__) f(w, a, 3, ##__VA_ARGS__)
#define MSL_EACHC(f, ...)                             \
  f(x, r, 0, ##__VA_ARGS__) f(y, g, 1, ##__VA_ARGS__) \
      f(z, b, 2, ##__VA_ARGS__) f(w, a, 3, ##__VA_ARGS__)
#define MSL_EACHD(f, ...)                             \
  f(x, r, 0, ##__VA_ARGS__) f(y, g, 1, ##__VA_ARGS__) \
      f(z, b, 2, ##__VA_ARGS__) f(w, a, 3, ##__VA_ARGS__)
#endif
#define MSL_2A(...) MSL_EACHB(MSL_TWO, __VA_ARGS__)
#define MSL_3A(...) MSL_EACHB(MSL_3B, __VA_ARGS__)
#define MSL_3B(...) MSL_EACHC(MSL_THREE, __VA_ARGS__)
#define MSL_4A(...) MSL_EACHB(MSL_4B, __VA_ARGS__)
#define MSL_4B(...) MSL_EACHC(MSL_4C, __VA_ARGS__)
#define MSL_4C(...) MSL_EACHD(MSL_FOUR, __VA_ARGS__)
MSL_EACH(MSL_ONE)
MSL_EACH(MSL_2A)
MSL_EACH(MSL_3A)
MSL_EACH(MSL_4A)

MSL_INLINE constexpr __generic T& operator[](int i) & { return msl_v[i]; }
MSL_INLINE constexpr T operator[](int i) const& { return msl_v[i]; }
MSL_INLINE constexpr T operator[](int i) const&& { return msl_v[i]; }
MSL_INLINE constexpr T operator[](int i) const __constant& { return msl_v[i]; }

#define MSL_ASSIGN(name, op)                                          \
  template <class B, class R = typename name<vec<T, MSL_N>, B>::type> \
  MSL_INLINE auto& operator op## = (B b) {                            \
    return *this = R(*this) op b;                                     \
  }
MSL_ASSIGN(msl_arithmetic, +)
MSL_ASSIGN(msl_arithmetic, -)
MSL_ASSIGN(msl_arithmetic, *)
MSL_ASSIGN(msl_arithmetic, /)
MSL_ASSIGN(msl_bitwise, %)
MSL_ASSIGN(msl_bitwise, &)
MSL_ASSIGN(msl_bitwise, |)
MSL_ASSIGN(msl_bitwise, ^)
MSL_ASSIGN(msl_bitwise, <<)
MSL_ASSIGN(msl_bitwise, >>)
MSL_INLINE auto& operator++() { return *this += T(1); }
MSL_INLINE auto& operator--() { return *this -= T(1); }
MSL_INLINE vec<T, MSL_N> operator++(int) {
  const vec<T, MSL_N> old = *this;
  *this += T(1);
  return old;
}
MSL_INLINE vec<T, MSL_N> operator--(int) {
  const vec<T, MSL_N> old = *this;
  *this -= T(1);
  return old;
}

#undef MSL_ASSIGN
#undef MSL_PROPERTY
#undef MSL_GET
#undef MSL_DISTINCT
#undef MSL_ONE
#undef MSL_TWO
#undef MSL_THREE
#undef MSL_FOUR
#undef MSL_VEC
#undef MSL_EACH
#undef MSL_EACHB
#undef MSL_EACHC
#undef MSL_EACHD
#undef MSL_2A
#undef MSL_3A
#undef MSL_3B
#undef MSL_4A
#undef MSL_4B
#undef MSL_4C
#undef MSL_N
