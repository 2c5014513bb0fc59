// csrc/device/sim/python/module.cpp: the simulator on NumPy arrays; the Python
// package wraps it as orchard_ops.sim.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

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

// As pybind11's, whose end aborts a process that ends meanwhile: Python then
// ends its other threads by unwinding them, out of a destructor.  Nobody waits
// for them, and what they hold must not be let go of without the lock: they
// stop here.
class WithoutLock {
 public:
  WithoutLock() = default;
  ~WithoutLock() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) pause();
    }
  }
  WithoutLock(const WithoutLock&) = delete;
  WithoutLock& operator=(const WithoutLock&) = delete;

 private:
  PyThreadState* state_ = PyEval_SaveThread();
};

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
                  const std::vector<sim::Given>& arguments,
                  const device::Size3& threadgroups,
                  const device::Size3& threads_per_threadgroup,
                  std::vector<uint32_t> threadgroup_bytes,
                  const device::Size3& threads,
                  std::optional<bool> strict,
                  std::vector<std::string> allowed,
                  std::optional<bool> has_foreign_layout,
                  std::optional<uint64_t> seed,
                  std::optional<double> timeout) {
  device::Launch launch;
  launch.pipeline = kernel.pipeline;
  launch.threadgroups = threadgroups;
  launch.threads_per_threadgroup = threads_per_threadgroup;
  sim::Arguments bound(kernel.info);
  bound.bind(arguments, launch);
  sim::Options options = sim::options();
  options.strict = strict.value_or(options.strict);
  options.allowed = std::move(allowed);
  options.has_foreign_layout =
      has_foreign_layout.value_or(options.has_foreign_layout);
  options.seed = seed.value_or(options.seed);
  if (timeout) options.timeout = check_timeout(*timeout);
  const sim::Dispatch more{std::move(threadgroup_bytes), threads};
  sim::Counters counted;
  try {
    const WithoutLock unlocked;
    counted = sim::dispatch(launch, options, more);
  } catch (const Error&) {
    // What Ctrl-C ended is no error of the kernel.
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    throw;
  }
  bound.copy_out();
  return as_dict(counted);
}

Kernel compile(const sim::CompileRequest& text,
               const std::string& entry,
               const sim::Constants& constants) {
  sim::CompileRequest request = text;
  request.entry = entry;
  request.constants = constants;
  const WithoutLock unlocked;
  auto pipeline = sim::compile(request);
  sim::KernelInfo info = sim::info(*pipeline);
  return {std::move(pipeline), entry, std::move(info)};
}

std::pair<uint64_t, std::vector<std::string>> accept(
    const sim::CompileRequest& text, uint32_t language_version) {
  const WithoutLock unlocked;
  const sim::Footprint found = sim::accept(text, language_version);
  return {found.threadgroup_bytes, found.spilled};
}

std::vector<std::string> names(const sim::CompileRequest& text) {
  const WithoutLock unlocked;
  return sim::kernel_names(text);
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
    const py::object made =
        py::module_::import("orchard_ops._errors").attr("typed")(error.what());
    PyErr_SetObject(py::type::of(made).ptr(), made.ptr());
  }
}

void define_options(py::module_& m) {
  py::class_<sim::Options>(m, "Options", "What tests change of the simulator.")
      .def_readwrite("seed", &sim::Options::seed)
      .def_readwrite("strict", &sim::Options::strict)
      .def_readwrite("timeout", &sim::Options::timeout)
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

sim::CompileRequest text(
    std::string text,
    std::string name,
    std::vector<std::pair<std::string, std::string>> defines,
    std::vector<std::string> include) {
  sim::CompileRequest made;
  made.text = std::move(text);
  made.name = std::move(name);
  made.defines = std::move(defines);
  made.include_folders = std::move(include);
  return made;
}

void define_text(py::module_& m) {
  py::class_<sim::CompileRequest>(m, "Text",
                                  "A text in the Metal shading language.")
      .def("names", &names, "Names of its kernels; compiles nothing.")
      .def("compile", &compile, py::arg("entry"), py::arg("constants"))
      .def("accept", &accept, py::arg("language_version"),
           "Type-checks it by Metal's rules; returns threadgroup bytes and "
           "the types of arrays that are no registers.");
  m.def("text", &text, py::arg("text"), py::arg("name"), py::arg("defines"),
        py::arg("include"));
}

}  // namespace

PYBIND11_MODULE(_sim, m) {
  m.doc() = "Executes Metal kernels on the CPU.";
  py::register_exception_translator(translate);
  define_options(m);
  py::class_<Kernel>(m, "Kernel", "A compiled kernel.")
      .def("dispatch", &dispatch, py::arg("arguments"), py::arg("threadgroups"),
           py::arg("threads_per_threadgroup"), py::arg("threadgroup_bytes"),
           py::arg("threads"), py::arg("strict"), py::arg("allowed"),
           py::arg("has_foreign_layout"), py::arg("seed"), py::arg("timeout"),
           "Runs on NumPy arrays in place; returns the counters.  Threadgroup "
           "memory is by slot; `threads` are all, or zeros for what the "
           "threadgroups make.  Ends with a DeviceError after `timeout` "
           "seconds.")
      .def_property_readonly("info", &info)
      .def_readonly("entry", &Kernel::entry);
  define_text(m);
  py::tuple checks(sim::kChecks.size());
  for (size_t i = 0; i < sim::kChecks.size(); ++i) {
    checks[i] = std::string(sim::kChecks[i]);
  }
  m.attr("CHECKS") = checks;
  m.def(
      "set_compiler",
      [](const std::string& command) { sim::options().compiler = command; },
      py::arg("command"));
}
