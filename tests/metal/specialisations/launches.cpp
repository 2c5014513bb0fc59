// tests/metal/specialisations/launches.cpp: see launches.h.  The plan itself
// runs, on a device that runs nothing.
#include "launches.h"

#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>

#include "attention/compiled.h"
#include "attention/plan.h"

namespace {

using namespace orchard;
using attention::DType;
using attention::MaskKind;

class Pipeline final : public device::Pipeline {
 public:
  uint32_t max_threads_per_threadgroup() const override { return 1024; }
};

class Device final : public device::Device {
 public:
  std::string name() const override { return "planner"; }
  const device::Limits& limits() const override { return limits_; }
  std::shared_ptr<const device::Pipeline> pipeline(
      const device::PipelineRequest&) override {
    return std::make_shared<Pipeline>();
  }
  void submit(std::span<const device::Launch>) override {}

 private:
  device::Limits limits_;  // class A
};

struct Asked {
  std::string kind;
  attention::Problem problem;
  int64_t scratch = 0;
};

DType dtype_of(const std::string& name) {
  for (const DType dtype : {DType::float32, DType::float16, DType::bfloat16}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  throw std::invalid_argument(name);
}

bool read(Asked& asked) {
  std::string dtype;
  asked.problem = {};
  attention::Problem& p = asked.problem;
  std::cin >> asked.kind >> dtype >> p.head_dim >> p.batch >> p.heads_q >>
      p.heads_kv >> p.len_q >> p.len_kv >> p.settings.window_left >>
      asked.scratch;
  for (int64_t& size : p.mask_sizes) std::cin >> size;
  if (!std::cin) return false;
  p.dtype = p.mask_dtype = dtype_of(dtype);
  p.head_dim_v = p.head_dim;
  p.rows_per_head = p.len_q;
  p.settings.window_right = p.settings.window_left < 0 ? -1 : 0;
  if (p.mask_sizes[0] > 0) {
    p.mask = MaskKind::bias;
  } else {
    p.mask_sizes = {1, 1, 1, 1};
  }
  return true;
}

attention::Tensors tensors_of(const attention::Problem& p) {
  static int place;
  attention::Tensors t;
  const auto layout = [&](int64_t heads, int64_t length) {
    attention::Layout made;
    made.strides = {heads * length * p.head_dim, length * p.head_dim,
                    p.head_dim, 1};
    made.view.handle = &place;
    return made;
  };
  t.q = t.out = t.grad_out = t.dq = layout(p.heads_q, p.len_q);
  t.k = t.v = t.dk = t.dv = layout(p.heads_kv, p.len_kv);
  if (p.mask == MaskKind::bias) t.dbias.handle = &place;
  return t;
}

void make_plan(Device& device, Asked& asked, attention::Plan& plan) {
  attention::Problem& problem = asked.problem;
  const attention::Tensors tensors = tensors_of(problem);
  if (asked.kind == "forward") {
    attention::plan_forward(device, problem, tensors, plan);
  } else if (asked.kind == "decode") {
    problem.cache.is_used = true;
    problem.cache.splits = attention::decode_splits(device, problem);
    attention::plan_decode(device, problem, tensors, plan);
  } else {
    const attention::Spill spill = attention::choose_spill(
        device, problem, tensors, {true, true, problem.mask == MaskKind::bias},
        asked.scratch);
    attention::plan_backward(device, problem, tensors, spill, plan);
  }
}

const device::Argument* argument_of(const device::Launch& launch,
                                    uint32_t slot) {
  for (const device::Argument& argument : launch.arguments) {
    if (argument.index == slot) return &argument;
  }
  return nullptr;
}

template <class T>
const T* bytes_at(const device::Launch& launch, uint32_t slot) {
  const device::Argument* found = argument_of(launch, slot);
  return found == nullptr ? nullptr
                          : reinterpret_cast<const T*>(found->bytes.data());
}

void print(const device::Launch& launch, const attention::Specialisation& s) {
  const auto& p = *bytes_at<AttentionParams>(launch, SLOT_PARAMS);
  const auto* chunk = bytes_at<SpillChunk>(launch, SLOT_CHUNK);
  const bool is_walk_cut = argument_of(launch, SLOT_WALK_SUMS) != nullptr;
  const auto say = [](auto value) { std::cout << ' ' << value; };
  std::cout << entry_of(s);
  for (const int n :
       {s.tile.rows, s.tile.cols, s.tile.simdgroups, s.tile.slices}) {
    say(n);
  }
  for (const uint32_t n : launch.threadgroups) say(n);
  for (const int32_t n : {p.origin_x, p.origin_y, p.origin_z, p.walk_head,
                          p.walk_head_end, p.walk_row, p.walk_row_end}) {
    say(n);
  }
  say(is_walk_cut ? p.is_walk_over : 1);
  say(chunk == nullptr ? p.len_kv : chunk->column_end - chunk->column0);
  say(launch.seconds);
  std::cout << '\n';
}

}  // namespace

int print_launches() {
  Device device;
  Asked asked;
  while (read(asked)) {
    attention::Plan plan;
    make_plan(device, asked, plan);
    for (size_t i = 0; i < plan.launches.size(); ++i) {
      print(plan.launches[i], plan.kernels[i]->specialisation);
    }
    std::cout << '\n';
  }
  return 0;
}
