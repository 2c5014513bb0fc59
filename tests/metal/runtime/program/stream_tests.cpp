// tests/metal/runtime/program/stream_tests.cpp: PyTorch's streams instead of
// the test's own.
#include <torch/mps.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "device/longest.h"
#include "metal.h"
#include "program/attention.h"
#include "program/check.h"
#include "runtime.h"
#include "streams/mps.h"
#include "torch/mps_stream.h"

namespace standin {
namespace {

using device::StorageMode;

device::Device& pytorchs_gpu() {
  return metal::system_device(torch_ops::mps_stream());
}

void lends_pytorchs_stream_on_its_queue() {
  const Attention attention(StorageMode::private_);
  attention.forward(pytorchs_gpu());
  attention.backward(pytorchs_gpu());
  torch_ops::synchronize_mps();
  expect(attention.forward_error() < 1e-5, "wrong forward");
  expect(attention.backward_error() < 1e-5, "wrong backward");
  expect(calls_off_queue() == 0, "stream used off its queue");
}

// From 2.14 on a thread has a current stream of its own; the work must be in
// that one, and nothing of it in another.
void follows_the_current_stream() {
  for (int index = 0; index < stream_count(); ++index) {
    use_stream(index);
    const Attention attention(StorageMode::private_);
    attention.forward(pytorchs_gpu());
    for (int other = 0; other < stream_count(); ++other) {
      if (other != index) synchronize_stream(other);
    }
    expect(!(attention.forward_error() < 1e-5), "ran in another stream");
    synchronize_stream(index);
    expect(attention.forward_error() < 1e-5, "wrong result");
  }
  expect(calls_off_queue() == 0, "stream used off its queue");
}

void carries_exceptions_out_of_the_streams_queue() {
  const auto fail = [](const metal::OpenEncoder&) {
    expect(is_on_queue(), "not on the queue");
    throw Error(ErrorKind::device, "from inside");
  };
  for (int index = 0; index < stream_count(); ++index) {
    use_stream(index);
    expect_in(
        error_of(ErrorKind::device, [&] { torch_ops::mps_stream().run(fail); }),
        "from inside");
    expect(!is_on_queue(), "still on the queue");
  }
}

void synchronizing_the_stream_reports_a_gpu_error() {
  const Attention attention(StorageMode::private_);
  attention.forward(pytorchs_gpu());
  torch_ops::synchronize_mps();
  attention.backward(pytorchs_gpu());
  faults().is_running = false;
  expect_in(error_of(ErrorKind::device, torch_ops::synchronize_mps),
            pytorch_reports_gpu_errors() ? "error status" : "GPU Timeout");
  faults().is_running = true;
  torch_ops::synchronize_mps();
  attention.forward(pytorchs_gpu());
  torch_ops::synchronize_mps();
  expect(attention.forward_error() < 1e-5, "wrong after recovery");
}

// By PyTorch's own synchronization or else by our next call, never by both.
void a_gpu_error_of_the_stream_is_reported_once() {
  const Attention attention(StorageMode::private_);
  attention.forward(pytorchs_gpu());
  faults().is_running = false;
  bool has_thrown = false;
  try {
    torch::mps::synchronize();
  } catch (const std::runtime_error&) {
    has_thrown = true;
  }
  expect(has_thrown == pytorch_reports_gpu_errors(), "PyTorch's own report");
  faults().is_running = true;
  if (!has_thrown) {
    expect_in(
        error_of(ErrorKind::device, [&] { attention.forward(pytorchs_gpu()); }),
        "failed on the GPU");
  }
  attention.forward(pytorchs_gpu());
  torch_ops::synchronize_mps();
  expect(attention.forward_error() < 1e-5, "wrong after recovery");
}

// A Python thread has no pool: what PyTorch's stream makes for us would stay.
void the_stream_is_used_inside_a_pool() {
  const Attention attention(StorageMode::private_);
  attention.forward(pytorchs_gpu());
  torch_ops::synchronize_mps();
  const Statistics now = statistics();
  expect(now.autoreleased_without_pool == 0, "autoreleased without a pool");
  for (const char* kind : {"MTLCommandBuffer", "MTLComputeCommandEncoder"}) {
    expect(now.live.count(kind) == 0, std::string(kind) + " leaks");
  }
}

void the_stream_is_committed_between_long_launches() {
  for (int index = 0; index < stream_count(); ++index) {
    use_stream(index);
    const Attention attention(StorageMode::private_);
    attention.forward(pytorchs_gpu());
    clear_encoded();
    device::set_longest_seconds(1e-12);
    attention.backward(pytorchs_gpu());
    device::set_longest_seconds(device::kLongestSeconds);
    const std::vector<std::string> messages = encoded();
    expect(std::count(messages.begin(), messages.end(), "commit") > 4,
           "commits");
    torch_ops::synchronize_mps();
    expect(attention.backward_error() < 1e-5, "wrong result");
  }
  expect(calls_off_queue() == 0, "stream used off its queue");
}

constexpr Test kTests[] = {
    TEST(lends_pytorchs_stream_on_its_queue),
    TEST(follows_the_current_stream),
    TEST(carries_exceptions_out_of_the_streams_queue),
    TEST(synchronizing_the_stream_reports_a_gpu_error),
    TEST(a_gpu_error_of_the_stream_is_reported_once),
    TEST(the_stream_is_used_inside_a_pool),
    TEST(the_stream_is_committed_between_long_launches),
};

}  // namespace

std::span<const Test> stream_tests() { return kTests; }

}  // namespace standin
