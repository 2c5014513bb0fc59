// csrc/device/sim/msl/matrix.h: simdgroup_matrix with Apple's lane layout.
//
// All lanes run the same code on stacks of one stride, so a matrix lies at the
// same offset in each.  The first lane to reach a multiply whose operands no
// lane has handled since the last synchronization does it for all 32 lanes and
// logs it; the others check that they meet the same multiply, and pass.
#pragma once

namespace metal {
namespace msl_detail {

MSL_INLINE constexpr uint row_of(uint lane) {
  return ((lane >> 4) & 1) * 4 + ((lane >> 2) & 1) * 2 + ((lane >> 1) & 1);
}
MSL_INLINE constexpr uint column_of(uint lane) {
  return ((lane >> 3) & 1) * 4 + (lane & 1) * 2;
}
MSL_INLINE constexpr uint lane_of(uint row, uint pair) {
  return 16 * (row >> 2) + 8 * (pair >> 1) + 4 * ((row >> 1) & 1) +
         2 * (row & 1) + (pair & 1);
}

MSL_INLINE void touch() { msl_abi::context()->touched = 1; }

// Position of this lane, through the permutation of a foreign layout.
MSL_INLINE uint seat() {
  msl_abi::Context* c = msl_abi::context();
  return __builtin_expect(c->lane_map != nullptr, 0) ? c->lane_map[c->lane]
                                                     : c->lane;
}
// The lane that has a position.
MSL_INLINE uint lane_at(uint seat) {
  msl_abi::Context* c = msl_abi::context();
  if (__builtin_expect(c->lane_map == nullptr, 1)) return seat;
  uint lane = 0;
  while (c->lane_map[lane] != seat) ++lane;
  return lane;
}
}  // namespace msl_detail

template <class T, int R = 8, int C = 8>
struct simdgroup_matrix {
  static_assert(R == 8 && C == 8, "simdgroup_matrix is 8x8");
  typedef vec<T, 2> storage_type;
  typedef T value_type;

  MSL_INLINE simdgroup_matrix() { msl_detail::touch(); }
  MSL_INLINE explicit simdgroup_matrix(T diagonal) {
    msl_detail::touch();
    uint row = msl_detail::row_of(msl_detail::seat());
    uint column = msl_detail::column_of(msl_detail::seat());
    elements = vec<T, 2>(row == column ? diagonal : T(0.0f),
                         row == column + 1 ? diagonal : T(0.0f));
  }
  MSL_INLINE simdgroup_matrix(const simdgroup_matrix& other)
      : elements(other.elements) {
    msl_detail::touch();
  }
  MSL_INLINE simdgroup_matrix& operator=(const simdgroup_matrix& other) {
    msl_detail::touch();
    elements = other.elements;
    return *this;
  }
  MSL_INLINE vec<T, 2>& thread_elements() {
    msl_detail::touch();
    return elements;
  }
  MSL_INLINE const vec<T, 2>& thread_elements() const {
    msl_detail::touch();
    return elements;
  }

  vec<T, 2> elements;
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

template <class T, int R = 8, int C = 8>
MSL_INLINE simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, R, C> m;
  m.elements = vec<T, 2>(value);
  return m;
}
template <class T, int R = 8, int C = 8>
MSL_INLINE simdgroup_matrix<T, R, C> make_diagonal_simdgroup_matrix(T value) {
  return simdgroup_matrix<T, R, C>(value);
}

namespace msl_detail {
typedef float row8 __attribute__((vector_size(32)));
typedef uint uint8v __attribute__((vector_size(32)));
typedef ulong ulong4v __attribute__((vector_size(32)));
typedef uint uint4v __attribute__((vector_size(16)));
typedef ushort ushort8v __attribute__((vector_size(16)));
typedef half half8v __attribute__((vector_size(16)));

template <class W>
MSL_INLINE W word(const char* at) {
  W w;
  __builtin_memcpy(&w, at, sizeof(W));
  return w;
}
MSL_INLINE constexpr long offset(uint row, uint pair) {
  return long(lane_of(row, pair)) * long(msl_abi::stack_stride);
}

// A row, gathered from the four lanes that hold it; `m` is lane 0's matrix.
MSL_INLINE row8 gather(const char* m, uint row, float) {
  ulong4v v = {word<ulong>(m + offset(row, 0)), word<ulong>(m + offset(row, 1)),
               word<ulong>(m + offset(row, 2)),
               word<ulong>(m + offset(row, 3))};
  return (row8)v;
}
MSL_INLINE uint4v gather_halves(const char* m, uint row) {
  return uint4v{word<uint>(m + offset(row, 0)), word<uint>(m + offset(row, 1)),
                word<uint>(m + offset(row, 2)), word<uint>(m + offset(row, 3))};
}
MSL_INLINE row8 gather(const char* m, uint row, half) {
  return __builtin_convertvector((half8v)gather_halves(m, row), row8);
}
MSL_INLINE row8 gather(const char* m, uint row, bfloat) {
  ushort8v v = (ushort8v)gather_halves(m, row);
  return (row8)(__builtin_convertvector(v, uint8v) << 16);
}

template <class T>
MSL_INLINE void scatter(char* m, uint row, row8 v) {
  T out[8];
  for (uint i = 0; i < 8; ++i) out[i] = T(v[i]);
  for (uint pair = 0; pair < 4; ++pair) {
    __builtin_memcpy(m + offset(row, pair), out + 2 * pair, 2 * sizeof(T));
  }
}

template <class D, class A, class B, class C>
MSL_INLINE void multiply_all(char* d,
                             const char* a,
                             const char* b,
                             const char* c) {
  float left[8][8];
  row8 acc[8];
#pragma clang loop unroll(full)
  for (uint r = 0; r < 8; ++r) {
    row8 v = gather(a, r, A());
    __builtin_memcpy(left[r], &v, sizeof(v));
    acc[r] = c ? gather(c, r, C()) : row8{};
  }
#pragma clang loop unroll(full)
  for (uint k = 0; k < 8; ++k) {
    row8 right = gather(b, k, B());
#pragma clang loop unroll(full)
    for (uint r = 0; r < 8; ++r) {
      float x = left[r][k];
      row8 wide = {x, x, x, x, x, x, x, x};
      acc[r] = __builtin_elementwise_fma(wide, right, acc[r]);
    }
  }
#pragma clang loop unroll(full)
  for (uint r = 0; r < 8; ++r) scatter<D>(d, r, acc[r]);
}

// One element at a time: other orders of summation, permuted lanes.
template <class D, class A, class B, class C>
__attribute__((noinline)) void multiply_slowly(
    msl_abi::Context* x, char* d, const char* a, const char* b, const char* c) {
  float in[3][8][8] = {};
  D out[8][8];
  auto seat = [&](uint lane) { return x->lane_map ? x->lane_map[lane] : lane; };
  for (uint lane = 0; lane < msl_abi::lanes; ++lane) {
    uint row = row_of(seat(lane)), column = column_of(seat(lane));
    for (uint e = 0; e < 2; ++e) {
      long at = long(lane) * long(msl_abi::stack_stride);
      in[0][row][column + e] = float(((const A*)(a + at))[e]);
      in[1][row][column + e] = float(((const B*)(b + at))[e]);
      if (c) in[2][row][column + e] = float(((const C*)(c + at))[e]);
    }
  }
  for (uint r = 0; r < 8; ++r) {
    for (uint col = 0; col < 8; ++col) {
      float sum = in[2][r][col];
      if (x->matrix_order == 2) {
        float p[8];
        for (uint k = 0; k < 8; ++k) p[k] = in[0][r][k] * in[1][k][col];
        sum +=
            ((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7]));
      } else {
        for (uint i = 0; i < 8; ++i) {
          uint k = x->matrix_order == 1 ? 7 - i : i;
          sum = __builtin_fmaf(in[0][r][k], in[1][k][col], sum);
        }
      }
      out[r][col] = D(sum);
    }
  }
  for (uint lane = 0; lane < msl_abi::lanes; ++lane) {
    uint row = row_of(seat(lane)), column = column_of(seat(lane));
    __builtin_memcpy(d + long(lane) * long(msl_abi::stack_stride),
                     &out[row][column], 2 * sizeof(D));
  }
}

template <class D, class A, class B, class C>
__attribute__((noinline, no_sanitize("thread"))) void multiply(
    msl_abi::Context* x,
    D* d,
    const A* a,
    const B* b,
    const C* c,
    msl_abi::u64 key,
    uint line) {
  bool is_clean = x->is_eager && !x->touched && x->arrived == 0 &&
                  x->gone == 0 && x->log_length < msl_abi::log_capacity;
  if (is_clean) {
    x->log[x->log_length++].key = key;
    x->log_position = x->log_length;
  } else if (!x->runtime->sync(x, msl_abi::Op::matrix, key, line, 0)) {
    return;
  }
  x->counters.matrix_multiplies += 1;
  x->line = line;
  long back = -long(x->lane) * long(msl_abi::stack_stride);
  char* pd = (char*)d + back;
  const char* pa = (const char*)a + back;
  const char* pb = (const char*)b + back;
  const char* pc = c ? (const char*)c + back : nullptr;
  if (__builtin_expect(x->matrix_order != 0 || x->lane_map != nullptr, 0)) {
    multiply_slowly<D, A, B, C>(x, pd, pa, pb, pc);
  } else {
    multiply_all<D, A, B, C>(pd, pa, pb, pc);
  }
}

__attribute__((noinline, cold)) inline void lanes_differ(msl_abi::Context* x,
                                                         uint line) {
  x->runtime->fail(
      x,
      x->touched
          ? "lanes handle elements of a matrix at different places before one "
            "multiply; set Options::is_eager to false for such a kernel"
          : "lanes of a simdgroup reach different matrix multiplies",
      line);
}

template <class D, class A, class B, class C>
MSL_INLINE void reach_multiply(
    D* d, const A* a, const B* b, const C* c, uint line) {
  // Other lanes write *d and read the operands while this one is elsewhere.
  asm volatile("" : : "r"(d), "r"(a), "r"(b), "r"(c) : "memory");
  msl_abi::Context* x = msl_abi::context();
  msl_abi::u64 key =
      (msl_abi::u64(line) << 32) | msl_abi::u32((char*)d - x->lane_base);
  if (x->log_position < x->log_length) {
    if (__builtin_expect(x->log[x->log_position++].key == key && !x->touched,
                         1)) {
      return;
    }
    lanes_differ(x, line);
  }
  multiply(x, d, a, b, c, key, line);
}
}  // namespace msl_detail

// d = a * b + c
template <class D, class A, class B, class C>
MSL_INLINE void simdgroup_multiply_accumulate(
    simdgroup_matrix<D, 8, 8>& d,
    const simdgroup_matrix<A, 8, 8>& a,
    const simdgroup_matrix<B, 8, 8>& b,
    const simdgroup_matrix<C, 8, 8>& c,
    MSL_SITE) {
  msl_detail::reach_multiply((D*)&d.elements, (const A*)&a.elements,
                             (const B*)&b.elements, (const C*)&c.elements,
                             line);
}
template <class D, class A, class B>
MSL_INLINE void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d,
                                   const simdgroup_matrix<A, 8, 8>& a,
                                   const simdgroup_matrix<B, 8, 8>& b,
                                   MSL_SITE) {
  msl_detail::reach_multiply((D*)&d.elements, (const A*)&a.elements,
                             (const B*)&b.elements, (const float*)nullptr,
                             line);
}
template <class A, class B>
MSL_INLINE simdgroup_matrix<A, 8, 8> operator*(
    const simdgroup_matrix<A, 8, 8>& a, const simdgroup_matrix<B, 8, 8>& b) {
  simdgroup_matrix<A, 8, 8> d;
  simdgroup_multiply(d, a, b);
  return d;
}

namespace msl_detail {
MSL_INLINE void reach_memory(uint line) {
  msl_abi::Context* x = msl_abi::context();
  if (!x->is_eager) x->runtime->sync(x, msl_abi::Op::matrix_memory, 0, line, 0);
  x->touched = 1;
  x->line = line;
}
// Index of this lane's element e.
MSL_INLINE long index(uint e,
                      ulong elements_per_row,
                      ulong2 origin,
                      bool is_transposed) {
  ulong row = row_of(seat());
  ulong column = column_of(seat()) + e;
  return is_transposed
             ? long((origin.y + column) * elements_per_row + origin.x + row)
             : long((origin.y + row) * elements_per_row + origin.x + column);
}
}  // namespace msl_detail

#define MSL_MATRIX_MEMORY(SPACE)                                            \
  template <class T, class U>                                               \
  MSL_INLINE void simdgroup_load(                                           \
      simdgroup_matrix<T, 8, 8>& d, const SPACE U* from,                    \
      ulong elements_per_row = 8, ulong2 origin = ulong2(0ul),              \
      bool transpose = false, MSL_SITE) {                                   \
    static_assert(is_same_v<T, U>, "simdgroup_load: element types differ"); \
    msl_detail::reach_memory(line);                                         \
    T a = from[msl_detail::index(0, elements_per_row, origin, transpose)];  \
    T b = from[msl_detail::index(1, elements_per_row, origin, transpose)];  \
    d.elements = vec<T, 2>(a, b);                                           \
  }
#define MSL_MATRIX_STORE(SPACE)                                            \
  template <class T>                                                       \
  MSL_INLINE void simdgroup_store(const simdgroup_matrix<T, 8, 8>& s,      \
                                  SPACE T* to, ulong elements_per_row = 8, \
                                  ulong2 origin = ulong2(0ul),             \
                                  bool transpose = false, MSL_SITE) {      \
    msl_detail::reach_memory(line);                                        \
    to[msl_detail::index(0, elements_per_row, origin, transpose)] =        \
        s.elements.data[0];                                                \
    to[msl_detail::index(1, elements_per_row, origin, transpose)] =        \
        s.elements.data[1];                                                \
  }
MSL_MATRIX_MEMORY(device)
MSL_MATRIX_MEMORY(threadgroup)
MSL_MATRIX_STORE(device)
MSL_MATRIX_STORE(threadgroup)
#undef MSL_MATRIX_MEMORY
#undef MSL_MATRIX_STORE
}  // namespace metal
