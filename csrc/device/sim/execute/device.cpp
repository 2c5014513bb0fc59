// csrc/device/sim/execute/device.cpp: the simulated device: checks launches,
// binds their arguments and spreads threadgroups over host threads.
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>

#include "device/kernel_source.h"
#include "device/sim/execute/buffer.h"
#include "device/sim/compile/compile.h"
#include "device/sim/sim.h"
#include "device/sim/execute/watch.h"
#include "device/sim/execute/worker.h"

namespace orchard::sim {
namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorKind::device, "simulator: " + what);
}

class SimPipeline : public device::Pipeline {
 public:
  explicit SimPipeline(Source source) : source_(std::move(source)) {
    kernel(options().strict);
  }

  // Strict binaries are compiled when first asked for.
  const Binary& binary(bool is_strict) const {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<const Binary>& slot = binaries_[is_strict ? 1 : 0];
    if (slot == nullptr) slot = compile_text(source_, is_strict);
    return *slot;
  }
  const abi::Kernel& kernel(bool is_strict) const {
    return *binary(is_strict).kernel;
  }
  uint32_t max_threads_per_threadgroup() const override {
    const uint32_t declared = kernel(options().strict).max_threads;
    return declared != 0 ? declared : abi::max_threads;
  }

 private:
  Source source_;
  mutable std::mutex mutex_;
  mutable std::array<std::shared_ptr<const Binary>, 2> binaries_;
};

uint64_t product(const device::Size3& size) {
  return uint64_t{size[0]} * size[1] * size[2];
}

std::string text_of(const device::Size3& size) {
  std::string text = "(";  // GCC 12 warns of an overlap that "(" + … has not
  text += std::to_string(size[0]) + ", " + std::to_string(size[1]) + ", " +
          std::to_string(size[2]) + ")";
  return text;
}

// Constant arguments lie at the end of a page too.
Buffer* copy_of(std::span<const std::byte> from) {
  Buffer* buffer = allocate(from.size(), device::StorageMode::shared);
  std::memcpy(bytes(buffer), from.data(), from.size());
  return buffer;
}

struct BufferDeleter {
  void operator()(Buffer* buffer) const { release(buffer); }
};

// One launch with its arguments bound; closes all at the end.
class Binding {
 public:
  // `more` is null for a launch of ours, which binds all that a kernel has.
  Binding(const device::Launch& launch,
          const Options& options,
          const Dispatch* more)
      : kernel_(static_cast<const SimPipeline&>(*launch.pipeline)
                    .kernel(options.strict)) {
    job_.kernel = &kernel_;
    job_.binary = &static_cast<const SimPipeline&>(*launch.pipeline)
                       .binary(options.strict);
    job_.launch = &launch;
    job_.options = &options;
    check_size(launch);
    set_grid(launch, more);
    set_memory(more == nullptr || more->threadgroup_bytes.empty()
                   ? std::vector<uint32_t>{launch.threadgroup_bytes}
                   : more->threadgroup_bytes);
    for (const device::Argument& argument : launch.arguments) bind(argument);
    if (more != nullptr) bind_nothing();
    for (uint32_t p = 0; p < kernel_.parameter_count; ++p) check_parameter(p);
    if (options.strict) {
      checker_ = std::make_unique<Checker>();
      checker_->begin(views(), job_.binary->begin, job_.binary->end);
      checker_->is_allowed = [this](std::string_view check, const void* pc) {
        return job_.allows(check, job_.binary->line_of(pc));
      };
      job_.checker = checker_.get();
    }
  }

  const Job& job() const { return job_; }

  // What only the checker knows.
  void add_checked(Counters& counters) const {
    if (checker_ == nullptr) return;
    for (size_t i = 0; i < 5; ++i) {
      counters.load_widths[i] += checker_->load_widths()[i];
    }
    counters.bank_conflicts += checker_->bank_conflicts();
  }

  std::string damage() const {
    const Checker::Poisoned found =
        checker_ ? checker_->find_poison() : Checker::Poisoned{};
    if (found.view != nullptr) {
      return "kernel " + std::string(kernel_.name) + ", " +
             job_.binary->line_of(found.pc) +
             ": uninitialized memory reached a result: byte " +
             std::to_string(found.offset) + " of '" + found.view->name +
             "' at index " + std::to_string(found.view->index);
    }
    for (const auto& [index, buffer] : bound_) {
      if (has_whole_redzones(buffer)) continue;
      repair_redzones(buffer);
      return "kernel " + std::string(kernel_.name) +
             ": out of bounds: bytes just outside the buffer of " +
             std::to_string(length_bytes(buffer)) + " bytes bound at index " +
             std::to_string(index) + " were written";
    }
    return {};
  }

 private:
  void check_size(const device::Launch& launch) {
    const std::string name = "kernel " + std::string(kernel_.name) + ": ";
    const uint64_t threads = product(launch.threads_per_threadgroup);
    const uint64_t most = kernel_.max_threads != 0
                              ? std::min(kernel_.max_threads, abi::max_threads)
                              : abi::max_threads;
    if (threads == 0 || threads > most) {
      refuse(name + std::to_string(threads) + " threads per threadgroup " +
             text_of(launch.threads_per_threadgroup) + ", allowed 1 to " +
             std::to_string(most));
    }
    if (product(launch.threadgroups) > UINT32_MAX) {
      refuse(name + "too many threadgroups " + text_of(launch.threadgroups));
    }
    job_.threads = static_cast<uint32_t>(threads);
  }

  void set_grid(const device::Launch& launch, const Dispatch* more) {
    for (size_t i = 0; i < 3; ++i) {
      job_.grid[i] = launch.threadgroups[i] * launch.threads_per_threadgroup[i];
      if (more != nullptr && more->grid[i] != 0) job_.grid[i] = more->grid[i];
    }
  }

  void set_memory(std::vector<uint32_t> bytes) {
    const std::string name = "kernel " + std::string(kernel_.name) + ": ";
    uint64_t total = 0;
    for (const uint32_t length : bytes) {
      total += length;
      if (length % 16 != 0) {
        refuse(name + "threadgroup memory of " + std::to_string(length) +
               " bytes: the length must be a multiple of 16");
      }
    }
    if (total > 32768) {
      refuse(name + "threadgroup memory of " + std::to_string(total) +
             " bytes, 32768 allowed");
    }
    job_.dynamic_bytes = std::move(bytes);
  }

  // Each parameter without an argument gets an empty buffer of its own.
  void bind_nothing() {
    for (uint32_t p = 0; p < kernel_.parameter_count; ++p) {
      const abi::Parameter& row = kernel_.parameters[p];
      void*& address = job_.arguments.buffers[row.index];
      if (row.kind != 0 || address != nullptr) continue;
      owned_.emplace_back(allocate(0, device::StorageMode::shared));
      address = bytes(owned_.back().get());
      job_.unbound.emplace_back(row.index, owned_.back().get());
    }
  }

  void bind(const device::Argument& argument) {
    const std::string at = "kernel " + std::string(kernel_.name) +
                           ": argument " + std::to_string(argument.index) +
                           ": ";
    if (argument.index >= abi::max_buffers) {
      refuse(at + "the index must be 0 to 30");
    }
    if (!argument.bytes.empty()) {
      if (argument.bytes.size() > 4096) {
        refuse(at + std::to_string(argument.bytes.size()) +
               " bytes, at most 4096 may be set");
      }
      owned_.emplace_back(copy_of(argument.bytes));
      job_.arguments.buffers[argument.index] = bytes(owned_.back().get());
      return;
    }
    if (argument.view.handle == nullptr) return;
    if (!is_buffer(argument.view.handle)) {
      refuse(at + "not a live buffer of this device");
    }
    auto* buffer = static_cast<Buffer*>(argument.view.handle);
    const uint64_t end =
        argument.view.offset_bytes + argument.view.length_bytes;
    if (end > length_bytes(buffer)) {
      refuse(at + "bytes " + std::to_string(argument.view.offset_bytes) +
             " to " + std::to_string(end) + " of a buffer of " +
             std::to_string(length_bytes(buffer)) + " bytes");
    }
    access_.push_back(std::make_unique<DeviceAccess>(buffer));
    bound_.emplace_back(argument.index, buffer);
    job_.arguments.buffers[argument.index] =
        bytes(buffer) + argument.view.offset_bytes;
  }

  // What each parameter may touch, for strict mode.
  std::vector<BoundView> views() const {
    std::vector<BoundView> list;
    for (uint32_t p = 0; p < kernel_.parameter_count; ++p) {
      const abi::Parameter& row = kernel_.parameters[p];
      if (row.kind != 0) continue;
      BoundView view;
      view.index = row.index;
      view.name = kernel_.parameter_names[p];
      view.begin =
          static_cast<const std::byte*>(job_.arguments.buffers[row.index]);
      view.is_constant =
          row.space == static_cast<uint32_t>(abi::Space::constant);
      view.element_bytes = row.element_bytes;
      for (const device::Argument& a : job_.launch->arguments) {
        if (a.index != row.index) continue;
        view.length = a.bytes.empty() ? a.view.length_bytes : a.bytes.size();
        view.is_writable = row.is_const == 0 && a.bytes.empty() &&
                           a.access != device::Access::read;
      }
      list.push_back(std::move(view));
    }
    return list;
  }

  // A pointer may point to nothing at all, but not to a part of an element.
  static void check_length(const std::string& at,
                           const abi::Parameter& row,
                           const device::Argument& argument) {
    const uint64_t length = argument.bytes.empty() ? argument.view.length_bytes
                                                   : argument.bytes.size();
    if (length >= row.element_bytes) return;
    if (length == 0 && row.is_reference == 0) return;
    refuse(at + "expected at least the " + std::to_string(row.element_bytes) +
           " bytes of one element, got " + std::to_string(length) +
           "; bind more");
  }

  void check_parameter(uint32_t p) const {
    const abi::Parameter& row = kernel_.parameters[p];
    const std::string at = "kernel " + std::string(kernel_.name) +
                           ": parameter " + kernel_.parameter_names[p] + ": ";
    if (row.kind == 1 && (row.index >= job_.dynamic_bytes.size() ||
                          job_.dynamic_bytes[row.index] == 0)) {
      refuse(at + "threadgroup memory is not set");
    }
    if (row.kind != 0) return;
    const void* address = job_.arguments.buffers[row.index];
    if (address == nullptr) {
      refuse(at + "nothing is bound at index " + std::to_string(row.index));
    }
    const bool is_constant =
        row.space == static_cast<uint32_t>(abi::Space::constant);
    for (const device::Argument& argument : job_.launch->arguments) {
      if (argument.index == row.index) check_length(at, row, argument);
      // The strictest of Apple's GPU families.
      if (is_constant && argument.index == row.index &&
          argument.view.offset_bytes % 32 != 0) {
        refuse(at +
               "the offset of a buffer in the constant space must be a "
               "multiple of 32, not " +
               std::to_string(argument.view.offset_bytes));
      }
    }
    if (reinterpret_cast<uintptr_t>(address) % std::min(row.alignment, 16u)) {
      refuse(at + "the bound offset is not a multiple of " +
             std::to_string(row.alignment) + " bytes");
    }
  }

  const abi::Kernel& kernel_;
  Job job_;
  std::unique_ptr<Checker> checker_;
  std::vector<std::unique_ptr<DeviceAccess>> access_;
  std::vector<std::pair<uint32_t, Buffer*>> bound_;
  std::vector<std::unique_ptr<Buffer, BufferDeleter>> owned_;
};

// Threadgroups in an order that the seed chooses: i -> (a i + b) mod n.
struct Order {
  Order(uint64_t seed, uint64_t n) : count(n) {
    if (seed == 0 || n < 2) return;
    Random random(seed);
    start = random.below(static_cast<uint32_t>(n));
    do {
      step = 1 + random.below(static_cast<uint32_t>(n - 1));
    } while (std::gcd(step, n) != 1);
  }
  uint32_t at(uint64_t i) const {
    return static_cast<uint32_t>((step * i + start) % count);
  }
  uint64_t count;
  uint64_t step = 1;
  uint64_t start = 0;
};

Counters from(const abi::Counters& c) {
  Counters out;
  out.matrix_multiplies = c.matrix_multiplies;
  out.shuffles = c.shuffles;
  out.reductions = c.reductions;
  out.votes = c.votes;
  out.threadgroup_barriers = c.threadgroup_barriers;
  out.simdgroup_barriers = c.simdgroup_barriers;
  out.exponentials = c.exponentials;
  out.uninitialized_reads = c.uninitialized_reads;
  for (int i = 0; i < 3; ++i) {
    out.loads[i] = c.loads[i];
    out.stores[i] = c.stores[i];
    out.load_bytes[i] = c.load_bytes[i];
    out.store_bytes[i] = c.store_bytes[i];
  }
  return out;
}

// Executes one job; threads take threadgroups from a common counter.
class Execution {
 public:
  Execution(const Job& job,
            Watch& watch,
            std::vector<std::unique_ptr<Worker>>& workers)
      : job_(job),
        watch_(watch),
        workers_(workers),
        order_(job.options->seed, product(job.launch->threadgroups)) {}

  Counters run() {
    uint64_t count = job_.options->worker_threads;
    if (count == 0) count = std::max(1u, std::thread::hardware_concurrency());
    if (job_.checker != nullptr) count = 1;  // it keeps one common record
    count = std::clamp<uint64_t>(order_.count, 1, count);
    while (workers_.size() < count) {
      workers_.push_back(std::make_unique<Worker>());
    }
    std::vector<std::thread> helpers;
    for (uint64_t i = 1; i < count; ++i) {
      helpers.emplace_back([this, i] { work(*workers_[i]); });
    }
    work(*workers_[0]);
    for (std::thread& helper : helpers) helper.join();
    if (!error_.empty()) throw Error(ErrorKind::device, error_);
    if (watch_.is_stopped() && next_ < order_.count) {
      refuse("kernel " + std::string(job_.kernel->name) + ": " +
             watch_.reason());
    }
    counters_.launches = 1;
    counters_.threadgroups = order_.count;
    counters_.threads = product(job_.grid);
    return counters_;
  }

 private:
  void work(Worker& worker) {
    install_handlers();
    const Watch::Member member(watch_);
    worker.begin(job_, watch_);
    while (!has_failed_ && !watch_.is_stopped()) {
      const uint64_t i = next_++;
      if (i >= order_.count) break;
      std::string problem = worker.execute(order_.at(i));
      if (problem.empty()) continue;
      const std::lock_guard lock(mutex_);
      if (!has_failed_.exchange(true)) error_ = "simulator: " + problem;
    }
    const std::lock_guard lock(mutex_);
    counters_ += from(worker.counters());
  }

  const Job& job_;
  Watch& watch_;
  std::vector<std::unique_ptr<Worker>>& workers_;
  Order order_;
  std::atomic<uint64_t> next_{0};
  std::atomic<bool> has_failed_{false};
  std::mutex mutex_;
  std::string error_;
  Counters counters_;
};

class SimDevice : public device::Device {
 public:
  SimDevice() {
    for (size_t i = 0; i < limits_.size(); ++i) {
      limits_[i].family = static_cast<device::Family>(i);
    }
  }

  std::string name() const override { return "Metal simulator"; }

  const device::Limits& limits() const override {
    return limits_[static_cast<size_t>(options().family)];
  }

  std::shared_ptr<const device::Pipeline> pipeline(
      const device::PipelineRequest& request) override {
    std::string key =
        std::string(request.file) + '\0' + std::string(request.entry);
    for (const auto& [name, value] : request.defines) {
      key += '\0' + name + '=' + value;
    }
    key += '\0' + options().compiler;
    {
      const std::lock_guard lock(pipeline_mutex_);
      const auto found = pipelines_.find(key);
      if (found != pipelines_.end()) return found->second;
    }
    // Compiled outside the lock; the text's cache joins equal requests.
    auto made = std::make_shared<SimPipeline>(read_source(
        device::kernel_source(request), std::string(request.entry)));
    const std::lock_guard lock(pipeline_mutex_);
    return pipelines_.emplace(std::move(key), std::move(made)).first->second;
  }

  void submit(std::span<const device::Launch> launches) override {
    if (options().is_idle) return;
    for (const device::Launch& launch : launches) run(launch, options());
  }

  void submit_uncounted(std::span<const device::Launch> launches) override {
    if (options().is_idle) return;
    for (const device::Launch& launch : launches) {
      run(launch, options(), /*is_counted=*/false);
    }
  }

  bool computes() const override { return !options().is_idle; }

  Counters run(const device::Launch& launch,
               const Options& chosen,
               bool is_counted = true,
               const Dispatch* more = nullptr) {
    const std::lock_guard lock(mutex_);
    const Options copy = chosen;
    const Binding binding(launch, copy, more);
    if (product(launch.threadgroups) == 0) return {};
    // PyTorch's kernels end, and in autograd's threads nobody could tell Python
    // why one did not: the caller of backward would get our error instead of
    // KeyboardInterrupt.
    Watch watch(copy.timeout, more != nullptr || is_main_thread());
    Counters counted = Execution(binding.job(), watch, workers_).run();
    binding.add_checked(counted);
    if (std::string problem = binding.damage(); !problem.empty()) {
      refuse(problem);
    }
    if (!is_counted) return counted;
    const std::lock_guard counter_lock(counter_mutex_);
    by_kernel_[binding.job().kernel->name] += counted;
    return counted;
  }

  std::map<std::string, Counters> by_kernel() {
    const std::lock_guard lock(counter_mutex_);
    return by_kernel_;
  }
  void reset() {
    const std::lock_guard lock(counter_mutex_);
    by_kernel_.clear();
  }

  // A fork waits for the launch that runs: the child has none of the threads
  // that hold these.  In the order in which a launch takes them.
  void before_fork() {
    mutex_.lock();
    pipeline_mutex_.lock();
    counter_mutex_.lock();
    hold_compilations();
    hold_buffers();
  }
  void after_fork(bool is_child) {
    go_on_allocating();
    go_on_compiling(is_child);
    counter_mutex_.unlock();
    pipeline_mutex_.unlock();
    mutex_.unlock();
  }

 private:
  std::array<device::Limits, 3> limits_;  // by family
  std::mutex pipeline_mutex_;
  std::map<std::string, std::shared_ptr<const device::Pipeline>> pipelines_;
  std::mutex mutex_;  // one launch at a time
  std::vector<std::unique_ptr<Worker>> workers_;
  std::mutex counter_mutex_;
  std::map<std::string, Counters> by_kernel_;
};

SimDevice& instance() {
  static auto* const device = [] {
    pthread_atfork([] { instance().before_fork(); },
                   [] { instance().after_fork(/*is_child=*/false); },
                   [] { instance().after_fork(/*is_child=*/true); });
    return new SimDevice;
  }();
  return *device;
}

}  // namespace

device::Device& simulator() { return instance(); }

Options& options() {
  static auto* const value = new Options;
  return *value;
}

Counters counters() {
  Counters total;
  for (const auto& [name, counted] : kernel_counters()) total += counted;
  return total;
}

std::map<std::string, Counters> kernel_counters() {
  return instance().by_kernel();
}

void reset_counters() { instance().reset(); }

Counters dispatch(const device::Launch& launch,
                  const Options& options,
                  const Dispatch& more) {
  return instance().run(launch, options, /*is_counted=*/true, &more);
}

std::shared_ptr<const device::Pipeline> compile(const CompileRequest& request) {
  return std::make_shared<SimPipeline>(read_source(request));
}

std::shared_ptr<const device::Pipeline> compile(
    std::string_view text,
    std::string_view entry,
    const std::vector<std::pair<std::string, std::string>>& defines) {
  return compile({std::string(text), std::string(entry), defines});
}

std::string type_name(const ParameterInfo& parameter) {
  const auto name = [&]() -> std::string {
    constexpr const char* integers[] = {"char", "short", "int", "long"};
    const auto size =
        static_cast<size_t>(std::bit_width(parameter.scalar_bytes) - 1);
    switch (parameter.scalar) {
      case Scalar::boolean:
        return "bool";
      case Scalar::signed_integer:
        return integers[size];
      case Scalar::unsigned_integer:
        return std::string("u") + integers[size];
      case Scalar::floating:
        return parameter.scalar_bytes == 2 ? "half" : "float";
      case Scalar::bfloat:
        return "bfloat";
      case Scalar::other:
        break;
    }
    return "type of " + std::to_string(parameter.element_bytes) + " bytes";
  };
  return name() + (parameter.components == 1
                       ? std::string()
                       : std::to_string(parameter.components));
}

KernelInfo info(const device::Pipeline& pipeline) {
  const auto& sim = dynamic_cast<const SimPipeline&>(pipeline);
  const abi::Kernel& kernel = sim.kernel(options().strict);
  KernelInfo out;
  out.name = kernel.name;
  out.max_threads = sim.max_threads_per_threadgroup();
  constexpr const char* kinds[] = {"buffer", "threadgroup", "attribute"};
  constexpr const char* spaces[] = {"device", "constant", "threadgroup",
                                    "thread"};
  for (uint32_t i = 0; i < kernel.parameter_count; ++i) {
    const abi::Parameter& p = kernel.parameters[i];
    out.parameters.push_back({kernel.parameter_names[i], kinds[p.kind],
                              spaces[p.space], p.index, p.is_const != 0,
                              p.element_bytes, p.alignment, p.is_reference != 0,
                              p.scalar, p.scalar_bytes, p.components});
  }
  return out;
}

Counters& Counters::operator+=(const Counters& other) {
  launches += other.launches;
  threadgroups += other.threadgroups;
  threads += other.threads;
  matrix_multiplies += other.matrix_multiplies;
  shuffles += other.shuffles;
  reductions += other.reductions;
  votes += other.votes;
  threadgroup_barriers += other.threadgroup_barriers;
  simdgroup_barriers += other.simdgroup_barriers;
  exponentials += other.exponentials;
  uninitialized_reads += other.uninitialized_reads;
  bank_conflicts += other.bank_conflicts;
  for (int i = 0; i < 3; ++i) {
    loads[i] += other.loads[i];
    stores[i] += other.stores[i];
    load_bytes[i] += other.load_bytes[i];
    store_bytes[i] += other.store_bytes[i];
  }
  for (int i = 0; i < 5; ++i) load_widths[i] += other.load_widths[i];
  return *this;
}

std::vector<std::pair<std::string, uint64_t>> Counters::items() const {
  std::vector<std::pair<std::string, uint64_t>> list = {
      {"launches", launches},
      {"threadgroups", threadgroups},
      {"threads", threads},
      {"matrix_multiplies", matrix_multiplies},
      {"shuffles", shuffles},
      {"reductions", reductions},
      {"votes", votes},
      {"threadgroup_barriers", threadgroup_barriers},
      {"simdgroup_barriers", simdgroup_barriers},
      {"exponentials", exponentials},
      {"uninitialized_reads", uninitialized_reads},
      {"bank_conflicts", bank_conflicts}};
  constexpr const char* spaces[] = {"device", "constant", "threadgroup"};
  for (int i = 0; i < 3; ++i) {
    const std::string space = spaces[i];
    list.emplace_back(space + "_loads", loads[i]);
    list.emplace_back(space + "_stores", stores[i]);
    list.emplace_back(space + "_load_bytes", load_bytes[i]);
    list.emplace_back(space + "_store_bytes", store_bytes[i]);
  }
  for (int i = 0; i < 5; ++i) {
    list.emplace_back("device_loads_of_" + std::to_string(1 << i),
                      load_widths[i]);
  }
  return list;
}

}  // namespace orchard::sim
