// csrc/device/sim/python/module.cpp: the simulator on NumPy arrays; the Python
// package wraps it as orchard_ops.sim.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <optional>

#include "device/sim/sim.h"

namespace py = pybind11;

namespace {

using namespace orchard;

struct Kernel {
  std::shared_ptr<const device::Pipeline> pipeline;
  std::string entry;
};

device::Size3 size_of(const py::object& value) {
  if (py::isinstance<py::int_>(value)) return {value.cast<uint32_t>(), 1, 1};
  device::Size3 size{1, 1, 1};
  const auto list = value.cast<std::vector<uint32_t>>();
  if (list.empty() || list.size() > 3) {
    throw py::value_error("a grid has one to three numbers, not " +
                          std::to_string(list.size()));
  }
  std::copy(list.begin(), list.end(), size.begin());
  return size;
}

py::dict as_dict(const sim::Counters& counters) {
  py::dict out;
  for (const auto& [name, value] : counters.items()) out[name.c_str()] = value;
  return out;
}

// NumPy arrays travel through buffers of exactly their size and back.
class Arrays {
 public:
  ~Arrays() {
    for (auto& [array, buffer] : pairs_) sim::release(buffer);
  }

  void add(uint32_t index, const py::object& value, device::Launch& launch) {
    device::Argument argument;
    argument.index = index;
    argument.access = device::Access::read_write;
    if (py::isinstance<py::array>(value)) {
      argument.view = copy_in(index, value.cast<py::array>());
    } else {
      texts_.push_back(encode(value));
      argument.bytes = std::as_bytes(
          std::span<const char>(texts_.back().data(), texts_.back().size()));
    }
    launch.arguments.push_back(argument);
  }

  void reserve(size_t count) { texts_.reserve(count); }

  void copy_out() {
    for (auto& [array, buffer] : pairs_) {
      if (!array.writeable()) continue;
      const sim::HostAccess access(buffer);
      std::memcpy(array.mutable_data(), access.data(),
                  static_cast<size_t>(array.nbytes()));
    }
  }

 private:
  device::BufferView copy_in(uint32_t index, const py::array& array) {
    if ((array.flags() & py::array::c_style) == 0) {
      throw py::value_error("argument " + std::to_string(index) +
                            ": the array must be C-contiguous");
    }
    const auto bytes = static_cast<uint64_t>(array.nbytes());
    sim::Buffer* buffer = sim::allocate(bytes, device::StorageMode::shared);
    pairs_.emplace_back(array, buffer);
    const sim::HostAccess access(buffer);
    std::memcpy(access.data(), array.data(), bytes);
    return sim::view(buffer, 0, bytes);
  }

  template <class T>
  static std::string raw(T value) {
    return {reinterpret_cast<const char*>(&value), sizeof(T)};
  }

  // Python numbers become int (or long) and float.
  static std::string encode(const py::object& value) {
    if (py::isinstance<py::float_>(value)) return raw(value.cast<float>());
    if (py::isinstance<py::int_>(value)) {
      const auto number = value.cast<int64_t>();
      if (number == static_cast<int32_t>(number)) {
        return raw(static_cast<int32_t>(number));
      }
      return raw(number);
    }
    if (py::hasattr(value, "tobytes")) {  // a NumPy scalar
      return value.attr("tobytes")().cast<std::string>();
    }
    return value.cast<py::bytes>().cast<std::string>();
  }

  std::vector<std::pair<py::array, sim::Buffer*>> pairs_;
  std::vector<std::string> texts_;
};

py::dict dispatch(const Kernel& kernel,
                  const py::sequence& arguments,
                  const py::object& threadgroups,
                  const py::object& threads_per_threadgroup,
                  uint32_t threadgroup_bytes,
                  std::optional<bool> strict,
                  std::optional<uint64_t> seed) {
  device::Launch launch;
  launch.pipeline = kernel.pipeline;
  launch.threadgroup_bytes = threadgroup_bytes;
  launch.threadgroups = size_of(threadgroups);
  launch.threads_per_threadgroup = size_of(threads_per_threadgroup);
  Arrays arrays;
  arrays.reserve(arguments.size());
  for (uint32_t i = 0; i < arguments.size(); ++i) {
    const py::object value = arguments[i];
    if (!value.is_none()) arrays.add(i, value, launch);
  }
  sim::Options options = sim::options();
  options.strict = strict.value_or(options.strict);
  options.seed = seed.value_or(options.seed);
  sim::Counters counted;
  {
    const py::gil_scoped_release release;
    counted = sim::dispatch(launch, options);
  }
  arrays.copy_out();
  return as_dict(counted);
}

Kernel compile(const std::string& text,
               const std::string& entry,
               const std::map<std::string, std::string>& defines) {
  const std::vector<std::pair<std::string, std::string>> list(defines.begin(),
                                                              defines.end());
  const py::gil_scoped_release release;
  return {sim::compile(text, entry, list), entry};
}

std::pair<uint64_t, std::vector<std::string>> accept(
    const std::string& text,
    const std::map<std::string, std::string>& defines,
    uint32_t language_version) {
  const std::vector<std::pair<std::string, std::string>> list(defines.begin(),
                                                              defines.end());
  const py::gil_scoped_release release;
  const sim::Footprint found = sim::accept(text, list, language_version);
  return {found.threadgroup_bytes, found.spilled};
}

py::dict info(const Kernel& kernel) {
  const sim::KernelInfo info = sim::info(*kernel.pipeline);
  py::list parameters;
  for (const sim::ParameterInfo& p : info.parameters) {
    py::dict row;
    row["name"] = p.name;
    row["kind"] = p.kind;
    row["space"] = p.space;
    row["index"] = p.index;
    row["is_const"] = p.is_const;
    row["element_bytes"] = p.element_bytes;
    row["alignment"] = p.alignment;
    parameters.append(row);
  }
  py::dict out;
  out["name"] = info.name;
  out["max_threads"] = info.max_threads;
  out["parameters"] = parameters;
  return out;
}

// Errors cross as RuntimeError; their text names the kind.
void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const Error& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
}

void define_options(py::module_& m) {
  py::class_<sim::Options>(m, "Options", "What tests change of the simulator.")
      .def_readwrite("is_eager", &sim::Options::is_eager)
      .def_readwrite("has_foreign_layout", &sim::Options::has_foreign_layout)
      .def_property(
          "matrix_order",
          [](const sim::Options& o) {
            return static_cast<uint32_t>(o.matrix_order);
          },
          [](sim::Options& o, uint32_t order) {
            if (order > 2) throw py::value_error("matrix_order is 0, 1 or 2");
            o.matrix_order = static_cast<sim::MatrixOrder>(order);
          });
  m.def(
      "options", []() -> sim::Options& { return sim::options(); },
      py::return_value_policy::reference);
}

}  // namespace

PYBIND11_MODULE(_sim, m) {
  m.doc() = "Executes Metal kernels on the CPU.";
  py::register_exception_translator(translate);
  define_options(m);
  py::class_<Kernel>(m, "Kernel", "A compiled kernel.")
      .def("dispatch", &dispatch, py::arg("arguments"), py::arg("threadgroups"),
           py::arg("threads_per_threadgroup"), py::arg("threadgroup_bytes") = 0,
           py::arg("strict") = py::none(), py::arg("seed") = py::none(),
           "Runs on NumPy arrays in place; returns the counters.")
      .def_property_readonly("info", &info)
      .def_readonly("entry", &Kernel::entry);
  m.def("compile", &compile, py::arg("text"), py::arg("entry"),
        py::arg("defines") = std::map<std::string, std::string>{});
  m.def("accept", &accept, py::arg("text"), py::arg("defines"),
        py::arg("language_version"),
        "Type-checks a text by Metal's rules; returns threadgroup bytes and "
        "the types of arrays that are no registers.");
  m.def(
      "set_compiler",
      [](const std::string& command) { sim::options().compiler = command; },
      py::arg("command"));
}
