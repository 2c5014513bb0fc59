// tests/specialisations/list.cpp: prints every kernel specialisation that the
// launch plan asks a device for, over the tile tables' classes of head sizes,
// the element types and the features below: one line each, "file entry
// NAME=VALUE…". Nothing is retyped: the plan itself runs, on a device that only
// writes down.
#include <cstdio>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "attention/plan.h"
#include "attention/tiles.h"

namespace {

using namespace orchard;
using attention::DType;
using attention::Kernel;

constexpr DType kDTypes[] = {DType::float32, DType::float16, DType::bfloat16};
constexpr Kernel kTiled[] = {Kernel::forward, Kernel::backward_dkdv,
                             Kernel::backward_dq};
constexpr int64_t kRows = 64;

// What a kernel's text can have or leave out; extend with the problem.
struct Feature {
  const char* name;
  int64_t causal = 0;
};
constexpr Feature kFeatures[] = {{"plain"}, {"causal", 2}};

class Recorded final : public device::Pipeline {
 public:
  explicit Recorded(uint32_t threads) : threads_(threads) {}
  uint32_t max_threads_per_threadgroup() const override { return threads_; }

 private:
  uint32_t threads_;
};

class Recorder final : public device::Device {
 public:
  explicit Recorder(uint32_t threads) : threads_(threads) {}
  std::string name() const override { return "recorder"; }
  const device::Limits& limits() const override { return limits_; }
  std::shared_ptr<const device::Pipeline> pipeline(
      const device::PipelineRequest& request) override {
    std::string line(request.file);
    line.append(1, ' ').append(request.entry);
    for (const auto& [name, value] : request.defines) {
      line.append(1, ' ').append(name).append(1, '=').append(value);
    }
    lines.insert(line);
    return std::make_shared<Recorded>(threads_);
  }
  void submit(std::span<const device::Launch>) override {}

  std::set<std::string> lines;

 private:
  device::Limits limits_;
  uint32_t threads_;  // that every compiled kernel is said to allow
};

attention::Problem problem_of(DType dtype,
                              int64_t dim,
                              int64_t dim_v,
                              const Feature& feature) {
  return attention::make_problem(
      {{1, 1, kRows, dim}, {1, 1, kRows, dim}, {1, 1, kRows, dim_v}}, dtype,
      1.0, feature.causal);
}

// Dense tensors, which allow the widest loads that the head sizes do.
attention::Tensors tensors_of(const attention::Problem& problem) {
  static int place;
  const auto layout = [](int64_t dim) {
    attention::Layout layout;
    layout.strides = {kRows * dim, kRows * dim, dim, 1};
    layout.view.handle = &place;
    return layout;
  };
  attention::Tensors t;
  t.q = t.k = t.dq = t.dk = layout(problem.head_dim);
  t.v = t.out = t.grad_out = t.dv = layout(problem.head_dim_v);
  t.lse.handle = t.stats.handle = &place;
  return t;
}

void plan(Recorder& recorder, const attention::Problem& problem) {
  const attention::Tensors tensors = tensors_of(problem);
  for (const auto run : {attention::plan_forward, attention::plan_backward}) {
    attention::Plan made;
    try {
      run(recorder, problem, tensors, made);
    } catch (const Error& error) {
      // The recorder allows fewer threads than any tile needs.
      if (error.kind() != ErrorKind::unsupported) throw;
    }
  }
}

// The largest head size of each row of the tables.
std::set<int64_t> classes(DType dtype) {
  std::set<int64_t> found;
  for (const Kernel kernel : kTiled) {
    for (int64_t dim = 1; dim <= attention::kMaxHeadDim; ++dim) {
      found.insert(attention::choose_tile(kernel, dtype, dim).max_head_dim);
    }
  }
  return found;
}

}  // namespace

int main() {
  Recorder usual(1024);
  // As if registers always ran out: every smaller tile is asked for in turn.
  Recorder narrow(1);
  for (const DType dtype : kDTypes) {
    for (const int64_t most : classes(dtype)) {
      for (const Feature& feature : kFeatures) {
        plan(usual, problem_of(dtype, most, most, feature));
      }
      plan(narrow, problem_of(dtype, most, most, kFeatures[1]));
      // Ragged, by eights and by ones; values narrower and wider than keys.
      for (const auto& [dim, dim_v] : {std::pair{most - 8, most - 8},
                                       {most - 1, most - 1},
                                       {most, int64_t{8}},
                                       {int64_t{8}, most}}) {
        plan(usual, problem_of(dtype, dim, dim_v, kFeatures[0]));
      }
    }
    plan(usual, problem_of(dtype, 1, 1, kFeatures[0]));
  }
  usual.lines.merge(narrow.lines);
  for (const std::string& line : usual.lines) std::puts(line.c_str());
}
