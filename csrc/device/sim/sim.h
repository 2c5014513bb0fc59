// csrc/device/sim/sim.h: the simulator's public face: its buffers, options and
// counters, and the device that executes Metal kernels on the CPU.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "device/device.h"
#include "device/sim/msl/abi.h"

namespace orchard::sim {

// An allocation of simulated device memory.
struct Buffer;

// Memory with guard pages on both sides, filled with the poison pattern.
Buffer* allocate(uint64_t length_bytes, device::StorageMode mode);
// Frees, or keeps the pages for a later allocation, poisoned again.
void release(Buffer* buffer);
// True only for a live buffer; never reads through the pointer.
bool is_buffer(const void* handle);
device::StorageMode mode(const Buffer* buffer);
uint64_t length_bytes(const Buffer* buffer);
// What the host may touch: null for private storage, as on Metal.
void* contents(const Buffer* buffer);

// A window in which the host may touch a buffer of any mode; windows nest.
class HostAccess {
 public:
  explicit HostAccess(Buffer* buffer);
  ~HostAccess();
  HostAccess(const HostAccess&) = delete;
  HostAccess& operator=(const HostAccess&) = delete;
  void* data() const { return data_; }

 private:
  Buffer* buffer_;
  void* data_;
};

device::BufferView view(Buffer* buffer,
                        uint64_t offset_bytes,
                        uint64_t length_bytes);

// The process's one simulated device.
device::Device& simulator();

// Order of the eight products of one element in a matrix multiply.
enum class MatrixOrder : uint32_t { ascending, descending, pairwise };

struct Options {
  uint64_t seed = 0;    // of the schedule
  bool strict = false;  // every access checked; slow
  // Of strict mode's checks those that are off, by name, as in "races", or off
  // at one line, as in "races@k.metal:42".
  std::vector<std::string> allowed{};
  bool is_idle = false;         // launches are dropped: times the host alone
  uint32_t worker_threads = 0;  // 0: one per CPU core
  bool is_eager = true;         // matrix multiplies without lane switches
  bool has_foreign_layout = false;  // lanes of a matrix permuted
  MatrixOrder matrix_order = MatrixOrder::ascending;
  device::StorageMode default_storage_mode = device::StorageMode::private_;
  device::Family family = device::Family::a;
  std::string compiler;  // empty: ORCHARD_SIM_CXX, else found
  double timeout = 0.0;  // seconds that a launch may take; 0: any
};

Options& options();

// The names of strict mode's checks.
inline constexpr std::array<std::string_view, 5> kChecks = {
    "races", "bounds", "alignment", "barrier_flags", "uninitialized"};

struct Counters {
  uint64_t launches = 0;
  uint64_t threadgroups = 0;
  uint64_t threads = 0;
  uint64_t matrix_multiplies = 0;
  uint64_t shuffles = 0;
  uint64_t reductions = 0;
  uint64_t votes = 0;
  uint64_t threadgroup_barriers = 0;
  uint64_t simdgroup_barriers = 0;
  uint64_t exponentials = 0;
  // By address space device, constant, threadgroup; filled in strict mode.
  uint64_t loads[3] = {};
  uint64_t stores[3] = {};
  uint64_t load_bytes[3] = {};
  uint64_t store_bytes[3] = {};
  // Loads of device memory of 1, 2, 4, 8, 16 bytes; strict mode.
  uint64_t load_widths[5] = {};
  uint64_t uninitialized_reads = 0;  // of threadgroup memory, strict mode
  uint64_t bank_conflicts = 0;       // extra passes, see banks.h; strict mode

  Counters& operator+=(const Counters& other);
  std::vector<std::pair<std::string, uint64_t>> items() const;
};

Counters counters();  // of all dispatches since reset_counters()
// The same by name of the kernel function.
std::map<std::string, Counters> kernel_counters();
void reset_counters();

uint64_t allocated_bytes();  // in live buffers
uint64_t peak_bytes();
void reset_peak_bytes();

using abi::Scalar;  // what numbers a parameter points to

// One parameter of a kernel.
struct ParameterInfo {
  std::string name;
  std::string kind;   // "buffer", "threadgroup" or "attribute"
  std::string space;  // "device", "constant", "threadgroup" or "thread"
  uint32_t index = 0;
  bool is_const = false;
  uint32_t element_bytes = 0;
  uint32_t alignment = 0;
  bool is_reference = false;
  Scalar scalar = Scalar::other;
  uint32_t scalar_bytes = 0;
  uint32_t components = 1;  // scalars side by side in an element
};

// Metal's name of what a parameter points to, as in "uint2".
std::string type_name(const ParameterInfo& parameter);

struct KernelInfo {
  std::string name;
  uint32_t max_threads = 1024;
  std::vector<ParameterInfo> parameters;
};

// Values of function constants, by their names or the digits of their indices.
using Constant = std::variant<bool, int64_t, uint64_t, double>;
using Constants = std::map<std::string, Constant>;

// A kernel from text that is not ours: for the Python module and the tests.
struct CompileRequest {
  std::string text;
  std::string entry;
  std::vector<std::pair<std::string, std::string>> defines{};
  std::vector<std::string> include_folders{};  // searched in this order
  Constants constants{};
  std::string name = "kernel.metal";  // of its file, in messages
};
std::shared_ptr<const device::Pipeline> compile(const CompileRequest& request);
std::shared_ptr<const device::Pipeline> compile(
    std::string_view text,
    std::string_view entry,
    const std::vector<std::pair<std::string, std::string>>& defines);
// What a host can ask for, in the order of the text; nothing is compiled.
std::vector<std::string> kernel_names(const CompileRequest& request);
KernelInfo info(const device::Pipeline& pipeline);

// What a text needs besides registers.
struct Footprint {
  uint64_t threadgroup_bytes = 0;  // declared in all of its kernels
  // Types of arrays and structs that no optimizer can keep in registers, since
  // something that is no constant indexes them: slow memory on a GPU.
  std::vector<std::string> spilled;
};

// Type-checks a text by Metal's rules, stricter than running it needs; throws
// Error(compile) with the lines that break one.  language_version as in Limits.
Footprint accept(const CompileRequest& request, uint32_t language_version);

// What Metal lets a host do besides, and this library never does.
struct Dispatch {
  std::vector<uint32_t> threadgroup_bytes;  // by slot
  // Threads in all, whose edge may cut threadgroups; zeros for what the launch
  // says.
  device::Size3 grid{};
};

// Runs one launch under its own options; returns what it counted.  A parameter
// may be bound to nothing: it faults when the kernel touches it.
Counters dispatch(const device::Launch& launch,
                  const Options& options,
                  const Dispatch& more = {});

}  // namespace orchard::sim
