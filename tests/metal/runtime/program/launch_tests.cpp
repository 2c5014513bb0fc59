// tests/metal/runtime/program/launch_tests.cpp: launches: results, what is
// encoded, what is refused, GPU errors, and objects given back.
#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "device/longest.h"
#include "metal.h"
#include "program/attention.h"
#include "program/check.h"
#include "runtime.h"

namespace standin {
namespace {

using device::StorageMode;

void forward_matches_the_definition(StorageMode mode) {
  const Attention attention(mode);
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
  const Attention attention(mode);
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
  const Attention attention(StorageMode::private_);
  attention.forward(gpu());
  clear_encoded();
  attention.backward(gpu());
  const std::vector<std::string> messages = encoded();
  expect(count(messages, "dispatch") == 3, "dispatches");
  expect(count(messages, "setComputePipelineState") == 3, "pipelines");
  expect(count(messages, "endEncoding") == 0, "the encoder was ended");
}

// The same dispatches in number, and scratch that is given back before they
// run.
void a_spilled_backward_matches_the_definition() {
  const Attention attention(StorageMode::private_);
  attention.forward(gpu());
  source().stream.synchronize();
  clear_encoded();
  attention.spilled_backward(gpu());
  expect(count(encoded(), "dispatch") == 3, "dispatches");
  source().stream.synchronize();
  const double error = attention.backward_error();
  expect(error < 1e-5, "differs by " + std::to_string(error));
  expect(statistics().messages_to_dead == 0, "the scratch went too early");
}

// Nothing of a plan is encoded when one of its kernels cannot be had.
void a_failed_backward_encodes_nothing() {
  const Attention attention(StorageMode::private_);
  attention.forward(gpu());
  source().stream.synchronize();
  clear_encoded();
  faults().is_making_pipelines = false;
  expect_in(error_of(ErrorKind::compile, [&] { attention.backward(gpu()); }),
            "internal error");
  expect(encoded().empty(), "something was encoded");
  faults().is_making_pipelines = true;
  attention.backward(gpu());
  source().stream.synchronize();
  expect(attention.backward_error() < 1e-5, "wrong after recovery");
}

void encodes_in_order_and_leaves_the_encoder_open() {
  const Attention attention(StorageMode::private_);
  attention.forward(gpu());  // the probe's messages come before
  clear_encoded();
  attention.forward(gpu());
  std::vector<std::string> messages = encoded();
  expect(messages.front() == "setComputePipelineState", messages.front());
  expect(messages[1] == "setBuffer 0 +64", messages[1]);
  expect_in(messages.back(), "dispatch");
  for (const std::string& message : messages) {
    expect(message != "endEncoding", "the stream's encoder was ended");
  }
  source().stream.synchronize();
  expect(attention.forward_error() < 1e-5, "wrong result");
}

// A handler costs an allocation and a call on Metal's thread.
void a_command_buffer_gets_one_handler() {
  const Attention attention(StorageMode::private_);
  attention.forward(gpu());
  source().stream.synchronize();
  clear_encoded();
  for (int call = 0; call < 3; ++call) attention.forward(gpu());
  expect(count(encoded(), "addCompletedHandler") == 1, "handlers");
  source().stream.synchronize();
  attention.forward(gpu());
  expect(count(encoded(), "addCompletedHandler") == 2, "the next buffer's");
}

// Of what has run: waiting for it is what makes the number whole.
void the_gpu_tells_how_long_it_worked() {
  const Attention attention(StorageMode::private_);
  const double before = gpu().gpu_seconds();
  attention.forward(gpu());
  expect(gpu().gpu_seconds() == before, "not yet run");
  source().stream.synchronize();
  expect(gpu().gpu_seconds() > before, "it took no time");
}

// Its handler never runs; the next command buffer is watched all the same.
void a_command_buffer_that_is_thrown_away_is_forgotten() {
  const Attention attention(StorageMode::private_);
  attention.forward(gpu());
  source().stream.abandon();
  expect(statistics().live.count("MTLCommandBuffer") == 0, "a leak");
  attention.forward(gpu());
  faults().is_running = false;
  source().stream.synchronize();
  faults().is_running = true;
  expect_in(error_of(ErrorKind::device, [] { metal::throw_gpu_error(gpu()); }),
            "GPU Timeout");
}

// PyTorch's commits leave the object that it lends: only the buffer under it
// changes, and the one before may still run.
void each_buffer_under_the_lent_one_is_watched() {
  const Attention attention(StorageMode::private_);
  attention.forward(gpu());
  source().stream.synchronize();
  clear_encoded();
  for (int buffer = 0; buffer < 3; ++buffer) {
    attention.forward(gpu());
    attention.forward(gpu());
    source().stream.commit();
  }
  expect(count(encoded(), "addCompletedHandler") == 3, "handlers");
  source().stream.synchronize();
  metal::throw_gpu_error(gpu());
}

// Nothing is committed of what takes no time, and everything apart if nothing
// may take any.
void long_launches_get_command_buffers_of_their_own() {
  const Attention attention(StorageMode::private_);
  attention.forward(gpu());
  attention.backward(gpu());
  source().stream.synchronize();
  expect(count(encoded(), "commit") == 1, "the test's own");
  device::set_longest_seconds(1e-12);
  clear_encoded();
  attention.backward(gpu());
  const std::vector<std::string> messages = encoded();
  const size_t buffers = count(messages, "commit") + 1;
  // The first takes no time by what is known of it.
  expect(count(messages, "dispatch") == buffers, "command buffers");
  expect(buffers > 5, "no launch was cut");
  expect(count(messages, "addCompletedHandler") == buffers, "handlers");
  source().stream.synchronize();
  expect(attention.backward_error() < 1e-5, "wrong result");
  expect(statistics().messages_to_dead == 0, "the scratch went too early");
  attention.backward(gpu());
  faults().is_running = false;
  source().stream.synchronize();
  faults().is_running = true;
  expect_in(error_of(ErrorKind::device, [] { metal::throw_gpu_error(gpu()); }),
            "GPU Timeout");
  metal::throw_gpu_error(gpu());  // once
}

void a_concurrent_encoder_gets_barriers() {
  const Attention attention(StorageMode::private_);
  attention.forward(gpu());
  attention.backward(gpu());
  expect(count(encoded(), "memoryBarrier") == 0, "barriers in a serial one");
  source().stream.synchronize();
  faults().is_concurrent = true;
  clear_encoded();
  attention.backward(gpu());
  std::vector<std::string> order;
  for (const std::string& message : encoded()) {
    if (message.starts_with("dispatch")) order.push_back("dispatch");
    if (message.starts_with("memoryBarrier")) order.push_back(message);
  }
  // Scope 1 is buffers.  Before our first launch: PyTorch's; after the last:
  // whatever PyTorch encodes next.
  const std::string barrier = "memoryBarrier 1";
  expect(order == std::vector<std::string>{barrier, "dispatch", barrier,
                                           "dispatch", barrier, "dispatch",
                                           barrier},
         "order");
}

void reports_a_gpu_error_once() {
  const Attention attention(StorageMode::private_);
  attention.forward(gpu());
  faults().is_running = false;
  source().stream.synchronize();
  faults().is_running = true;
  expect_in(error_of(ErrorKind::device, [] { metal::throw_gpu_error(gpu()); }),
            "GPU Timeout");
  metal::throw_gpu_error(gpu());
  attention.forward(gpu());
  source().stream.synchronize();
  expect(attention.forward_error() < 1e-5, "wrong after recovery");
}

void reports_a_gpu_error_at_the_next_submission() {
  const Attention attention(StorageMode::private_);
  attention.forward(gpu());
  faults().is_running = false;
  source().stream.synchronize();
  faults().is_running = true;
  expect_in(error_of(ErrorKind::device, [&] { attention.forward(gpu()); }),
            "failed on the GPU");
}

void takes_a_smaller_tile_when_registers_run_out() {
  const Attention attention(StorageMode::private_);
  for (const char* kernel : {"forward", "backward_dkdv", "backward_dq"}) {
    faults().tiles[kernel] = {.fragments = 1, .slices = 2};
  }
  attention.forward(gpu());
  attention.backward(gpu());
  const int64_t compiled = compilations();
  attention.forward(gpu());
  attention.backward(gpu());
  expect(compilations() == compiled, "the choice was not remembered");
  source().stream.synchronize();
  expect(attention.forward_error() < 1e-5, "wrong result");
  expect(attention.backward_error() < 1e-5, "wrong gradients");
}

// Whichever of the two that share the scratch has no registers.
void a_spilled_backward_takes_smaller_tiles(const char* kernel) {
  const Attention attention(StorageMode::private_);
  faults().tiles[kernel] = {.fragments = 1, .slices = 2};
  attention.forward(gpu());
  attention.spilled_backward(gpu());
  source().stream.synchronize();
  expect(attention.backward_error() < 1e-5, "wrong gradients");
}
void a_spilling_kernel_takes_a_smaller_tile() {
  a_spilled_backward_takes_smaller_tiles("backward_dkdv");
}
void a_kernel_after_a_spill_takes_a_smaller_tile() {
  a_spilled_backward_takes_smaller_tiles("backward_dq_spilled");
}

void plans_a_warm_call_without_allocating() {
  const standin::Attention attention(StorageMode::private_);
  expect(attention.allocations_of_plans(gpu()) > 0, "counted no compilation");
  expect(attention.allocations_of_plans(gpu()) == 0, "a warm plan allocates");
}

void says_that_no_tile_is_small_enough() {
  const Attention attention(StorageMode::private_);
  const auto forward = [&] { attention.forward(gpu()); };
  faults().tiles["forward"] = {.fragments = 1, .slices = 8};
  const std::string text = error_of(ErrorKind::compile, forward);
  expect_in(text, "[KernelCompileError]");
  expect_in(text, "exceeds available temporary registers");
  faults().tiles.clear();
  forward();
}

void says_that_a_threadgroup_is_too_large() {
  const Attention attention(StorageMode::private_);
  faults().max_threads = 16;
  expect_in(error_of(ErrorKind::compile, [&] { attention.forward(gpu()); }),
            "allows 16");
}

void refuses_a_wrong_launch_before_encoding() {
  device::Launch launch;
  launch.pipeline = gpu().pipeline(kProbe);
  launch.threads_per_threadgroup = {32, 1, 1};
  launch.arguments = {{0, device::Access::write, {}, {}}};
  const auto submit = [&] { gpu().submit({&launch, 1}); };
  clear_encoded();
  expect_in(error_of(ErrorKind::device, submit), "bound to nothing");
  launch.arguments.clear();
  launch.threads_per_threadgroup = {4096, 1, 1};
  expect_in(error_of(ErrorKind::device, submit), "4096 threads");
  launch.threads_per_threadgroup = {32, 1, 1};
  launch.threadgroup_bytes = 65536;
  expect_in(error_of(ErrorKind::device, submit), "65536 threadgroup bytes");
  expect(encoded().empty(), "something was encoded");
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
  auto* other = make<Object>("MTLEvent");
  refused(other);
  void* memoryless = new_buffer(64, StorageMode::memoryless);
  expect_in(refused(memoryless), "memoryless");
  void* freed = new_buffer(64, StorageMode::shared);
  expect(metal::buffer_info("test", freed).length_bytes >= 64, "length");
  release(static_cast<Object*>(freed));
  expect_in(refused(freed), "freed");
  expect(statistics().messages_to_dead == 0, "asked a dead object");
}

void neither_leaks_nor_releases_too_much() {
  {
    const Attention attention(StorageMode::private_);
    attention.forward(gpu());
    attention.backward(gpu());
    source().stream.synchronize();
  }
  const auto before = statistics().live;
  for (int round = 0; round < 3; ++round) {
    const Attention attention(StorageMode::private_);
    attention.forward(gpu());
    attention.backward(gpu());
    source().stream.synchronize();
    faults().is_running = false;
    attention.forward(gpu());
    source().stream.synchronize();
    faults().is_running = true;
    error_of(ErrorKind::device, [] { metal::throw_gpu_error(gpu()); });
  }
  const Statistics now = statistics();
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

constexpr Test kTests[] = {
    TEST(forward_on_private_buffers),
    TEST(forward_on_shared_buffers),
    TEST(backward_on_private_buffers),
    TEST(backward_on_shared_buffers),
    TEST(encodes_a_backward_as_three_dispatches),
    TEST(a_spilled_backward_matches_the_definition),
    TEST(a_failed_backward_encodes_nothing),
    TEST(encodes_in_order_and_leaves_the_encoder_open),
    TEST(a_command_buffer_gets_one_handler),
    TEST(the_gpu_tells_how_long_it_worked),
    TEST(a_command_buffer_that_is_thrown_away_is_forgotten),
    TEST(each_buffer_under_the_lent_one_is_watched),
    TEST(long_launches_get_command_buffers_of_their_own),
    TEST(a_concurrent_encoder_gets_barriers),
    TEST(reports_a_gpu_error_once),
    TEST(reports_a_gpu_error_at_the_next_submission),
    TEST(takes_a_smaller_tile_when_registers_run_out),
    TEST(a_spilling_kernel_takes_a_smaller_tile),
    TEST(a_kernel_after_a_spill_takes_a_smaller_tile),
    TEST(plans_a_warm_call_without_allocating),
    TEST(says_that_no_tile_is_small_enough),
    TEST(says_that_a_threadgroup_is_too_large),
    TEST(refuses_a_wrong_launch_before_encoding),
    TEST(refuses_handles_that_are_no_buffers),
    TEST(neither_leaks_nor_releases_too_much),
};

}  // namespace

std::span<const Test> launch_tests() { return kTests; }

}  // namespace standin
