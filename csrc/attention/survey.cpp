// csrc/attention/survey.cpp: see survey.h.
#include "attention/survey.h"

#include "attention/plan.h"
#include "attention/specialisation.h"

namespace orchard::attention {
namespace {

using device::Device;

constexpr int64_t kHeadDims[] = {64, 128};

Problem problem_for(Kernel kernel, int64_t head_dim) {
  Problem problem;
  problem.dtype = DType::float16;
  problem.batch = problem.heads_q = problem.heads_kv = 1;
  problem.len_q = problem.len_kv = problem.rows_per_head = 64;
  problem.head_dim = problem.head_dim_v = head_dim;
  problem.cache.is_used = kernel == Kernel::decode;
  if (kernel == Kernel::backward_dbias ||
      kernel == Kernel::backward_dbias_spilled) {
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
  const auto add = [&](Kernel kernel, int64_t dim, bool is_spilling = false) {
    limits.push_back(limit_of(
        device, specialise(device.limits().family, problem_for(kernel, dim), {},
                           kernel, is_spilling ? 1 : 0, false)));
  };
  for (const int64_t dim : kHeadDims) {
    for (const Kernel kernel :
         {Kernel::forward, Kernel::backward_dkdv, Kernel::backward_dq,
          Kernel::backward_dq_spilled, Kernel::backward_dbias,
          Kernel::decode}) {
      add(kernel, dim);
    }
    add(Kernel::backward_dkdv, dim, true);
  }
  add(Kernel::backward_prepare, kHeadDims[0]);
  add(Kernel::backward_dbias_spilled, kHeadDims[0]);
  add(Kernel::combine, kHeadDims[0]);
  return limits;
}

}  // namespace orchard::attention
