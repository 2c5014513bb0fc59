// tests/metal/runtime/include/torch/mps.h: the two functions of PyTorch's
// header that csrc/torch/mps_stream.cpp calls, as plain C++ sees them.
#pragma once

namespace torch::mps {

void synchronize();
void* get_dispatch_queue();

}  // namespace torch::mps
