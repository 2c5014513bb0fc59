// csrc/device/sim/msl/tensor_ops.h: Metal 4's tensors and matrix multiplies on
// them; put before a text that names them.
//
// A cooperative tensor is cut into fragments of 16 x 16 that a simdgroup holds
// as public kernels have measured it on the newest GPUs: a lane has four
// columns of row r and of row r + 8.  Nothing documents it; with a foreign
// layout (sim/sim.h) lanes change places.  Sums are made in float, in order;
// inputs are never rounded, however relaxed the precision.
#pragma once

namespace metal {
struct tensor_inline {};
struct tensor_handle {};
struct tensor_offset {};
inline constexpr int dynamic_extent = -1;
template <class T>
inline constexpr T dynamic_length_v = T(-1);

template <class I, int RANK>
struct dextents {
  typedef I index_type;
  I sizes[RANK];
  dextents() = default;
  template <class... A>
    requires(sizeof...(A) == RANK)
  MSL_INLINE constexpr dextents(A... a) : sizes{I(a)...} {}
  MSL_INLINE constexpr I extent(int i) const { return sizes[i]; }
  static constexpr int rank() { return RANK; }
};

// Elements of memory by column and row; none is read or written outside.
template <class E, class Extents, class Kind>
struct tensor {
  typedef remove_addrspace_t<E> element_type;
  typedef E stored_type;
  typedef typename Extents::index_type index_type;

  E* data;
  Extents extents;
  long strides[2];

  MSL_INLINE tensor(E* at, Extents size)
      : data(at), extents(size), strides{1, long(size.extent(0))} {}
  template <class S>
  MSL_INLINE tensor(E* at, Extents size, array<S, 2> step)
      : data(at), extents(size), strides{long(step[0]), long(step[1])} {}

  MSL_INLINE index_type get_extent(int i) const { return extents.extent(i); }
  MSL_INLINE long get_stride(int i) const { return strides[i]; }
  MSL_INLINE tensor slice(long column, long row) const {
    tensor part = *this;
    part.data += column * strides[0] + row * strides[1];
    part.extents.sizes[0] -= index_type(column);
    part.extents.sizes[1] -= index_type(row);
    return part;
  }

  MSL_INLINE bool holds(long row, long column) const {
    return row >= 0 && column >= 0 && row < extents.extent(1) &&
           column < extents.extent(0);
  }
  MSL_INLINE E& at(long row, long column) const {
    return data[column * strides[0] + row * strides[1]];
  }
};
template <class E, class Extents>
tensor(E*, Extents) -> tensor<E, Extents, tensor_inline>;
template <class E, class Extents, class S>
tensor(E*, Extents, array<S, 2>) -> tensor<E, Extents, tensor_inline>;

struct execution_thread {
  static constexpr uint count = 0;
};
template <uint N>
struct execution_simdgroups {
  static constexpr uint count = N;
};
typedef execution_simdgroups<1> execution_simdgroup;

namespace msl_detail {
// Of a fragment: the upper of a lane's two rows, the first of its four columns.
MSL_INLINE int upper_row() {
  return int((seat() >> 4 & 1) * 4 + (seat() >> 1 & 3));
}
MSL_INLINE int first_column() {
  return int((seat() >> 3 & 1) * 2 + (seat() & 1)) * 4;
}
}  // namespace msl_detail

// ROWS x COLUMNS elements, spread over the lanes of COUNT simdgroups.
template <class T, int ROWS, int COLUMNS, uint COUNT>
struct cooperative_tensor {
  static_assert(COUNT != 0, "a cooperative tensor belongs to simdgroups");
  typedef T element_type;
  static constexpr int across = (COLUMNS + 15) / 16;
  static constexpr int fragments = across * ((ROWS + 15) / 16);
  static constexpr int held = (fragments + int(COUNT) - 1) / int(COUNT);

  T elements[held * 8];

  static constexpr ushort get_capacity() { return held * 8; }
  MSL_INLINE T& operator[](int i) { return elements[i]; }
  MSL_INLINE T operator[](int i) const { return elements[i]; }
  MSL_INLINE T* begin() { return elements; }
  MSL_INLINE T* end() { return elements + held * 8; }

  // Of element i of this lane.
  MSL_INLINE static int row(int i) {
    return fragment(i) / across * 16 + msl_detail::upper_row() +
           (i >> 2 & 1) * 8;
  }
  MSL_INLINE static int column(int i) {
    return fragment(i) % across * 16 + msl_detail::first_column() + (i & 3);
  }
  MSL_INLINE static bool is_valid_element(int i) {
    return fragment(i) < fragments && row(i) < ROWS && column(i) < COLUMNS;
  }
  MSL_INLINE static array<int, 2> get_multidimensional_index(int i) {
    return {column(i), row(i)};
  }

  // Where some element lies: the lane that holds it, and which of its own.
  MSL_INLINE static uint lane_of(int row, int column) {
    uint seat = uint((row & 4) << 2 | (column >> 3 & 1) << 3 | (row & 3) << 1 |
                     (column >> 2 & 1));
    return msl_detail::lane_at(seat);
  }
  MSL_INLINE static int place_of(int row, int column) {
    return (row / 16 * across + column / 16) * 8 + (row >> 3 & 1) * 4 +
           (column & 3);
  }

  template <class Tensor>
  MSL_INLINE void load(const Tensor& from) {
    for (int i = 0; i < get_capacity(); ++i) {
      bool is_there = is_valid_element(i) && from.holds(row(i), column(i));
      elements[i] = is_there ? T(from.at(row(i), column(i))) : T(0);
    }
  }
  template <class Tensor>
  MSL_INLINE void store(const Tensor& to) const {
    typedef typename Tensor::element_type S;
    for (int i = 0; i < get_capacity(); ++i) {
      if (is_valid_element(i) && to.holds(row(i), column(i))) {
        to.at(row(i), column(i)) = S(elements[i]);
      }
    }
  }

 private:
  MSL_INLINE static int fragment(int i) {
    return COUNT == 1
               ? i / 8
               : int(msl_abi::context()->simdgroup % COUNT) * held + i / 8;
  }
};
}  // namespace metal

namespace mpp {
namespace tensor_ops {
using namespace metal;

struct matmul2d_descriptor {
  enum class mode { multiply, multiply_accumulate };
  int m, n, k;
  bool transpose_left, transpose_right, relaxed_precision;
  mode matmul_mode;

  constexpr matmul2d_descriptor(int rows,
                                int columns,
                                int inner = dynamic_extent,
                                bool left = false,
                                bool right = false,
                                bool relaxed = false,
                                mode how = mode::multiply)
      : m(rows),
        n(columns),
        k(inner),
        transpose_left(left),
        transpose_right(right),
        relaxed_precision(relaxed),
        matmul_mode(how) {}
};

namespace msl_detail {
template <class T>
struct is_cooperative : false_type {};
template <class T, int R, int C, uint N>
struct is_cooperative<cooperative_tensor<T, R, C, N>> : true_type {};

// What sums of two types are made in.
template <class A, class B>
using sum_of = conditional_t<is_integral_v<A> && is_integral_v<B>, int, float>;

// An operand that all lanes of a simdgroup may read.
template <class O, class Sum>
struct Operand {
  const O& tensor;
  MSL_INLINE Operand(const O& from, uint) : tensor(from) {}
  MSL_INLINE Sum at(int row, int column) const {
    return tensor.holds(row, column) ? Sum(tensor.at(row, column)) : Sum(0);
  }
};
template <class T, int R, int C, class Sum>
struct Operand<cooperative_tensor<T, R, C, 1>, Sum> {
  typedef cooperative_tensor<T, R, C, 1> Source;
  ulong lanes[orchard::sim::abi::lanes];
  MSL_INLINE Operand(const Source& from, uint line) {
    const orchard::sim::abi::u64* slots = metal::msl_detail::publish(
        orchard::sim::abi::Op::shuffle, ulong(&from), line);
    for (uint i = 0; i < orchard::sim::abi::lanes; ++i) lanes[i] = slots[i];
  }
  MSL_INLINE Sum at(int row, int column) const {
    const Source* from = (const Source*)lanes[Source::lane_of(row, column)];
    return Sum(from->elements[Source::place_of(row, column)]);
  }
};
}  // namespace msl_detail

enum class reduction_operation { sum, max, min };
template <class T>
struct reduction_operation_identity {
  static constexpr T sum_identity = T(0);
  static constexpr T max_identity =
      is_integral_v<T> ? numeric_limits<T>::lowest() : T(-__builtin_inff());
  static constexpr T min_identity =
      is_integral_v<T> ? numeric_limits<T>::max() : T(__builtin_inff());
};

// One value of each row (or column) that a lane has elements of.
template <class T, int SIZE, bool IS_ROW>
struct reduced_tensor {
  typedef T element_type;
  static constexpr int each = IS_ROW ? 2 : 4;
  static constexpr int held = (SIZE + 15) / 16 * each;
  T elements[held];

  static constexpr ushort get_capacity() { return held; }
  MSL_INLINE T& operator[](int i) { return elements[i]; }
  MSL_INLINE T operator[](int i) const { return elements[i]; }
  MSL_INLINE T* begin() { return elements; }
  MSL_INLINE T* end() { return elements + held; }
  MSL_INLINE static int index(int i) {
    return i / each * 16 + (IS_ROW
                                ? metal::msl_detail::upper_row() + i % each * 8
                                : metal::msl_detail::first_column() + i % each);
  }
  MSL_INLINE static bool is_valid_element(int i) { return index(i) < SIZE; }
  MSL_INLINE static array<int, 1> get_multidimensional_index(int i) {
    return {index(i)};
  }
};

namespace msl_detail {
template <bool IS_ROW, class T, int R, int C, class S, int SIZE>
MSL_INLINE void reduce(const cooperative_tensor<T, R, C, 1>& source,
                       reduced_tensor<S, SIZE, IS_ROW>& result,
                       reduction_operation operation,
                       S identity,
                       uint line) {
  static_assert(SIZE == (IS_ROW ? R : C), "another number of rows or columns");
  Operand<cooperative_tensor<T, R, C, 1>, S> all(source, line);
  for (int i = 0; i < result.get_capacity(); ++i) {
    S value = identity;
    int own = result.index(i);
    for (int k = 0; own < SIZE && k < (IS_ROW ? C : R); ++k) {
      S next = IS_ROW ? all.at(own, k) : all.at(k, own);
      value = operation == reduction_operation::sum   ? S(value + next)
              : operation == reduction_operation::max ? S(max(value, next))
                                                      : S(min(value, next));
    }
    result.elements[i] = value;
  }
  metal::msl_detail::wait(orchard::sim::abi::Op::simdgroup_barrier, 0, line);
}
}  // namespace msl_detail

// As in Metal the identity is that of a sum, whatever the operation.
template <class T, int R, int C, class S>
MSL_INLINE void reduce_rows(
    const cooperative_tensor<T, R, C, 1>& source,
    reduced_tensor<S, R, true>& result,
    reduction_operation operation = reduction_operation::sum,
    S identity = reduction_operation_identity<S>::sum_identity,
    MSL_SITE) {
  msl_detail::reduce<true>(source, result, operation, identity, line);
}
template <class T, int R, int C, class S>
MSL_INLINE void reduce_columns(
    const cooperative_tensor<T, R, C, 1>& source,
    reduced_tensor<S, C, false>& result,
    reduction_operation operation = reduction_operation::sum,
    S identity = reduction_operation_identity<S>::sum_identity,
    MSL_SITE) {
  msl_detail::reduce<false>(source, result, operation, identity, line);
}

template <matmul2d_descriptor D, class Scope>
struct matmul2d {
  template <class L, class R, class Sum>
  MSL_INLINE static auto get_left_input_cooperative_tensor() {
    return cooperative_tensor<L, D.transpose_left ? D.k : D.m,
                              D.transpose_left ? D.m : D.k, Scope::count>();
  }
  template <class L, class R, class Sum>
  MSL_INLINE static auto get_right_input_cooperative_tensor() {
    return cooperative_tensor<R, D.transpose_right ? D.n : D.k,
                              D.transpose_right ? D.k : D.n, Scope::count>();
  }
  // Not zeroed.
  template <class L, class R, class T>
  MSL_INLINE static auto get_destination_cooperative_tensor() {
    cooperative_tensor<T, D.m, D.n, Scope::count> made;
    return made;
  }
  template <class L, class R, class T>
  MSL_INLINE static auto get_row_reduction_destination_cooperative_tensor() {
    reduced_tensor<T, D.m, true> made;
    return made;
  }
  template <class L, class R, class T>
  MSL_INLINE static auto get_column_reduction_destination_cooperative_tensor() {
    reduced_tensor<T, D.n, false> made;
    return made;
  }

  template <class L, class R, class C>
  MSL_INLINE static void run(const L& left,
                             const R& right,
                             C&& result,
                             MSL_SITE) {
    typedef remove_cv_t<remove_reference_t<C>> Result;
    typedef msl_detail::sum_of<typename L::element_type,
                               typename R::element_type>
        Sum;
    msl_detail::Operand<L, Sum> a(left, line);
    msl_detail::Operand<R, Sum> b(right, line);
    if constexpr (msl_detail::is_cooperative<Result>::value) {
      for (int i = 0; i < Result::get_capacity(); ++i) {
        if (!Result::is_valid_element(i)) continue;
        add(left, a, b, Result::row(i), Result::column(i), result.elements[i]);
      }
    } else {
      // Spread as a cooperative tensor would be.
      typedef typename Result::element_type T;
      typedef cooperative_tensor<T, D.m, D.n, Scope::count ? Scope::count : 1>
          Spread;
      for (int row = 0; row < D.m && Scope::count == 0; ++row) {
        for (int column = 0; column < D.n; ++column) {
          if (result.holds(row, column)) {
            add(left, a, b, row, column, result.at(row, column));
          }
        }
      }
      for (int i = 0; i < Spread::get_capacity() && Scope::count != 0; ++i) {
        int row = Spread::row(i), column = Spread::column(i);
        if (Spread::is_valid_element(i) && result.holds(row, column)) {
          add(left, a, b, row, column, result.at(row, column));
        }
      }
    }
    if constexpr (msl_detail::is_cooperative<L>::value ||
                  msl_detail::is_cooperative<R>::value) {
      // Nobody changes what others still read.
      metal::msl_detail::wait(orchard::sim::abi::Op::simdgroup_barrier, 0,
                              line);
    }
  }

 private:
  template <class L>
  MSL_INLINE static int inner(const L& left) {
    if constexpr (msl_detail::is_cooperative<L>::value) {
      return D.k;
    } else {
      int there = int(left.get_extent(D.transpose_left ? 1 : 0));
      return D.k > 0 && D.k < there ? D.k : there;
    }
  }

  template <class L, class A, class B, class T>
  MSL_INLINE static void add(
      const L& left, const A& a, const B& b, int row, int column, T& to) {
    typedef decltype(a.at(0, 0)) Sum;
    typedef remove_addrspace_t<T> Value;
    Sum sum = Sum(0);
    if (D.matmul_mode == matmul2d_descriptor::mode::multiply_accumulate) {
      sum = Sum(Value(to));
    }
    for (int k = 0; k < inner(left); ++k) {
      Sum x = D.transpose_left ? a.at(k, row) : a.at(row, k);
      Sum y = D.transpose_right ? b.at(column, k) : b.at(k, column);
      sum += x * y;
    }
    to = Value(sum);
  }
};
}  // namespace tensor_ops
}  // namespace mpp
