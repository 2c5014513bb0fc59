// tests/metal_runtime/program/stream_tests.cpp: PyTorch's streams instead of
// the test's own.
#include "metal.h"
#include "program/attention.h"
#include "program/check.h"
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
            "GPU Timeout");
  faults().is_running = true;
  torch_ops::synchronize_mps();
}

constexpr Test kTests[] = {
    TEST(lends_pytorchs_stream_on_its_queue),
    TEST(follows_the_current_stream),
    TEST(carries_exceptions_out_of_the_streams_queue),
    TEST(synchronizing_the_stream_reports_a_gpu_error),
};

}  // namespace

std::span<const Test> stream_tests() { return kTests; }

}  // namespace standin
