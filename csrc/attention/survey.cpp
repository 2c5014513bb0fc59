// csrc/attention/survey.cpp: see survey.h.
#include "attention/survey.h"

#include "attention/choices.h"
#include "attention/specialisation.h"

namespace orchard::attention {
namespace {

using device::Device;

Problem problem_for(const KernelRow& kernel, int64_t head_dim) {
  Problem problem;
  problem.dtype = DType::float16;
  problem.batch = problem.heads_q = problem.heads_kv = 1;
  problem.len_q = problem.len_kv = problem.rows_per_head = 64;
  problem.head_dim = problem.head_dim_v = head_dim;
  problem.cache.is_used = kernel.features.has(Feature::decode);
  if (kernel.slots.written.has(SLOT_DBIAS)) {
    problem.mask = MaskKind::bias;
    problem.mask_dtype = problem.dtype;
  }
  return problem;
}

uint32_t threads_of(Device& device, const device::PipelineRequest& request) {
  try {
    return device.pipeline(request)->max_threads_per_threadgroup();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::pipeline) throw;
    return 0;
  }
}

ThreadLimit limit_of(Device& device, const Specialisation& s) {
  const std::string file = file_of(s);
  device::PipelineRequest request = request_for(s, file);
  ThreadLimit limit{s.name(), threads_of(device, request)};
  // A macro of the attribute's name leaves nothing of it.
  request.defines.emplace_back("max_total_threads_per_threadgroup(threads)",
                               "");
  limit.without = threads_of(device, request);
  return limit;
}

}  // namespace

std::vector<ThreadLimit> thread_limits(Device& device) {
  std::vector<ThreadLimit> limits;
  for (const KernelRow& row : kernel_rows()) {
    const bool is_tiled = row.tiles != TileTable::row_each;
    for (const int64_t dim : {64, 128, 512}) {
      if (dim > 64 && !is_tiled) continue;
      for (const int64_t spilled : {0, 1}) {
        if (spilled > 0 && !row.features.has(Feature::spilling)) continue;
        limits.push_back(limit_of(
            device, specialise(tables_of(device), problem_for(row, dim), {},
                               row.kernel, spilled)));
      }
    }
  }
  return limits;
}

}  // namespace orchard::attention
