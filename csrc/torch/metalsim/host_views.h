// csrc/torch/metalsim/host_views.h: CPU tensors over the memory of metalsim
// tensors, for as long as an operator of the CPU works on them.
#pragma once

#include <ATen/core/Tensor.h>

#include <deque>
#include <optional>
#include <vector>

#include "torch/metalsim/memory.h"

namespace orchard::metalsim {

// Opens the memory of every tensor it is asked for and closes it when
// destroyed.  Tensors that share a storage get CPU tensors that share one, so
// that in-place operators, overlapping arguments and out= behave as on the CPU.
class HostViews {
 public:
  HostViews() = default;
  HostViews(const HostViews&) = delete;
  HostViews& operator=(const HostViews&) = delete;

  // The CPU tensor with this metalsim tensor's elements: same sizes, strides
  // and offset, same memory.
  at::Tensor open(const at::Tensor& tensor);

  // Remembers a CPU argument: if the operator returns it, it stays on the CPU.
  void keep(const at::Tensor& tensor) { kept_.push_back(tensor); }

  // Carries over to the metalsim tensors what the operator did to the shape
  // and the storage of their CPU tensors (out= arguments are resized so).
  void commit();

  // The metalsim tensor for a CPU result: an argument itself, a view of one,
  // or new memory.
  at::Tensor adopt(const at::Tensor& result);

 private:
  struct Window {
    c10::Storage device;
    c10::Storage host;
    std::optional<sim::HostAccess> access;
    void* data = nullptr;
    size_t bytes = 0;
  };
  struct Pair {
    at::Tensor device;
    at::Tensor host;
  };

  const c10::Storage& host_storage(const at::Tensor& tensor);
  c10::Storage device_storage(const c10::Storage& host);
  static void carry_back(Window& window);

  std::deque<Window> windows_;  // a deque: HostAccess must not move
  std::vector<Pair> pairs_;
  std::vector<Pair> fresh_;  // results, for those that share a storage
  std::vector<at::Tensor> kept_;
};

}  // namespace orchard::metalsim
