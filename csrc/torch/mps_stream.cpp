// csrc/torch/mps_stream.cpp: the one pattern that is right on PyTorch 2.1 to
// 2.15: hop onto the stream's queue, take the encoder that PyTorch holds open,
// set and dispatch, leave it open.
#include "torch/mps_stream.h"

#include <dispatch/dispatch.h>
#include <torch/mps.h>

#include <exception>

#define ORCHARD_TORCH_AT_LEAST(minor) \
  (ORCHARD_TORCH_MAJOR > 2 || ORCHARD_TORCH_MINOR >= (minor))

#if ORCHARD_TORCH_AT_LEAST(7)
#include <ATen/mps/MPSStream.h>
#else
// That header is Objective-C++ before 2.7.  Only these members are called, and
// a mangled name spells no return type, so this much of the class links.
namespace at::mps {
enum class SyncType { NONE, COMMIT };
class MPSStream {
 public:
  void* commandBuffer();
  void* commandEncoder();
  void synchronize(SyncType type);
};
MPSStream* getCurrentMPSStream();
}  // namespace at::mps
#endif

namespace orchard::torch_ops {
namespace {

dispatch_queue_t queue_of([[maybe_unused]] at::mps::MPSStream* stream) {
#if ORCHARD_TORCH_AT_LEAST(7)
  // 2.14 has many streams, and torch::mps knows only the default one's queue.
  return stream->queue();
#else
  return static_cast<dispatch_queue_t>(torch::mps::get_dispatch_queue());
#endif
}

[[noreturn]] void fail_as(const std::exception& error) {
  throw Error(ErrorKind::device,
              "[metal] a command buffer failed on the GPU, so results since "
              "the last synchronization are not valid; PyTorch says: " +
                  std::string(error.what()));
}

metal::OpenEncoder open_encoder(at::mps::MPSStream* stream) {
  // The buffer first: it must be the one that the encoder belongs to.
  void* const buffer = stream->commandBuffer();
  return {buffer, stream->commandEncoder()};
}

struct Call {
  const metal::EncoderSource::Encode& encode;
  at::mps::MPSStream* stream;
  std::exception_ptr failure;
};

// On the queue.  No exception may cross libdispatch's frames.
void encode_on_queue(void* context) noexcept {
  auto& call = *static_cast<Call*>(context);
  // Before the stream is asked: what it makes, it autoreleases.
  const metal::AutoreleaseScope scope;
  try {
    call.encode(open_encoder(call.stream));
  } catch (...) {
    call.failure = std::current_exception();
  }
}

class MpsStream final : public metal::EncoderSource {
 public:
  void run(const Encode& encode) override {
    at::mps::MPSStream* const stream = at::mps::getCurrentMPSStream();
    Call call{encode, stream, nullptr};
    dispatch_sync_f(queue_of(stream), &call, encode_on_queue);
    if (call.failure) std::rethrow_exception(call.failure);
  }

  // What torch::mps::commit() does, which asks for the default stream before
  // PyTorch 2.15.  Tensors stay safe: memory that is freed meanwhile is used
  // again by later work of the same queue only.
  metal::OpenEncoder commit() override {
    at::mps::MPSStream* const stream = at::mps::getCurrentMPSStream();
    try {
      stream->synchronize(at::mps::SyncType::COMMIT);
    } catch (const std::exception& error) {
      fail_as(error);
    }
    return open_encoder(stream);
  }

  // PyTorch 2.15 throws from its synchronization if a command buffer failed.
  bool reports_gpu_errors() const override {
    return ORCHARD_TORCH_AT_LEAST(15);
  }
};

}  // namespace

metal::EncoderSource& mps_stream() {
  static MpsStream stream;
  return stream;
}

void synchronize_mps() {
  const metal::AutoreleaseScope scope;
  try {
    torch::mps::synchronize();
  } catch (const std::exception& error) {
    fail_as(error);
  }
  metal::throw_gpu_error(metal::system_device(mps_stream()));
}

}  // namespace orchard::torch_ops
