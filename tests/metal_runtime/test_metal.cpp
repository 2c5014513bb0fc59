// tests/metal_runtime/test_metal.cpp: csrc/device/metal itself, run over the
// stand-in.  One test a process, named on the command line: a process has one
// device, and it is probed once.
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "attention/plan.h"
#include "device/metal/metal.h"
#include "device/sim/sim.h"
#include "metal.h"
#include "mps.h"
#include "runtime.h"
#include "torch/mps_stream.h"

namespace {

using namespace orchard;
using device::StorageMode;

struct Mismatch : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void expect(bool is_true, const std::string& what) {
  if (!is_true) throw Mismatch(what);
}

// What an error says; fails if none comes, or another kind.
std::string error_of(ErrorKind kind, const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    expect(error.kind() == kind, std::string("wrong kind: ") + error.what());
    return error.what();
  }
  throw Mismatch("expected an error, none came");
}

void expect_in(const std::string& text, const std::string& part) {
  expect(text.find(part) != text.npos, "\"" + part + "\" not in: " + text);
}

class TestSource final : public metal::EncoderSource {
 public:
  void run(const Encode& encode) override {
    encode({stream.command_buffer(), stream.compute_encoder()});
  }
  standin::Stream stream;
};

TestSource& source() {
  static TestSource& it = *new TestSource;
  return it;
}

device::Device& gpu() { return metal::system_device(source()); }

// One head of attention with its buffers, private and at an odd offset.
struct Attention {
  static constexpr int64_t kRows = 40, kDim = 16;
  static constexpr uint64_t kOffset = 64;

  attention::Problem problem;
  std::array<std::vector<float>, 3> inputs;
  std::array<void*, 5> buffers{};  // q, k, v, out, lse

  explicit Attention(StorageMode mode) {
    problem = attention::make_problem(
        {{1, 1, kRows, kDim}, {1, 1, kRows, kDim}, {1, 1, kRows, kDim}},
        attention::DType::float32, 0.25, 1);
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < 5; ++i) {
      buffers[i] = standin::new_buffer(kOffset + 4 * kRows * kDim, mode);
    }
    for (size_t i = 0; i < 3; ++i) {
      inputs[i].resize(kRows * kDim);
      for (float& x : inputs[i]) x = normal(random);
      std::vector<float> bytes(kOffset / 4);
      bytes.insert(bytes.end(), inputs[i].begin(), inputs[i].end());
      standin::write_buffer(buffers[i], bytes.data(), 4 * bytes.size());
    }
  }
  ~Attention() {
    for (void* buffer : buffers) {
      standin::release(static_cast<standin::Object*>(buffer));
    }
  }

  device::BufferView view(size_t i) const {
    const auto info = metal::buffer_info("test", buffers[i]);
    return {buffers[i], kOffset, 4 * kRows * kDim, info.mode};
  }

  void submit() const {
    attention::Tensors tensors;
    const std::array<int64_t, 4> strides{0, 0, kDim, 1};
    tensors.q = {strides, view(0)};
    tensors.k = {strides, view(1)};
    tensors.v = {strides, view(2)};
    tensors.out = {strides, view(3)};
    tensors.lse = view(4);
    attention::Plan plan;
    attention::plan_forward(gpu(), problem, tensors, plan);
    gpu().submit(plan.launches);
  }

  // Largest difference from the definition, top-left causal.
  double error() const {
    std::vector<float> out(kOffset / 4 + kRows * kDim);
    standin::read_buffer(buffers[3], out.data(), 4 * out.size());
    double worst = 0;
    for (int64_t row = 0; row < kRows; ++row) {
      std::vector<double> weights;
      double sum = 0;
      for (int64_t column = 0; column <= row; ++column) {
        double score = 0;
        for (int64_t d = 0; d < kDim; ++d) {
          score += double{at(0, row, d)} * double{at(1, column, d)};
        }
        weights.push_back(std::exp(0.25 * score));
        sum += weights.back();
      }
      for (int64_t d = 0; d < kDim; ++d) {
        double exact = 0;
        for (int64_t column = 0; column <= row; ++column) {
          exact += weights[static_cast<size_t>(column)] / sum *
                   double{at(2, column, d)};
        }
        const auto place = static_cast<size_t>(row * kDim + d) + kOffset / 4;
        worst = std::max(worst, std::fabs(exact - double{out[place]}));
      }
    }
    return worst;
  }
  float at(size_t tensor, int64_t row, int64_t d) const {
    return inputs[tensor][static_cast<size_t>(row * kDim + d)];
  }
};

const device::PipelineRequest kProbe{"layout_probe.metal", "layout_probe", {}};

void reads_the_limits_of_the_device() {
  expect(gpu().name() == "Simulated Apple GPU", "name: " + gpu().name());
  const device::Limits& limits = gpu().limits();
  expect(limits.max_threadgroup_bytes == 32768, "threadgroup bytes");
  expect(limits.max_threads_per_threadgroup == 1024, "threads");
  expect(limits.family == device::Family::a && limits.has_bfloat, "family");
}

void tells_families_apart() {
  standin::faults().family = 9;
  expect(gpu().limits().family == device::Family::b, "Apple9 is class b");
}

void refuses_a_gpu_that_is_too_old() {
  standin::faults().family = 6;
  expect_in(error_of(ErrorKind::unsupported, [] { gpu(); }), "M1");
}

void says_that_there_is_no_device() {
  standin::faults().has_device = false;
  expect_in(error_of(ErrorKind::device, [] { gpu(); }), "no Metal device");
  standin::faults().has_device = true;
  gpu();
}

void forward_matches_the_definition(StorageMode mode) {
  const Attention attention(mode);
  attention.submit();
  source().stream.synchronize();
  const double error = attention.error();
  expect(error < 1e-5, "differs by " + std::to_string(error));
}
void forward_on_private_buffers() {
  forward_matches_the_definition(StorageMode::private_);
}
void forward_on_shared_buffers() {
  forward_matches_the_definition(StorageMode::shared);
}

void encodes_in_order_and_leaves_the_encoder_open() {
  const Attention attention(StorageMode::private_);
  attention.submit();  // the probe's messages come before
  standin::clear_encoded();
  attention.submit();
  std::vector<std::string> messages = standin::encoded();
  expect(messages.front() == "setComputePipelineState", messages.front());
  expect(messages[1] == "setBuffer 0 +64", messages[1]);
  expect_in(messages.back(), "dispatch");
  for (const std::string& message : messages) {
    expect(message != "endEncoding", "the stream's encoder was ended");
  }
  source().stream.synchronize();
  expect(attention.error() < 1e-5, "wrong result");
}

void chooses_language_and_math(int macos,
                               uint32_t language,
                               int64_t mode,
                               int fast) {
  standin::faults().macos = macos;
  standin::apply_faults();
  gpu().pipeline(kProbe);
  const standin::Compilation given = standin::last_compilation();
  expect(given.language_version == language, "language version");
  expect(given.math_mode == mode, "math mode");
  expect(given.is_fast_math == fast, "fast math");
  expect(gpu().limits().has_bfloat == (language > 0x30000), "bfloat");
}
void compiles_for_macos_13() { chooses_language_and_math(13, 0x30000, -1, 0); }
void compiles_for_macos_14() { chooses_language_and_math(14, 0x30001, -1, 0); }
void compiles_for_macos_15() { chooses_language_and_math(15, 0x30002, 0, -1); }
void compiles_for_macos_26() { chooses_language_and_math(26, 0x30002, 0, -1); }

void refuses_macos_12() {
  standin::faults().macos = 12;
  standin::apply_faults();
  expect_in(error_of(ErrorKind::unsupported, [] { gpu(); }), "macOS 13");
}

// A step of making a pipeline fails, says why, and is tried again.
void recovers(bool standin::Faults::* fault, const std::string& words) {
  standin::faults().*fault = false;
  expect_in(error_of(ErrorKind::compile, [] { gpu().pipeline(kProbe); }),
            words);
  standin::faults().*fault = true;
  gpu().pipeline(kProbe);
}
void carries_the_compilers_text() {
  recovers(&standin::Faults::is_compiling, "use of undeclared name");
}
void says_that_a_kernel_is_missing() {
  recovers(&standin::Faults::has_function, "no such kernel");
}
void carries_the_pipelines_text() {
  recovers(&standin::Faults::is_making_pipelines, "internal error");
}

void survives_a_refused_allocation() {
  standin::faults().is_allocating = false;
  expect_in(error_of(ErrorKind::device, [] { gpu().pipeline(kProbe); }),
            "no buffer");
  standin::faults().is_allocating = true;
  gpu().pipeline(kProbe);
}

void reports_a_gpu_error_once() {
  const Attention attention(StorageMode::private_);
  attention.submit();
  standin::faults().is_running = false;
  source().stream.synchronize();
  standin::faults().is_running = true;
  expect_in(error_of(ErrorKind::device, [] { metal::throw_gpu_error(gpu()); }),
            "GPU Timeout");
  metal::throw_gpu_error(gpu());
  attention.submit();
  source().stream.synchronize();
  expect(attention.error() < 1e-5, "wrong after recovery");
}

void reports_a_gpu_error_at_the_next_submission() {
  const Attention attention(StorageMode::private_);
  attention.submit();
  standin::faults().is_running = false;
  source().stream.synchronize();
  standin::faults().is_running = true;
  expect_in(error_of(ErrorKind::device, [&] { attention.submit(); }),
            "failed on the GPU");
}

void refuses_a_foreign_lane_layout() {
  sim::options().has_foreign_layout = true;
  expect_in(error_of(ErrorKind::unsupported, [] { gpu().pipeline(kProbe); }),
            "simdgroup matrix");
}

void takes_a_smaller_tile_when_registers_run_out() {
  const Attention attention(StorageMode::private_);
  standin::faults().max_threads = 64;
  attention.submit();
  expect_in(standin::encoded().back(), " x 64");
  source().stream.synchronize();
  expect(attention.error() < 1e-5, "wrong result");
}

void says_that_no_tile_is_small_enough() {
  const Attention attention(StorageMode::private_);
  standin::faults().max_threads = 16;
  expect_in(error_of(ErrorKind::unsupported, [&] { attention.submit(); }),
            "allows 16");
}

void refuses_a_wrong_launch_before_encoding() {
  device::Launch launch;
  launch.pipeline = gpu().pipeline(kProbe);
  launch.threads_per_threadgroup = {32, 1, 1};
  launch.arguments = {{0, device::Access::write, {}, {}}};
  const auto submit = [&] { gpu().submit({&launch, 1}); };
  standin::clear_encoded();
  expect_in(error_of(ErrorKind::device, submit), "bound to nothing");
  launch.arguments.clear();
  launch.threads_per_threadgroup = {4096, 1, 1};
  expect_in(error_of(ErrorKind::device, submit), "4096 threads");
  launch.threads_per_threadgroup = {32, 1, 1};
  launch.threadgroup_bytes = 65536;
  expect_in(error_of(ErrorKind::device, submit), "65536 threadgroup bytes");
  expect(standin::encoded().empty(), "something was encoded");
}

void refuses_handles_that_are_no_buffers() {
  const auto refused = [](const void* handle) {
    return error_of(ErrorKind::device,
                    [&] { metal::buffer_info("test", handle); });
  };
  alignas(16) std::array<uint64_t, 4> words{1, 2, 3, 4};
  expect_in(refused(nullptr), "tensor.to('mps')");
  refused(words.data());
  refused(reinterpret_cast<void*>(uintptr_t{0x10}));  // not mapped
  refused(reinterpret_cast<void*>(uintptr_t{0x1233}));
  auto* other = standin::make<standin::Object>("MTLEvent");
  refused(other);
  void* memoryless = standin::new_buffer(64, StorageMode::memoryless);
  expect_in(refused(memoryless), "memoryless");
  void* freed = standin::new_buffer(64, StorageMode::shared);
  expect(metal::buffer_info("test", freed).length_bytes >= 64, "length");
  standin::release(static_cast<standin::Object*>(freed));
  expect_in(refused(freed), "freed");
  expect(standin::statistics().messages_to_dead == 0, "asked a dead object");
}

void finds_the_device_of_a_buffer() {
  void* buffer = standin::new_buffer(64, StorageMode::shared);
  expect(&metal::device_of(buffer, source()) == &gpu(), "two devices");
}

void compiles_once_for_many_threads() {
  gpu();
  std::vector<std::thread> threads;
  std::vector<std::shared_ptr<const device::Pipeline>> made(8);
  for (size_t i = 0; i < made.size(); ++i) {
    threads.emplace_back([&, i] { made[i] = gpu().pipeline(kProbe); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& pipeline : made) expect(pipeline == made[0], "two objects");
  expect(standin::compilations() == 1, "compiled more than once");
}

void neither_leaks_nor_releases_too_much() {
  {
    const Attention attention(StorageMode::private_);
    attention.submit();
    source().stream.synchronize();
  }
  const auto before = standin::statistics().live;
  for (int round = 0; round < 3; ++round) {
    const Attention attention(StorageMode::private_);
    attention.submit();
    attention.submit();
    source().stream.synchronize();
    standin::faults().is_running = false;
    attention.submit();
    source().stream.synchronize();
    standin::faults().is_running = true;
    error_of(ErrorKind::device, [] { metal::throw_gpu_error(gpu()); });
  }
  const standin::Statistics now = standin::statistics();
  for (const auto& [kind, count] : now.live) {
    const auto was = before.find(kind);
    const int64_t old = was == before.end() ? 0 : was->second;
    expect(count <= old, kind + " leaks: " + std::to_string(count - old));
  }
  // What compiling and encoding need for a moment, at the first call too.
  for (const char* kind : {"MTLCompileOptions", "MTLLibrary", "MTLFunction",
                           "MTLCommandBuffer", "MTLComputeCommandEncoder",
                           "NSString", "NSError", "NSAutoreleasePool"}) {
    expect(now.live.count(kind) == 0, std::string(kind) + " leaks");
  }
  expect(now.over_releases == 0, "released too often");
  expect(now.messages_to_dead == 0, "message to a dead object");
  expect(now.autoreleased_without_pool == 0, "autoreleased without a pool");
}

// PyTorch's stream instead of the test's own.
void lends_pytorchs_encoder_on_its_queue() {
  device::Device& device = metal::system_device(torch_ops::mps_stream());
  device::Launch launch;
  launch.pipeline = device.pipeline(kProbe);
  launch.threads_per_threadgroup = {32, 1, 1};
  void* matches = standin::new_buffer(128, StorageMode::private_);
  launch.arguments = {{0, device::Access::write, {matches, 0, 128}, {}}};
  device.submit({&launch, 1});
  torch_ops::synchronize_mps();
  std::array<uint32_t, 32> lanes{};
  standin::read_buffer(matches, lanes.data(), sizeof(lanes));
  for (const uint32_t lane : lanes) expect(lane == 1, "kernel did not run");
  expect(standin::calls_off_queue() == 0, "stream used off its queue");
}

void carries_exceptions_out_of_the_queue() {
  const auto fail = [](const metal::OpenEncoder&) {
    expect(standin::is_on_queue(), "not on the queue");
    throw Error(ErrorKind::device, "from inside");
  };
  expect_in(
      error_of(ErrorKind::device, [&] { torch_ops::mps_stream().run(fail); }),
      "from inside");
  expect(!standin::is_on_queue(), "still on the queue");
}

void synchronizing_reports_a_gpu_error() {
  lends_pytorchs_encoder_on_its_queue();
  device::Device& device = metal::system_device(torch_ops::mps_stream());
  device::Launch launch;
  launch.pipeline = device.pipeline(kProbe);
  launch.threads_per_threadgroup = {32, 1, 1};
  device.submit({&launch, 1});
  standin::faults().is_running = false;
  expect_in(error_of(ErrorKind::device, torch_ops::synchronize_mps),
            "GPU Timeout");
}

#define TEST(name) {#name, name}
const std::pair<const char*, void (*)()> kTests[] = {
    TEST(reads_the_limits_of_the_device),
    TEST(tells_families_apart),
    TEST(refuses_a_gpu_that_is_too_old),
    TEST(says_that_there_is_no_device),
    TEST(forward_on_private_buffers),
    TEST(forward_on_shared_buffers),
    TEST(encodes_in_order_and_leaves_the_encoder_open),
    TEST(compiles_for_macos_13),
    TEST(compiles_for_macos_14),
    TEST(compiles_for_macos_15),
    TEST(compiles_for_macos_26),
    TEST(refuses_macos_12),
    TEST(carries_the_compilers_text),
    TEST(says_that_a_kernel_is_missing),
    TEST(carries_the_pipelines_text),
    TEST(survives_a_refused_allocation),
    TEST(reports_a_gpu_error_once),
    TEST(reports_a_gpu_error_at_the_next_submission),
    TEST(refuses_a_foreign_lane_layout),
    TEST(takes_a_smaller_tile_when_registers_run_out),
    TEST(says_that_no_tile_is_small_enough),
    TEST(refuses_a_wrong_launch_before_encoding),
    TEST(refuses_handles_that_are_no_buffers),
    TEST(finds_the_device_of_a_buffer),
    TEST(compiles_once_for_many_threads),
    TEST(neither_leaks_nor_releases_too_much),
    TEST(lends_pytorchs_encoder_on_its_queue),
    TEST(carries_exceptions_out_of_the_queue),
    TEST(synchronizing_reports_a_gpu_error),
};

}  // namespace

// Without a name, lists the tests.
int main(int count, char** arguments) {
  for (const auto& [name, run] : kTests) {
    if (count < 2) {
      std::puts(name);
      continue;
    }
    if (std::strcmp(name, arguments[1]) != 0) continue;
    try {
      run();
      return 0;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s: %s\n", name, error.what());
      return 1;
    }
  }
  return count < 2 ? 0 : 2;
}
