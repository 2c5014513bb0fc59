// csrc/attention/plan.cpp: parameters, specialisations, bindings and grids.
#include "attention/plan.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <numeric>
#include <tuple>

#include "attention/tiles.h"

namespace orchard::attention {
namespace {

using device::Access;
using device::Argument;
using device::BufferView;
using device::Device;
using device::Launch;
using device::Pipeline;
using device::Size3;

const char* kernel_name(Kernel kernel) {
  switch (kernel) {
    case Kernel::forward:
      return "forward";
    case Kernel::backward_prepare:
      return "backward_prepare";
    case Kernel::backward_dkdv:
      return "backward_dkdv";
    case Kernel::backward_dq:
      break;
  }
  return "backward_dq";
}

const char* metal_type(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return "float";
    case DType::float16:
      return "half";
    case DType::bfloat16:
      break;
  }
  return "bfloat";
}

// All that changes a kernel's text.
struct Specialisation {
  Kernel kernel;
  DType dtype;
  int64_t head_dim;
  int64_t head_dim_v;
  int64_t vec;
  bool has_window;
  Tile tile{};

  auto key() const {
    // Only the simdgroups of a tile may differ from the table's.
    return std::tuple(kernel, dtype, head_dim, head_dim_v, vec, has_window,
                      tile.simdgroups);
  }
  bool operator<(const Specialisation& other) const {
    return key() < other.key();
  }
  std::string name() const {
    const Tile& t = tile;
    return std::string(kernel_name(kernel)) + "_" + metal_type(dtype) + "_d" +
           std::to_string(head_dim) + "_dv" + std::to_string(head_dim_v) +
           "_vec" + std::to_string(vec) + "_tile" + std::to_string(t.rows) +
           "x" + std::to_string(t.cols) + "_sg" + std::to_string(t.simdgroups) +
           "_split" + std::to_string(t.split) + (has_window ? "_window" : "");
  }
};

device::PipelineRequest request_for(const Specialisation& s,
                                    const std::string& file) {
  const Tile& tile = s.tile;
  device::PipelineRequest request;
  request.file = file;
  request.entry = kernel_name(s.kernel);
  request.defines = {{"ELEM", metal_type(s.dtype)},
                     {"ELEM_BYTES", std::to_string(element_bytes(s.dtype))},
                     {"HEAD_DIM", std::to_string(s.head_dim)},
                     {"HEAD_DIM_V", std::to_string(s.head_dim_v)},
                     {"VEC", std::to_string(s.vec)},
                     {"TILE_ROWS", std::to_string(tile.rows)},
                     {"TILE_COLS", std::to_string(tile.cols)},
                     {"SIMDGROUPS", std::to_string(tile.simdgroups)},
                     {"SPLIT", std::to_string(tile.split)},
                     {"HAS_WINDOW", s.has_window ? "1" : "0"}};
  return request;
}

// Pipelines by specialisation, so that a warm call builds no text.
std::shared_ptr<const Pipeline> pipeline_for(Device& device,
                                             const Specialisation& s) {
  static std::mutex mutex;
  static std::map<std::pair<const Device*, Specialisation>,
                  std::shared_ptr<const Pipeline>>
      cache;
  const std::pair<const Device*, Specialisation> key(&device, s);
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = cache.find(key);
    if (found != cache.end()) return found->second;
  }
  // Compiled outside the lock: others may compile other kernels meanwhile.
  const std::string file = std::string(kernel_name(s.kernel)) + ".metal";
  auto pipeline = device.pipeline(request_for(s, file));
  const std::lock_guard<std::mutex> lock(mutex);
  return cache.emplace(key, std::move(pipeline)).first->second;
}

// The pipeline of a specialisation, or of one with a smaller tile: how many
// threads a kernel's registers leave room for is known only once compiled.
std::shared_ptr<const Pipeline> fitting_pipeline(Device& device,
                                                 Specialisation& s) {
  for (;;) {
    auto pipeline = pipeline_for(device, s);
    const uint32_t most = pipeline->max_threads_per_threadgroup();
    if (s.tile.threads() <= most) return pipeline;
    const std::optional<Tile> smaller = smaller_tile(s.tile);
    if (!smaller) {
      throw Error(ErrorKind::unsupported,
                  "[" + s.name() + "] needs " +
                      std::to_string(s.tile.threads()) +
                      " threads per threadgroup, the compiled kernel allows " +
                      std::to_string(most) + " on " + device.name());
    }
    s.tile = *smaller;
  }
}

// The widest load, in elements, that never straddles a row's end and is
// aligned in every tensor: 16 bytes or the largest power of two below.
int64_t vector_elements(const Problem& problem, const Tensors& tensors) {
  const int64_t size = element_bytes(problem.dtype);
  int64_t units = (16 / size) | problem.head_dim | problem.head_dim_v;
  for (const Layout* layout :
       {&tensors.q, &tensors.k, &tensors.v, &tensors.out, &tensors.grad_out,
        &tensors.dq, &tensors.dk, &tensors.dv}) {
    units |= static_cast<int64_t>(layout->view.offset_bytes) / size;
    for (size_t axis = 0; axis < 3; ++axis) units |= layout->strides[axis];
  }
  return units & -units;
}

Strides kernel_strides(const Layout& layout) {
  return {layout.strides[0], layout.strides[1], layout.strides[2]};
}

AttentionParams parameters(const Problem& problem, const Tensors& tensors) {
  constexpr double kLog2e = 1.4426950408889634;
  AttentionParams p{};
  p.q = kernel_strides(tensors.q);
  p.k = kernel_strides(tensors.k);
  p.v = kernel_strides(tensors.v);
  p.out = kernel_strides(tensors.out);
  p.grad_out = kernel_strides(tensors.grad_out);
  p.dq = kernel_strides(tensors.dq);
  p.dk = kernel_strides(tensors.dk);
  p.dv = kernel_strides(tensors.dv);
  p.heads_q = static_cast<int32_t>(problem.heads_q);
  p.heads_kv = static_cast<int32_t>(problem.heads_kv);
  p.group = static_cast<int32_t>(problem.heads_q / problem.heads_kv);
  p.len_q = static_cast<int32_t>(problem.len_q);
  p.len_kv = static_cast<int32_t>(problem.len_kv);
  p.offset = problem.causal == Causal::bottom_right
                 ? static_cast<int32_t>(problem.len_kv - problem.len_q)
                 : 0;
  // No row is farther from a column than this: an open window.
  p.window_left = static_cast<int32_t>(problem.len_q + problem.len_kv);
  p.window_right = problem.causal == Causal::none ? p.window_left : 0;
  p.scale = static_cast<float>(problem.scale);
  p.scale_log2e = static_cast<float>(problem.scale * kLog2e);
  return p;
}

uint32_t tiles_of(int64_t length, int per_threadgroup) {
  return static_cast<uint32_t>((length + per_threadgroup - 1) /
                               per_threadgroup);
}

// Threadgroups along x: rows, or columns for dk and dv.
uint32_t grid_x(const Specialisation& s, const Problem& problem) {
  switch (s.kernel) {
    case Kernel::backward_prepare:
      return tiles_of(problem.len_q, s.tile.simdgroups);
    case Kernel::backward_dkdv:
      return tiles_of(problem.len_kv, s.tile.cols_per_threadgroup());
    case Kernel::forward:
    case Kernel::backward_dq:
      break;
  }
  return tiles_of(problem.len_q, s.tile.rows_per_threadgroup());
}

void add_launch(Device& device,
                const Problem& problem,
                const Tensors& tensors,
                Kernel kernel,
                std::vector<Argument> arguments,
                Plan& plan) {
  Specialisation s{kernel,
                   problem.dtype,
                   problem.head_dim,
                   problem.head_dim_v,
                   vector_elements(problem, tensors),
                   problem.causal != Causal::none,
                   Tile{}};
  if (kernel == Kernel::backward_prepare) {
    s.head_dim = s.head_dim_v;  // it reads neither q nor k, nor any mask
    s.has_window = false;
  }
  s.tile = choose_tile(kernel, s.dtype, std::max(s.head_dim, s.head_dim_v));
  Launch launch;
  launch.pipeline = fitting_pipeline(device, s);
  launch.arguments = std::move(arguments);
  launch.arguments.push_back(
      {SLOT_PARAMS,
       Access::read,
       {},
       std::as_bytes(std::span<const AttentionParams>(&plan.params, 1))});
  const int64_t heads =
      kernel == Kernel::backward_dkdv ? problem.heads_kv : problem.heads_q;
  launch.threadgroups = {grid_x(s, problem), static_cast<uint32_t>(heads),
                         static_cast<uint32_t>(problem.batch)};
  launch.threads_per_threadgroup = {s.tile.threads(), 1, 1};
  plan.launches.push_back(std::move(launch));
  plan.names.push_back(s.name());
}

Argument reads(uint32_t slot, const BufferView& view) {
  return {slot, Access::read, view, {}};
}

Argument writes(uint32_t slot, const BufferView& view) {
  return {slot, Access::write, view, {}};
}

}  // namespace

void plan_forward(Device& device,
                  const Problem& problem,
                  const Tensors& tensors,
                  Plan& plan) {
  plan.params = parameters(problem, tensors);
  add_launch(device, problem, tensors, Kernel::forward,
             {reads(SLOT_Q, tensors.q.view), reads(SLOT_K, tensors.k.view),
              reads(SLOT_V, tensors.v.view), writes(SLOT_OUT, tensors.out.view),
              writes(SLOT_LSE, tensors.lse)},
             plan);
}

void plan_backward(Device& device,
                   const Problem& problem,
                   const Tensors& tensors,
                   Plan& plan) {
  plan.params = parameters(problem, tensors);
  add_launch(device, problem, tensors, Kernel::backward_prepare,
             {reads(SLOT_OUT, tensors.out.view), reads(SLOT_LSE, tensors.lse),
              reads(SLOT_GRAD_OUT, tensors.grad_out.view),
              writes(SLOT_STATS, tensors.stats)},
             plan);
  const std::vector<Argument> inputs = {
      reads(SLOT_Q, tensors.q.view), reads(SLOT_K, tensors.k.view),
      reads(SLOT_V, tensors.v.view),
      reads(SLOT_GRAD_OUT, tensors.grad_out.view),
      reads(SLOT_STATS, tensors.stats)};
  if (tensors.dk.view.handle != nullptr) {
    auto arguments = inputs;
    arguments.push_back(writes(SLOT_DK, tensors.dk.view));
    arguments.push_back(writes(SLOT_DV, tensors.dv.view));
    add_launch(device, problem, tensors, Kernel::backward_dkdv,
               std::move(arguments), plan);
  }
  if (tensors.dq.view.handle != nullptr) {
    auto arguments = inputs;
    arguments.push_back(writes(SLOT_DQ, tensors.dq.view));
    add_launch(device, problem, tensors, Kernel::backward_dq,
               std::move(arguments), plan);
  }
}

}  // namespace orchard::attention
