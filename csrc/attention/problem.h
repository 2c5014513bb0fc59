// csrc/attention/problem.h: an attention problem, and the one function that
// says whether its shapes make sense.  Fake, simulated and Metal calls all use
// it, the fake ones with symbolic integers.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>

#include "device/device.h"

namespace orchard::attention {

enum class DType : uint8_t { float32, float16, bfloat16 };
enum class Causal : uint8_t { none = 0, top_left = 1, bottom_right = 2 };

inline constexpr int64_t kMaxHeadDim = 256;
// Twice this, plus a tile, still fits the kernels' 32-bit row numbers.
inline constexpr int64_t kMaxLength = int64_t{1} << 29;

constexpr int64_t element_bytes(DType dtype) {
  return dtype == DType::float32 ? 4 : 2;
}

// Sizes [batch, heads, length, head_dim] of q, k and v.
template <class Int>
struct Shapes {
  std::array<Int, 4> q;
  std::array<Int, 4> k;
  std::array<Int, 4> v;
};

// What the kernels read of one tensor; strides in elements.
struct Layout {
  std::array<int64_t, 4> strides{};
  device::BufferView view{};
};

struct Problem {
  DType dtype = DType::float32;
  int64_t batch = 0;
  int64_t heads_q = 0;
  int64_t heads_kv = 0;
  int64_t len_q = 0;
  int64_t len_kv = 0;
  int64_t head_dim = 0;
  int64_t head_dim_v = 0;
  double scale = 1.0;
  Causal causal = Causal::none;
};

template <class Int>
std::string shape_text(const std::array<Int, 4>& sizes) {
  std::ostringstream text;
  text << '(' << sizes[0] << ", " << sizes[1] << ", " << sizes[2] << ", "
       << sizes[3] << ')';
  return text.str();
}

template <class... Parts>
[[noreturn]] void refuse(const char* operation, const Parts&... parts) {
  std::ostringstream text;
  text << '[' << operation << "] ";
  (text << ... << parts);
  throw Error(ErrorKind::invalid_problem, text.str());
}

// Throws Error(invalid_problem) naming the operation, what was expected and
// what came.
template <class Int>
void check_shapes(const char* operation,
                  const Shapes<Int>& shapes,
                  double scale,
                  int64_t causal) {
  const auto& [q, k, v] = shapes;
  if (k[0] != q[0] || v[0] != q[0]) {
    refuse(operation, "q, k and v must have the same batch size, got shapes ",
           shape_text(q), ", ", shape_text(k), " and ", shape_text(v));
  }
  if (k[1] != v[1] || k[2] != v[2]) {
    refuse(operation, "k and v must have the same heads and length, got ",
           shape_text(k), " and ", shape_text(v));
  }
  if (k[1] == 0 ? q[1] != 0 : q[1] % k[1] != 0) {
    refuse(operation, "heads of q must be a multiple of heads of k and v, got ",
           q[1], " and ", k[1]);
  }
  if (q[3] != k[3]) {
    refuse(operation, "q and k must have the same head_dim, got ", q[3],
           " and ", k[3]);
  }
  for (const auto& [name, dim] :
       {std::pair<const char*, const Int&>{"head_dim of q and k", q[3]},
        {"head_dim of v", v[3]}}) {
    if (dim < 1 || dim > kMaxHeadDim) {
      refuse(operation, name, " must be 1 to ", kMaxHeadDim, ", got ", dim);
    }
  }
  for (const auto& [name, length] :
       {std::pair<const char*, const Int&>{"len_q", q[2]}, {"len_kv", k[2]}}) {
    if (length > kMaxLength) {
      refuse(operation, name, " must be at most ", kMaxLength, ", got ",
             length);
    }
  }
  if (!std::isfinite(scale)) {
    refuse(operation, "scale must be a finite number, got ", scale,
           "; leave it out for 1/sqrt(head_dim)");
  }
  if (causal < 0 || causal > 2) {
    refuse(operation,
           "causal must be 0 (none), 1 (top-left) or 2 (bottom-right), got ",
           causal);
  }
}

// The problem of checked shapes.
Problem make_problem(const Shapes<int64_t>& shapes,
                     DType dtype,
                     double scale,
                     int64_t causal);

// Why a device cannot run a valid problem, or "".
std::string unsupported_reason(DType dtype, const device::Limits& limits);

}  // namespace orchard::attention
