// csrc/attention/problem.cpp: the parts of a problem that need no templates.
#include "attention/problem.h"

namespace orchard::attention {

Problem make_problem(const Shapes<int64_t>& shapes,
                     DType dtype,
                     double scale,
                     int64_t causal) {
  Problem problem;
  problem.dtype = dtype;
  problem.batch = shapes.q[0];
  problem.heads_q = shapes.q[1];
  problem.heads_kv = shapes.k[1];
  problem.len_q = shapes.q[2];
  problem.len_kv = shapes.k[2];
  problem.head_dim = shapes.q[3];
  problem.head_dim_v = shapes.v[3];
  problem.scale = scale;
  problem.causal = static_cast<Causal>(causal);
  return problem;
}

std::string unsupported_reason(DType dtype, const device::Limits& limits) {
  if (dtype == DType::bfloat16 && !limits.has_bfloat) {
    return "bfloat16 needs Metal 3.1 (macOS 14 or newer); this device "
           "compiles Metal " +
           std::to_string(limits.language_version >> 16) + "." +
           std::to_string(limits.language_version & 0xffff) +
           ": use float16 or float32";
  }
  return "";
}

}  // namespace orchard::attention
