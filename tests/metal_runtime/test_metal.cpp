// tests/metal_runtime/test_metal.cpp: csrc/device/metal itself, run over the
// stand-in.  One test a process, named on the command line: a process has one
// device, and it is probed once.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "attention.h"
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
  const standin::Attention attention(mode);
  attention.forward(gpu());
  source().stream.synchronize();
  const double error = attention.forward_error();
  expect(error < 1e-5, "differs by " + std::to_string(error));
}
void forward_on_private_buffers() {
  forward_matches_the_definition(StorageMode::private_);
}
void forward_on_shared_buffers() {
  forward_matches_the_definition(StorageMode::shared);
}

void backward_matches_the_definition(StorageMode mode) {
  const standin::Attention attention(mode);
  attention.forward(gpu());
  attention.backward(gpu());
  source().stream.synchronize();
  const double error = attention.backward_error();
  expect(error < 1e-5, "differs by " + std::to_string(error));
}
void backward_on_private_buffers() {
  backward_matches_the_definition(StorageMode::private_);
}
void backward_on_shared_buffers() {
  backward_matches_the_definition(StorageMode::shared);
}

size_t count(const std::vector<std::string>& messages, const char* start) {
  return static_cast<size_t>(
      std::count_if(messages.begin(), messages.end(),
                    [&](const auto& m) { return m.starts_with(start); }));
}

// dk and dv, and dq, read what the first dispatch writes.
void encodes_a_backward_as_three_dispatches() {
  const standin::Attention attention(StorageMode::private_);
  attention.forward(gpu());
  standin::clear_encoded();
  attention.backward(gpu());
  const std::vector<std::string> messages = standin::encoded();
  expect(count(messages, "dispatch") == 3, "dispatches");
  expect(count(messages, "setComputePipelineState") == 3, "pipelines");
  expect(count(messages, "endEncoding") == 0, "the encoder was ended");
}

// Nothing of a plan is encoded when one of its kernels cannot be had.
void a_failed_backward_encodes_nothing() {
  const standin::Attention attention(StorageMode::private_);
  attention.forward(gpu());
  source().stream.synchronize();
  standin::clear_encoded();
  standin::faults().is_making_pipelines = false;
  expect_in(error_of(ErrorKind::compile, [&] { attention.backward(gpu()); }),
            "internal error");
  expect(standin::encoded().empty(), "something was encoded");
  standin::faults().is_making_pipelines = true;
  attention.backward(gpu());
  source().stream.synchronize();
  expect(attention.backward_error() < 1e-5, "wrong after recovery");
}

void encodes_in_order_and_leaves_the_encoder_open() {
  const standin::Attention attention(StorageMode::private_);
  attention.forward(gpu());  // the probe's messages come before
  standin::clear_encoded();
  attention.forward(gpu());
  std::vector<std::string> messages = standin::encoded();
  expect(messages.front() == "setComputePipelineState", messages.front());
  expect(messages[1] == "setBuffer 0 +64", messages[1]);
  expect_in(messages.back(), "dispatch");
  for (const std::string& message : messages) {
    expect(message != "endEncoding", "the stream's encoder was ended");
  }
  source().stream.synchronize();
  expect(attention.forward_error() < 1e-5, "wrong result");
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
  const standin::Attention attention(StorageMode::private_);
  attention.forward(gpu());
  standin::faults().is_running = false;
  source().stream.synchronize();
  standin::faults().is_running = true;
  expect_in(error_of(ErrorKind::device, [] { metal::throw_gpu_error(gpu()); }),
            "GPU Timeout");
  metal::throw_gpu_error(gpu());
  attention.forward(gpu());
  source().stream.synchronize();
  expect(attention.forward_error() < 1e-5, "wrong after recovery");
}

void reports_a_gpu_error_at_the_next_submission() {
  const standin::Attention attention(StorageMode::private_);
  attention.forward(gpu());
  standin::faults().is_running = false;
  source().stream.synchronize();
  standin::faults().is_running = true;
  expect_in(error_of(ErrorKind::device, [&] { attention.forward(gpu()); }),
            "failed on the GPU");
}

void refuses_a_foreign_lane_layout() {
  sim::options().has_foreign_layout = true;
  expect_in(error_of(ErrorKind::unsupported, [] { gpu().pipeline(kProbe); }),
            "simdgroup matrix");
}

void takes_a_smaller_tile_when_registers_run_out() {
  const standin::Attention attention(StorageMode::private_);
  standin::faults().max_threads = 64;
  attention.forward(gpu());
  expect_in(standin::encoded().back(), " x 64");
  source().stream.synchronize();
  expect(attention.forward_error() < 1e-5, "wrong result");
}

void plans_a_warm_call_without_allocating() {
  const standin::Attention attention(StorageMode::private_);
  expect(attention.allocations_of_plans(gpu()) > 0, "counted no compilation");
  expect(attention.allocations_of_plans(gpu()) == 0, "a warm plan allocates");
}

void says_that_no_tile_is_small_enough() {
  const standin::Attention attention(StorageMode::private_);
  standin::faults().max_threads = 16;
  expect_in(error_of(ErrorKind::unsupported, [&] { attention.forward(gpu()); }),
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
    const standin::Attention attention(StorageMode::private_);
    attention.forward(gpu());
    attention.backward(gpu());
    source().stream.synchronize();
  }
  const auto before = standin::statistics().live;
  for (int round = 0; round < 3; ++round) {
    const standin::Attention attention(StorageMode::private_);
    attention.forward(gpu());
    attention.backward(gpu());
    source().stream.synchronize();
    standin::faults().is_running = false;
    attention.forward(gpu());
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

// PyTorch's streams instead of the test's own.
device::Device& pytorchs_gpu() {
  return metal::system_device(torch_ops::mps_stream());
}

void lends_pytorchs_stream_on_its_queue() {
  const standin::Attention attention(StorageMode::private_);
  attention.forward(pytorchs_gpu());
  attention.backward(pytorchs_gpu());
  torch_ops::synchronize_mps();
  expect(attention.forward_error() < 1e-5, "wrong forward");
  expect(attention.backward_error() < 1e-5, "wrong backward");
  expect(standin::calls_off_queue() == 0, "stream used off its queue");
}

// From 2.14 on a thread has a current stream of its own; the work must be in
// that one, and nothing of it in another.
void follows_the_current_stream() {
  for (int index = 0; index < standin::stream_count(); ++index) {
    standin::use_stream(index);
    const standin::Attention attention(StorageMode::private_);
    attention.forward(pytorchs_gpu());
    for (int other = 0; other < standin::stream_count(); ++other) {
      if (other != index) standin::synchronize_stream(other);
    }
    expect(!(attention.forward_error() < 1e-5), "ran in another stream");
    standin::synchronize_stream(index);
    expect(attention.forward_error() < 1e-5, "wrong result");
  }
  expect(standin::calls_off_queue() == 0, "stream used off its queue");
}

void carries_exceptions_out_of_the_streams_queue() {
  const auto fail = [](const metal::OpenEncoder&) {
    expect(standin::is_on_queue(), "not on the queue");
    throw Error(ErrorKind::device, "from inside");
  };
  for (int index = 0; index < standin::stream_count(); ++index) {
    standin::use_stream(index);
    expect_in(
        error_of(ErrorKind::device, [&] { torch_ops::mps_stream().run(fail); }),
        "from inside");
    expect(!standin::is_on_queue(), "still on the queue");
  }
}

void synchronizing_the_stream_reports_a_gpu_error() {
  const standin::Attention attention(StorageMode::private_);
  attention.forward(pytorchs_gpu());
  torch_ops::synchronize_mps();
  attention.backward(pytorchs_gpu());
  standin::faults().is_running = false;
  expect_in(error_of(ErrorKind::device, torch_ops::synchronize_mps),
            "GPU Timeout");
  standin::faults().is_running = true;
  torch_ops::synchronize_mps();
}

#define TEST(name) {#name, name}
const std::pair<const char*, void (*)()> kTests[] = {
    TEST(reads_the_limits_of_the_device),
    TEST(tells_families_apart),
    TEST(refuses_a_gpu_that_is_too_old),
    TEST(says_that_there_is_no_device),
    TEST(forward_on_private_buffers),
    TEST(forward_on_shared_buffers),
    TEST(backward_on_private_buffers),
    TEST(backward_on_shared_buffers),
    TEST(encodes_a_backward_as_three_dispatches),
    TEST(a_failed_backward_encodes_nothing),
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
    TEST(plans_a_warm_call_without_allocating),
    TEST(says_that_no_tile_is_small_enough),
    TEST(refuses_a_wrong_launch_before_encoding),
    TEST(refuses_handles_that_are_no_buffers),
    TEST(finds_the_device_of_a_buffer),
    TEST(compiles_once_for_many_threads),
    TEST(neither_leaks_nor_releases_too_much),
    TEST(lends_pytorchs_stream_on_its_queue),
    TEST(follows_the_current_stream),
    TEST(carries_exceptions_out_of_the_streams_queue),
    TEST(synchronizing_the_stream_reports_a_gpu_error),
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
