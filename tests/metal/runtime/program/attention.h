// tests/metal/runtime/program/attention.h: one head of causal attention with
// its buffers on the simulated GPU, forward and backward, beside the
// definition.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "attention/plan.h"
#include "device/device.h"

namespace standin {

class Attention {
 public:
  static constexpr int64_t kRows = 40, kDim = 16;
  static constexpr uint64_t kOffset = 64;  // where data starts in each buffer
  static constexpr double kScale = 0.25;

  explicit Attention(orchard::device::StorageMode mode);
  ~Attention();
  Attention(const Attention&) = delete;
  Attention& operator=(const Attention&) = delete;

  // Plans and submits on a device; results are there once its stream is done.
  void forward(orchard::device::Device& device) const;
  void backward(orchard::device::Device& device) const;
  // The one that keeps the gradients of the scores in scratch.
  void spilled_backward(orchard::device::Device& device) const;
  // How often planning both asks for memory.
  uint64_t allocations_of_plans(orchard::device::Device& device) const;

  // Largest difference from the definition in float64.
  double forward_error() const;
  double backward_error() const;

 private:
  enum Slot { q, k, v, grad_out, out, dq, dk, dv, lse, stats, delta, kSlots };
  using Matrix = std::vector<double>;  // [kRows, kDim] or [kRows, kRows]

  orchard::attention::Layout layout(Slot slot) const;
  orchard::attention::Tensors tensors() const;
  orchard::attention::Tensors gradient_tensors() const;
  Matrix result(Slot slot) const;
  Matrix probabilities() const;

  orchard::attention::Problem problem_;
  std::array<Matrix, 4> inputs_;
  std::array<void*, kSlots> buffers_{};
};

}  // namespace standin
