// csrc/torch/decode_step.h: the arguments of one decoding step: a few queries
// against a cache of keys, dense or paged.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "torch/call.h"

namespace orchard::torch_ops {

// Those of Python's flash_attention_with_kvcache, heads before lengths;
// undefined are the tensors that were not given.
struct DecodeStep {
  at::Tensor q, k, v, lengths, table, cache_rows, left_pads, slopes, sinks;
  attention::Settings settings;
  int64_t splits = 0;  // 0: the shapes decide

  // What it has in common with any other call.
  Call call() const {
    Call call;
    call.q = q;
    call.k = k;
    call.v = v;
    call.slopes = slopes;
    call.sinks = sinks;
    call.settings = settings;
    call.is_indirect = table.defined() || cache_rows.defined();
    return call;
  }
};

using DecodeOutputs = std::tuple<at::Tensor, at::Tensor>;  // out, lse

// The operator on a device, with the check.
DecodeOutputs decode_on_device(const DecodeStep& step);
// Writes the outputs of a checked step of CPU tensors (decode_cpu.cpp).
void decode_on_cpu(const DecodeStep& step, const DecodeOutputs& outputs);

}  // namespace orchard::torch_ops
