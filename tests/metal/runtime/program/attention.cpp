// tests/metal/runtime/program/attention.cpp: see attention.h.
#include "program/attention.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <stdexcept>

#include "allocations.h"
#include "device/metal/metal.h"
#include "metal.h"
#include "runtime.h"

namespace standin {
namespace {

using namespace orchard;
using Matrix = std::vector<double>;

constexpr int64_t kRows = Attention::kRows, kDim = Attention::kDim;
constexpr uint64_t kBytes = 4 * kRows * kDim;

double& at(Matrix& m, int64_t row, int64_t column, int64_t columns) {
  return m[static_cast<size_t>(row * columns + column)];
}

double at(const Matrix& m, int64_t row, int64_t column, int64_t columns) {
  return m[static_cast<size_t>(row * columns + column)];
}

// a b^T of [kRows, kDim] matrices.
Matrix scores(const Matrix& a, const Matrix& b) {
  Matrix out(kRows * kRows);
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < kRows; ++c) {
      for (int64_t d = 0; d < kDim; ++d) {
        at(out, r, c, kRows) += at(a, r, d, kDim) * at(b, c, d, kDim);
      }
    }
  }
  return out;
}

// s x, or s^T x, times a factor; s is [kRows, kRows].
Matrix weighted(const Matrix& s,
                bool is_transposed,
                const Matrix& x,
                double factor) {
  Matrix out(kRows * kDim);
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < kRows; ++c) {
      const double w = is_transposed ? at(s, c, r, kRows) : at(s, r, c, kRows);
      for (int64_t d = 0; d < kDim; ++d) {
        at(out, r, d, kDim) += factor * w * at(x, c, d, kDim);
      }
    }
  }
  return out;
}

double difference(const Matrix& a, const Matrix& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double gap = std::fabs(a[i] - b[i]);
    worst = gap <= worst ? worst : gap;  // NaN stays
  }
  return worst;
}

}  // namespace

Attention::Attention(device::StorageMode mode) {
  problem_.batch = problem_.heads_q = problem_.heads_kv = 1;
  problem_.len_q = problem_.len_kv = problem_.rows_per_head = kRows;
  problem_.head_dim = problem_.head_dim_v = kDim;
  problem_.settings.scale = kScale;
  problem_.settings.window_right = 0;  // causal
  for (void*& buffer : buffers_) buffer = new_buffer(kOffset + kBytes, mode);
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    std::vector<float> bytes(kOffset / 4);
    for (int64_t n = 0; n < kRows * kDim; ++n) {
      bytes.push_back(normal(random));
      inputs_[i].push_back(double{bytes.back()});
    }
    write_buffer(buffers_[i], bytes.data(), 4 * bytes.size());
  }
}

Attention::~Attention() {
  for (void* buffer : buffers_) release(static_cast<Object*>(buffer));
}

attention::Layout Attention::layout(Slot slot) const {
  void* const buffer = buffers_[slot];
  const auto info = metal::buffer_info("test", buffer);
  return {{0, 0, kDim, 1}, {buffer, kOffset, kBytes, info.mode}};
}

attention::Tensors Attention::tensors() const {
  attention::Tensors tensors;
  tensors.q = layout(q);
  tensors.k = layout(k);
  tensors.v = layout(v);
  tensors.out = layout(out);
  tensors.lse = layout(lse).view;
  tensors.stats = layout(stats).view;
  return tensors;
}

void Attention::forward(device::Device& device) const {
  attention::Plan plan;
  attention::plan_forward(device, problem_, tensors(), plan);
  device.submit(plan.launches);
}

attention::Tensors Attention::gradient_tensors() const {
  attention::Tensors all = tensors();
  all.grad_out = layout(grad_out);
  all.delta = layout(delta).view;
  all.dq = layout(dq);
  all.dk = layout(dk);
  all.dv = layout(dv);
  return all;
}

void Attention::backward(device::Device& device) const {
  attention::Plan plan;
  attention::plan_backward(device, problem_, gradient_tensors(), {}, plan);
  const auto length = static_cast<uint64_t>(plan.walk_sums_bytes);
  if (length == 0) {
    device.submit(plan.launches);
    return;
  }
  const auto mode = device::StorageMode::private_;
  void* const scratch = new_buffer(length, mode);
  attention::bind_walk_sums(plan, {scratch, 0, length, mode});
  device.submit(plan.launches);
  // As PyTorch frees scratch: at once, while the launches are only encoded.
  release(static_cast<Object*>(scratch));
}

void Attention::spilled_backward(device::Device& device) const {
  constexpr int64_t kScratch = 1 << 20;
  const attention::Spill spill =
      attention::choose_spill(device, problem_, gradient_tensors(),
                              {.dq = true, .dkdv = true}, kScratch);
  if (!spill.is_used() || spill.is_summed()) {
    throw std::logic_error("expected the spill of one chunk of columns");
  }
  const auto mode = device::StorageMode::private_;
  const auto length = static_cast<uint64_t>(spill.spill_bytes);
  void* const scratch = new_buffer(length, mode);
  attention::Tensors all = gradient_tensors();
  all.spill = {scratch, 0, length, mode};
  attention::Plan plan;
  attention::plan_backward(device, problem_, all, spill, plan);
  device.submit(plan.launches);
  // As PyTorch frees scratch: at once, while the launches are only encoded.
  release(static_cast<Object*>(scratch));
}

uint64_t Attention::allocations_of_plans(device::Device& device) const {
  const attention::Tensors all = gradient_tensors();
  const uint64_t before = allocations();
  attention::Plan forwards, backwards;
  attention::plan_forward(device, problem_, all, forwards);
  attention::plan_backward(device, problem_, all, {}, backwards);
  return allocations() - before;
}

Matrix Attention::result(Slot slot) const {
  std::vector<float> read(kOffset / 4 + kRows * kDim);
  read_buffer(buffers_[slot], read.data(), 4 * read.size());
  return {read.begin() + kOffset / 4, read.end()};
}

Matrix Attention::probabilities() const {
  Matrix p = scores(inputs_[q], inputs_[k]);
  for (int64_t r = 0; r < kRows; ++r) {
    double sum = 0;
    for (int64_t c = 0; c < kRows; ++c) {
      double& x = at(p, r, c, kRows);
      x = c <= r ? std::exp(kScale * x) : 0;
      sum += x;
    }
    for (int64_t c = 0; c < kRows; ++c) at(p, r, c, kRows) /= sum;
  }
  return p;
}

double Attention::forward_error() const {
  return difference(weighted(probabilities(), false, inputs_[v], 1),
                    result(out));
}

double Attention::backward_error() const {
  const Matrix p = probabilities();
  Matrix ds = scores(inputs_[grad_out], inputs_[v]);  // so far dp
  for (int64_t r = 0; r < kRows; ++r) {
    double delta = 0;
    for (int64_t c = 0; c < kRows; ++c) {
      delta += at(p, r, c, kRows) * at(ds, r, c, kRows);
    }
    for (int64_t c = 0; c < kRows; ++c) {
      double& x = at(ds, r, c, kRows);
      x = at(p, r, c, kRows) * (x - delta);
    }
  }
  return std::max(
      {difference(weighted(ds, false, inputs_[k], kScale), result(dq)),
       difference(weighted(ds, true, inputs_[q], kScale), result(dk)),
       difference(weighted(p, true, inputs_[grad_out], 1), result(dv))});
}

}  // namespace standin
