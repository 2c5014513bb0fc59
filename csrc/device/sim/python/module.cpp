// csrc/device/sim/python/module.cpp: the simulator on NumPy arrays; the Python
// package wraps it as orchard_ops.sim.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <optional>

#include "device/sim/python/arguments.h"
#include "device/sim/sim.h"

namespace py = pybind11;

namespace {

using namespace orchard;

struct Kernel {
  std::shared_ptr<const device::Pipeline> pipeline;
  std::string entry;
  sim::KernelInfo info;
};

device::Size3 size_of(const py::object& value) {
  if (py::isinstance<py::int_>(value)) return {value.cast<uint32_t>(), 1, 1};
  device::Size3 size{1, 1, 1};
  const auto list = value.cast<std::vector<uint32_t>>();
  if (list.empty() || list.size() > 3) {
    throw Error(ErrorKind::invalid_problem,
                "[dispatch] expected one to three numbers for a grid, got " +
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

double check_timeout(double seconds) {
  if (seconds > 0 && std::isfinite(seconds)) return seconds;
  throw Error(ErrorKind::invalid_problem,
              "[dispatch] expected a timeout of more than 0 seconds, got " +
                  std::to_string(seconds) + "; pass None for no limit");
}

py::dict dispatch(const Kernel& kernel,
                  const py::sequence& arguments,
                  const py::object& threadgroups,
                  const py::object& threads_per_threadgroup,
                  uint32_t threadgroup_bytes,
                  std::optional<bool> strict,
                  std::optional<uint64_t> seed,
                  std::optional<double> timeout) {
  device::Launch launch;
  launch.pipeline = kernel.pipeline;
  launch.threadgroup_bytes = threadgroup_bytes;
  launch.threadgroups = size_of(threadgroups);
  launch.threads_per_threadgroup = size_of(threads_per_threadgroup);
  sim::Arguments bound(kernel.info);
  bound.bind(arguments, launch);
  sim::Options options = sim::options();
  options.strict = strict.value_or(options.strict);
  options.seed = seed.value_or(options.seed);
  if (timeout) options.timeout = check_timeout(*timeout);
  sim::Counters counted;
  try {
    const py::gil_scoped_release release;
    counted = sim::dispatch(launch, options);
  } catch (const Error&) {
    // What Ctrl-C ended is no error of the kernel.
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    throw;
  }
  bound.copy_out();
  return as_dict(counted);
}

Kernel compile(const std::string& text,
               const std::string& entry,
               const std::map<std::string, std::string>& defines) {
  const std::vector<std::pair<std::string, std::string>> list(defines.begin(),
                                                              defines.end());
  const py::gil_scoped_release release;
  auto pipeline = sim::compile(text, entry, list);
  sim::KernelInfo info = sim::info(*pipeline);
  return {std::move(pipeline), entry, std::move(info)};
}

std::pair<uint64_t, std::vector<std::string>> accept(
    const std::string& text,
    const std::map<std::string, std::string>& defines,
    uint32_t language_version) {
  sim::CompileRequest request;
  request.text = text;
  request.defines = {defines.begin(), defines.end()};
  const py::gil_scoped_release release;
  const sim::Footprint found = sim::accept(request, language_version);
  return {found.threadgroup_bytes, found.spilled};
}

py::dict info(const Kernel& kernel) {
  const sim::KernelInfo& info = kernel.info;
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
    if (p.kind == "buffer") row["type"] = sim::type_name(p);
    parameters.append(row);
  }
  py::dict out;
  out["name"] = info.name;
  out["max_threads"] = info.max_threads;
  out["parameters"] = parameters;
  return out;
}

// Errors become the Python class that they name.
void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const Error& error) {
    const std::string tag = Error::tag(error.kind());  // "[Name] "
    const py::object type = py::module_::import("orchard_ops._errors")
                                .attr(tag.substr(1, tag.size() - 3).c_str());
    PyErr_SetString(type.ptr(), error.message().c_str());
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
           py::arg("timeout") = py::none(),
           "Runs on NumPy arrays in place; returns the counters.  Ends with "
           "a DeviceError after `timeout` seconds.")
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
