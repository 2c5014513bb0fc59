// tests/metal/specialisations/list.cpp: prints every kernel specialisation that
// the launch plan asks a device for, over the tile tables' classes of head
// sizes, the element types and the features below: one line each, "file entry
// NAME=VALUE…". Nothing is retyped: the plan itself runs, on a device that only
// writes down.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "attention/kernels.h"
#include "attention/plan.h"
#include "attention/survey.h"
#include "attention/tiles.h"
#include "device/longest.h"
#include "launches.h"

namespace {

using namespace orchard;
using attention::DType;
using attention::KernelRow;
using attention::MaskKind;
using attention::Problem;
using attention::TileTable;

constexpr DType kDTypes[] = {DType::float32, DType::float16, DType::bfloat16};
constexpr int64_t kRows = 64;

// What a kernel's text can have or leave out: one entry each, then all that go
// together.  Extend with the problem.
using Feature = void (*)(Problem&);
constexpr Feature kPlain = [](Problem&) {};
constexpr Feature kTogether[] = {
    [](Problem& p) { p.settings.window_right = 0; },
    [](Problem& p) {
      p.mask = MaskKind::bias;
      p.mask_dtype = p.dtype;
    },
    [](Problem& p) { p.has_slopes = true; },
    [](Problem& p) { p.settings.softcap = 30.0; },
    [](Problem& p) { p.has_sinks = true; },
    [](Problem& p) { p.settings.dropout_p = 0.1; },
};
constexpr Feature kAlone[] = {
    [](Problem& p) { p.mask = MaskKind::boolean; },
    [](Problem& p) { p.mask = MaskKind::bias; },  // in float32
    [](Problem& p) { p.has_grad_lse = true; },
    [](Problem& p) {
      p.is_packed = true;
      p.settings.window_right = 0;
    },
};
constexpr Feature kPart = [](Problem& p) { p.settings.part = {64, 64, 0, 1}; };
constexpr Feature kPacked = [](Problem& p) { p.is_packed = true; };
constexpr Feature kOfCaches[] = {
    [](Problem& p) { p.cache.page_size = 64; },
    [](Problem& p) { p.cache.page_size = 8; },  // less than a tile's columns
    [](Problem& p) { p.cache.has_left_pads = true; },
    [](Problem& p) { p.cache.has_rows = true; },
    [](Problem& p) { p.len_q = 1; },  // fewer rows than two fragments
    [](Problem& p) { p.settings.window_right = 0; },
    [](Problem& p) { p.settings.softcap = 30.0; },
    [](Problem& p) { p.has_slopes = true; },
    [](Problem& p) { p.has_sinks = true; },
};

class Recorded final : public device::Pipeline {
 public:
  explicit Recorded(uint32_t threads) : threads_(threads) {}
  uint32_t max_threads_per_threadgroup() const override { return threads_; }

 private:
  uint32_t threads_;
};

// Whether a macro leaves nothing of the attribute that says how many threads.
bool has_no_attribute(const device::PipelineRequest& request) {
  return std::any_of(request.defines.begin(), request.defines.end(),
                     [](const auto& pair) {
                       return pair.first.starts_with("max_total_threads");
                     });
}

const KernelRow& named(std::string_view entry) {
  for (const KernelRow& row : attention::kernel_rows()) {
    if (row.name == entry) return row;
  }
  throw std::logic_error("no such kernel");
}

// Whether a tile's registers are as few as they get: one fragment of scores, of
// head_dim one fragment or as many slices as there may be.
bool is_smallest(const device::PipelineRequest& request) {
  std::map<std::string, int> defines;
  for (const auto& [name, value] : request.defines) {
    defines[name] = std::atoi(value.c_str());
  }
  const int largest = std::max(defines["HEAD_DIM"], defines["HEAD_DIM_V"]);
  const bool has_slices = named(request.entry).tiles != TileTable::row_each;
  return defines["TILE_ROWS"] * defines["TILE_COLS"] == 1 &&
         (!has_slices || defines["SLICES"] == attention::most_slices(largest) ||
          largest <= 8 * defines["SLICES"]);
}

class Recorder final : public device::Device {
 public:
  Recorder(device::Family family, bool has_registers)
      : has_registers_(has_registers) {
    limits_.family = family;
  }
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
    if (!has_registers_ && !is_smallest(request)) {
      throw Error(ErrorKind::pipeline, "too many registers");
    }
    return std::make_shared<Recorded>(has_no_attribute(request) ? 384 : 1024);
  }
  void submit(std::span<const device::Launch>) override {}

  std::set<std::string> lines;
  int64_t row = 0;  // from row to row of the tensors; 0: dense

 private:
  device::Limits limits_;
  bool has_registers_;  // or only the smallest tile of each kernel runs
};

Problem problem_of(DType dtype,
                   int64_t dim,
                   int64_t dim_v,
                   std::initializer_list<Feature> features) {
  Problem p;
  p.dtype = dtype;
  p.batch = p.heads_q = p.heads_kv = 1;
  p.len_q = p.len_kv = p.rows_per_head = kRows;
  p.head_dim = dim;
  p.head_dim_v = dim_v;
  for (const Feature feature : features) feature(p);
  return p;
}

// From row to row of a tensor of which one head takes more than 31 bits to
// count.
constexpr int64_t kFar = int64_t{1} << 31;

// Dense tensors, which allow the widest loads that the head sizes do, but for
// what `row` says that lies between two rows.
attention::Tensors tensors_of(const Problem& problem, int64_t row) {
  static int place;
  const auto layout = [row](int64_t dim) {
    attention::Layout layout;
    layout.strides = {kRows * dim, kRows * dim, row > 0 ? row : dim, 1};
    layout.view.handle = &place;
    return layout;
  };
  attention::Tensors t;
  t.q = t.k = t.dq = t.dk = layout(problem.head_dim);
  t.v = t.out = t.grad_out = t.dv = layout(problem.head_dim_v);
  if (problem.mask == MaskKind::bias) t.dbias.handle = &place;
  return t;
}

template <class... Plans>
void plan(Recorder& recorder, const Problem& problem, Plans... plans) {
  const attention::Tensors tensors = tensors_of(problem, recorder.row);
  const auto run = [&](const auto& one) {
    attention::Plan made;
    one(recorder, problem, tensors, made);
  };
  (run(plans), ...);
}

// With scratch for everything; `is_summed`: for some columns at a time.
void spill(Recorder& recorder, Problem problem, bool is_summed) {
  const attention::NeededGradients needed{true, true,
                                          problem.mask == MaskKind::bias};
  // float32 adds up in dq itself.
  if (is_summed && problem.dtype == DType::float32) return;
  int64_t scratch = int64_t{1} << 30;
  if (is_summed) {
    problem.len_kv = 4096;
    scratch = kRows * problem.len_kv / 2 * element_bytes(problem.dtype);
  }
  const attention::Spill spill = attention::choose_spill(
      recorder, problem, tensors_of(problem, recorder.row), needed, scratch);
  if (spill.is_summed() != is_summed) {
    throw std::logic_error("expected the other kind of spill");
  }
  plan(recorder, problem,
       [&](device::Device& device, const Problem& p,
           const attention::Tensors& tensors, attention::Plan& made) {
         attention::plan_backward(device, p, tensors, spill, made);
       });
}

void attend(Recorder& recorder, const Problem& problem) {
  plan(recorder, problem, attention::plan_forward,
       [](device::Device& device, const Problem& p,
          const attention::Tensors& tensors, attention::Plan& made) {
         attention::plan_backward(device, p, tensors, {}, made);
       });
  spill(recorder, problem, false);
}

// As if every walk were too long for a launch.
void cut(Recorder& recorder, const Problem& problem) {
  device::set_longest_seconds(1e-12);
  plan(recorder, problem,
       [](device::Device& device, const Problem& p,
          const attention::Tensors& tensors, attention::Plan& made) {
         attention::plan_backward(device, p, tensors, {}, made);
       });
  device::set_longest_seconds(device::kLongestSeconds);
}

void decode(Recorder& recorder, Problem problem) {
  problem.cache.is_used = true;
  problem.cache.splits = 2;
  plan(recorder, problem, attention::plan_decode);
}

// The largest head size of each row of the tables.
std::set<int64_t> classes(device::Family family, DType dtype) {
  std::set<int64_t> found;
  for (const KernelRow& row : attention::kernel_rows()) {
    for (int64_t dim = 1; dim <= attention::kMaxHeadDim; ++dim) {
      found.insert(
          attention::choose_tile(family, row.kernel, dtype, dim).max_head_dim);
    }
  }
  return found;
}

// Everything that a class of GPU asks for.
std::set<std::string> lines_of(device::Family family) {
  Recorder usual(family, true);
  // As if registers always ran out: every smaller tile is asked for in turn.
  Recorder narrow(family, false);
  const auto& [window, bias, slopes, softcap, sinks, dropout] = kTogether;
  for (const DType dtype : kDTypes) {
    for (const int64_t most : classes(family, dtype)) {
      const auto largest = [&](std::initializer_list<Feature> features) {
        return problem_of(dtype, most, most, features);
      };
      attend(usual, largest({kPlain}));
      decode(usual, largest({kPlain}));
      for (const Feature feature : kTogether) attend(usual, largest({feature}));
      for (const Feature feature : kAlone) attend(usual, largest({feature}));
      for (const Feature feature : kOfCaches) decode(usual, largest({feature}));
      const Problem all =
          largest({window, bias, slopes, softcap, sinks, dropout});
      attend(usual, all);
      attend(narrow, all);
      attend(usual, largest({kPart}));
      cut(usual, largest({window}));
      cut(usual, all);
      spill(narrow, largest({window}), true);
      spill(usual, largest({kPlain}), true);
      spill(usual, largest({window}), true);
      decode(narrow, largest({kPlain}));
      // Ragged, by eights and by ones; values narrower and wider than keys.
      for (const auto& [dim, dim_v] : {std::pair{most - 8, most - 8},
                                       {most - 1, most - 1},
                                       {most, int64_t{8}},
                                       {int64_t{8}, most}}) {
        attend(usual, problem_of(dtype, dim, dim_v, {kPlain}));
        decode(usual, problem_of(dtype, dim, dim_v, {kPlain}));
      }
    }
    attend(usual, problem_of(dtype, 1, 1, {kPlain}));
    decode(usual, problem_of(dtype, 1, 1, {kPlain}));
    // What else a part has changes no array: one head size is enough.
    for (const int64_t dim : {64, 63}) {
      attend(usual, problem_of(dtype, dim, dim, {kPart, kPacked, window}));
      attend(usual, problem_of(dtype, dim, dim, {kPart, bias}));
      attend(usual,
             problem_of(dtype, dim, dim,
                        {kPart, window, bias, slopes, softcap, dropout}));
    }
    // Nor do wide numbers.
    usual.row = kFar;
    attend(usual, problem_of(dtype, 64, 64, {window, bias}));
    decode(usual, problem_of(dtype, 64, 64, {kPlain}));
    usual.row = 0;
  }
  usual.lines.merge(narrow.lines);
  return usual.lines;
}

}  // namespace

// Every kernel must be listed with each feature that its row has.
void check_is_whole(const std::set<std::string>& lines) {
  for (const KernelRow& kernel : attention::kernel_rows()) {
    for (const attention::FeatureRow& row : attention::feature_rows()) {
      if (!kernel.features.has(row.feature)) continue;
      const std::string entry = std::string(" ") + kernel.name + " ";
      const std::string without = std::string(" ") + row.define + "=0";
      if (std::none_of(lines.begin(), lines.end(), [&](const auto& line) {
            return line.find(entry) != line.npos &&
                   line.find(without) == line.npos;
          })) {
        throw std::logic_error(std::string(kernel.name) + " never has " +
                               row.define + ": extend the features above");
      }
    }
  }
}

// "kernel threads threads": as survey.h says, where registers suffice or not.
void print_survey(bool has_registers) {
  Recorder device(device::Family::a, has_registers);
  for (const auto& row : attention::thread_limits(device)) {
    std::printf("%s %u %u\n", row.kernel.c_str(), row.with_attribute,
                row.without);
  }
}

// What a device says of bfloat16 that compiles Metal 2.4.
void print_reason() {
  device::Limits limits;
  limits.has_bfloat = false;
  limits.language_version = 0x20004;
  std::puts(attention::unsupported_reason(DType::bfloat16, limits).c_str());
}

// Lists what a class of GPU asks for ("a", "b" or "c"), or what any does; or,
// with "launches", how problems are cut (launches.h), with "survey" or
// "survey-of-few-registers" and "reason", what the two functions above print.
int main(int count, char** arguments) {
  const std::string_view wanted = count > 1 ? arguments[1] : "abc";
  if (wanted == "launches") return print_launches();
  if (wanted == "reason") {
    print_reason();
    return 0;
  }
  if (wanted.starts_with("survey")) {
    print_survey(wanted == "survey");
    return 0;
  }
  std::set<std::string> lines;
  for (const auto& [name, family] : {std::pair{'a', device::Family::a},
                                     {'b', device::Family::b},
                                     {'c', device::Family::c}}) {
    if (wanted.find(name) != wanted.npos) lines.merge(lines_of(family));
  }
  check_is_whole(lines);
  for (const std::string& line : lines) std::puts(line.c_str());
}
