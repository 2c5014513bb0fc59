// csrc/device/sim/python/arguments.h: what Python passes to a kernel, checked
// against its parameters and bound to its slots.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "device/sim/sim.h"

namespace orchard::sim {

// Arrays travel through buffers and back.  Those that share memory share a
// buffer, as views of it: what is written through one is read through another.
class Arguments {
 public:
  explicit Arguments(const KernelInfo& kernel) : kernel_(kernel) {}
  ~Arguments();
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;

  // Slot i takes value i; None leaves it free.  Throws Error(invalid_problem)
  // for a value that its parameter cannot take.
  void bind(const pybind11::sequence& values, device::Launch& launch);
  // After the launch: what the kernel may have written.
  void copy_out() const;

 private:
  struct Array {
    uint32_t index;
    bool is_written;
    pybind11::array array;
    const std::byte* begin;
    const std::byte* end;
    device::BufferView view{};
  };

  void add(uint32_t index, const pybind11::object& value);
  void add_array(uint32_t index, const pybind11::array& array);
  void share_buffers();

  const KernelInfo& kernel_;
  std::vector<Array> arrays_;
  std::vector<std::pair<uint32_t, std::string>> texts_;
  std::vector<Buffer*> buffers_;
};

}  // namespace orchard::sim
