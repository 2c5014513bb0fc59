// csrc/device/sim/python/arguments.h: what Python passes to a kernel, checked
// against its parameters and bound to its slots.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <tuple>
#include <vector>

#include "device/sim/sim.h"

namespace orchard::sim {

// One argument: its slot, what is bound there, and for an array the byte that
// its slot begins at.
using Given = std::tuple<uint32_t, pybind11::object, uint64_t>;

// Arrays travel through buffers and back.  Those that share memory share a
// buffer, as views of it: what is written through one is read through another.
class Arguments {
 public:
  explicit Arguments(const KernelInfo& kernel) : kernel_(kernel) {}
  ~Arguments();
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;

  // Throws Error(invalid_problem) for a value that its parameter cannot take.
  void bind(const std::vector<Given>& values, device::Launch& launch);
  // After the launch: what the kernel may have written.
  void copy_out() const;

 private:
  struct Array {
    uint32_t index;
    bool is_written;
    pybind11::array array;
    const std::byte* begin;
    const std::byte* end;
    uint64_t offset_bytes;  // from begin to what the slot is bound to
    device::BufferView view{};
  };

  void add(const Given& given);
  void add_array(uint32_t index,
                 const pybind11::array& array,
                 uint64_t offset_bytes);
  void share_buffers();

  const KernelInfo& kernel_;
  std::vector<Array> arrays_;
  std::vector<std::pair<uint32_t, std::string>> texts_;
  std::vector<Buffer*> buffers_;
};

}  // namespace orchard::sim
