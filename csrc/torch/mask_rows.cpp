// csrc/torch/mask_rows.cpp: what orchard_ops/_cpu_sdpa.py must know of a CPU
// mask's numbers, in one pass and without a tensor in between.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <type_traits>

namespace orchard::torch_ops {
namespace {

using at::Tensor;
using c10::DispatchKey;

// Memory that can be looked at: no wrapper of a transform, no lazy sign.
bool is_readable(const Tensor& tensor) {
  const c10::DispatchKeySet wrappers{
      DispatchKey::FuncTorchBatched, DispatchKey::FuncTorchGradWrapper,
      DispatchKey::Functionalize, DispatchKey::Python};
  return tensor.device().is_cpu() && tensor.layout() == at::kStrided &&
         !tensor.is_nested() && tensor.has_storage() && !tensor.is_neg() &&
         !tensor.key_set().has_any(wrappers);
}

// Whether a predicate of (row, columns, step) holds for each row.
template <class T, class Holds>
bool holds_for_rows(const Tensor& mask, const Holds& holds) {
  // Untyped: clang spells the typed one's name anew from 18 on, and PyTorch 2.2
  // to 2.4 for macOS export the old name.
  const auto* const first = static_cast<const T*>(mask.const_data_ptr());
  // Rows that are one row in memory are looked at once.
  const auto count = [&](int64_t axis) {
    return mask.stride(axis) == 0 ? std::min<int64_t>(mask.size(axis), 1)
                                  : mask.size(axis);
  };
  const int64_t columns = count(3), step = mask.stride(3);
  for (int64_t b = 0; b < count(0); ++b) {
    for (int64_t h = 0; h < count(1); ++h) {
      const T* row = first + b * mask.stride(0) + h * mask.stride(1);
      for (int64_t r = 0; r < count(2); ++r, row += mask.stride(2)) {
        if (!holds(row, columns, step)) return false;
      }
    }
  }
  return true;
}

bool has_true(const bool* row, int64_t columns, int64_t step) {
  for (int64_t i = 0; i < columns; ++i) {
    if (row[i * step]) return true;
  }
  return false;
}

// Whether the largest number lies within the bound; NaN does not.  Without a
// branch in the loop, so that compilers take several numbers at once.
template <class T>
bool has_top_within(const T* row, int64_t columns, int64_t step, float bound) {
  unsigned is_reached = 0, is_passed = 0;
  const auto look = [&](T number) {
    const auto bias = static_cast<
        std::conditional_t<std::is_same_v<T, double>, double, float>>(number);
    is_reached |= static_cast<unsigned>(bias >= -bound);
    is_passed |= static_cast<unsigned>(!(bias <= bound));
  };
  if (step == 1) {
    for (int64_t i = 0; i < columns; ++i) look(row[i]);
  } else {
    for (int64_t i = 0; i < columns; ++i) look(row[i * step]);
  }
  return is_reached != 0 && is_passed == 0;
}

template <class T>
bool tops_lie_within(const Tensor& mask, float bound) {
  return holds_for_rows<T>(mask,
                           [bound](const T* row, int64_t n, int64_t step) {
                             return has_top_within(row, n, step, bound);
                           });
}

bool rows_are_moderate(const Tensor& given, double bound) {
  if (!is_readable(given) || given.dim() > 4) return false;
  Tensor mask = given;
  while (mask.dim() < 4) mask = mask.unsqueeze(0);
  const auto limit = static_cast<float>(bound);
  switch (mask.scalar_type()) {
    case at::kBool:
      return holds_for_rows<bool>(mask, has_true);
    case at::kFloat:
      return tops_lie_within<float>(mask, limit);
    case at::kDouble:
      return tops_lie_within<double>(mask, limit);
    case at::kBFloat16:
      return tops_lie_within<at::BFloat16>(mask, limit);
    default:
      return false;
  }
}

}  // namespace

// Of a mask of at most four dimensions: whether each row of a bool one lets a
// key through, or the largest bias of each row of a float one lies between
// -bound and bound.  False also where the numbers cannot be looked at.
TORCH_LIBRARY_FRAGMENT(orchard_ops, m) {
  m.def("rows_are_moderate(Tensor mask, float bound) -> bool",
        rows_are_moderate);
}

}  // namespace orchard::torch_ops
