// csrc/attention/problem.h: an attention problem, and the one function that
// says whether its shapes make sense.  Fake, simulated and Metal calls all use
// it, the fake ones with symbolic integers.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <string>

#include "device/device.h"

namespace orchard::attention {

enum class DType : uint8_t { float32, float16, bfloat16 };
enum class MaskKind : uint8_t { none, boolean, bias };

inline constexpr int64_t kMaxHeadDim = 576;
inline constexpr int64_t kPageUnit = 8;  // pages are a multiple of this
// Twice this, plus a tile, still fits the kernels' 32-bit row numbers.
inline constexpr int64_t kMaxLength = int64_t{1} << 29;
// Of all ranks together; dropout counts them in 32 bits.
inline constexpr int64_t kMaxHeads = int64_t{1} << 20;

const char* dtype_name(DType dtype);  // PyTorch's

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

// The tensors of one call; what a call does not use stays empty.
struct Tensors {
  Layout q, k, v, out, grad_out, dq, dk, dv, mask;
  device::BufferView lse, stats, delta, slopes, sinks, starts_q, starts_kv,
      dbias, lengths, table, left_pads, cache_rows, split_out, split_stats,
      spill, dq_sums, units, grad_lse, walk_sums;
  int64_t table_row = 0;  // stride of the table's batch
};

// Of a whole sequence, or of packed ones, which rows and columns a call has:
// results are in float32, and dropout is the whole's.
struct Part {
  int64_t q_offset = 0;  // where the first row stands
  int64_t k_offset = 0;  // ... and the first column
  int64_t head_offset = 0;
  int64_t heads_total = 0;
};

// What a call asks for besides its tensors.
struct Settings {
  double scale = 1.0;
  double softcap = 0.0;  // 0: none
  double dropout_p = 0.0;
  int64_t window_left = -1;  // -1: open
  int64_t window_right = -1;
  bool is_bottom_right = false;  // row r faces column r + len_kv - len_q
  std::optional<Part> part{};    // none: the whole
};

// Where the keys of a decoding step come from.
struct Cache {
  bool is_used = false;
  int64_t page_size = 0;  // keys a page; 0: no pages
  bool has_left_pads = false;
  bool has_rows = false;  // a batch entry names its entry of the cache
  int64_t entries = 0;    // or pages, of k and v
  int64_t splits = 1;     // parts that the keys are cut into

  bool is_paged() const { return page_size > 0; }
};

struct Problem {
  DType dtype = DType::float32;
  int64_t batch = 0;  // or sequences, when packed
  int64_t heads_q = 0;
  int64_t heads_kv = 0;
  int64_t len_q = 0;  // or the longest sequence's
  int64_t len_kv = 0;
  int64_t rows_per_head = 0;     // of all sequences, when packed; else len_q
  int64_t columns_per_head = 0;  // the same of k and v
  int64_t head_dim = 0;
  int64_t head_dim_v = 0;
  Settings settings;
  uint64_t seed = 0;
  MaskKind mask = MaskKind::none;
  DType mask_dtype = DType::float32;
  std::array<int64_t, 4> mask_sizes{1, 1, 1, 1};
  bool has_slopes = false;
  bool has_batch_slopes = false;
  bool has_sinks = false;
  bool is_packed = false;
  bool has_grad_lse = false;  // a backward: lse has a gradient too
  Cache cache;

  int64_t largest_head_dim() const {
    return head_dim < head_dim_v ? head_dim_v : head_dim;
  }

  // Rows of all query heads that share a key head.
  int64_t rows_of_group() const { return len_q * (heads_q / heads_kv); }
};

template <class Int>
std::string shape_text(const std::array<Int, 4>& sizes) {
  std::ostringstream text;
  text << '[' << sizes[0] << ", " << sizes[1] << ", " << sizes[2] << ", "
       << sizes[3] << ']';
  return text.str();
}

template <class... Parts>
[[noreturn]] void refuse(const char* operation, const Parts&... parts) {
  std::ostringstream text;
  text << '[' << operation << "] ";
  (text << ... << parts);
  throw Error(ErrorKind::invalid_problem, text.str());
}

void check_settings(const char* operation, const Settings& settings);

// Of any sizes of one kind.
template <class Int>
void check_equal(const char* operation,
                 const char* what,
                 std::initializer_list<Int> sizes) {
  for (const Int& size : sizes) {
    if (size == *sizes.begin()) continue;
    std::ostringstream got;
    for (const Int& each : sizes) {
      got << (&each == sizes.begin() ? "" : ", ") << each;
    }
    refuse(operation, "expected one ", what,
           " in all tensors that have it, got ", got.str(),
           "; slice or expand them to the same size");
  }
}

// Throws Error(invalid_problem) naming the operation, what was expected, what
// came and what to do.
template <class Int>
void check_shapes(const char* operation, const Shapes<Int>& shapes) {
  const auto& [q, k, v] = shapes;
  check_equal<Int>(operation, "batch", {q[0], k[0], v[0]});
  check_equal<Int>(operation, "heads_kv", {k[1], v[1]});
  check_equal<Int>(operation, "len_kv", {k[2], v[2]});
  check_equal<Int>(operation, "head_dim", {q[3], k[3]});
  for (const auto& [name, dim] :
       {std::pair<const char*, const Int&>{"head_dim", q[3]},
        {"head_dim_v", v[3]}}) {
    if (dim < 1 || dim > kMaxHeadDim) {
      refuse(operation, "expected ", name, " from 1 to ", kMaxHeadDim, ", got ",
             dim, "; split wider heads into several");
    }
  }
  if (k[1] == 0 ? q[1] != 0 : q[1] % k[1] != 0) {
    refuse(operation, "expected heads_q to be a multiple of heads_kv, got ",
           q[1], " and ", k[1], "; repeat or drop heads");
  }
}

// A mask is [batch, heads_q, len_q, len_kv] with any of them 1.
template <class Int>
void check_mask(const char* operation,
                const Shapes<Int>& shapes,
                const std::array<Int, 4>& mask) {
  const std::array<Int, 4> full{shapes.q[0], shapes.q[1], shapes.q[2],
                                shapes.k[2]};
  for (size_t axis = 0; axis < 4; ++axis) {
    if (mask[axis] != 1 && mask[axis] != full[axis]) {
      refuse(operation,
             "expected attn_mask to broadcast to [batch, heads_q, len_q, "
             "len_kv] = ",
             shape_text(full), ", got ", shape_text(mask),
             "; unsqueeze its missing dimensions");
    }
  }
}

// Dropout drops a weight whose 16 random bits are below this: the nearest to
// the probability of 65,536.
uint32_t drop_below(double dropout_p);

// Why a device cannot run a valid problem, or "".
std::string unsupported_reason(DType dtype, const device::Limits& limits);

}  // namespace orchard::attention
