// csrc/device/metal/layout_probe.cpp: see layout_probe.h.
#include "device/metal/layout_probe.h"

#include "device/metal/metal.h"

namespace orchard::metal {
namespace {

constexpr size_t kLanes = 32;

[[noreturn]] void fail(const std::string& what) {
  throw Error(ErrorKind::device, "[metal] lane layout probe: " + what);
}

// Fills `matches`, one word a lane, and waits for the GPU.
void run(MTL::Device* device, const Pipeline& probe, MTL::Buffer* matches) {
  const auto queue = NS::TransferPtr(device->newCommandQueue());
  if (!queue) fail("the device gave no command queue");
  MTL::CommandBuffer* commands = queue->commandBuffer();
  MTL::ComputeCommandEncoder* encoder =
      commands == nullptr ? nullptr : commands->computeCommandEncoder();
  if (encoder == nullptr) fail("the device gave no encoder");
  encoder->setComputePipelineState(probe.state());
  encoder->setBuffer(matches, 0, 0);
  encoder->dispatchThreadgroups(MTL::Size::Make(1, 1, 1),
                                MTL::Size::Make(kLanes, 1, 1));
  encoder->endEncoding();
  commands->commit();
  commands->waitUntilCompleted();
  if (commands->status() != MTL::CommandBufferStatusCompleted) {
    fail(to_std(commands->error()));
  }
}

}  // namespace

device::PipelineRequest lane_layout_request() {
  return {"layout_probe.metal", "layout_probe", {}};
}

void check_lane_layout(MTL::Device* device, const Pipeline& probe) {
  const AutoreleaseScope scope;
  const auto matches = NS::TransferPtr(device->newBuffer(
      kLanes * sizeof(uint32_t), MTL::ResourceStorageModeShared));
  if (!matches) fail("the device gave no buffer of 128 bytes");
  run(device, probe, matches.get());
  const auto* lanes = static_cast<const uint32_t*>(matches->contents());
  size_t wrong = 0;
  for (size_t lane = 0; lane < kLanes; ++lane) wrong += lanes[lane] != 1;
  if (wrong == 0) return;
  throw Error(ErrorKind::unsupported,
              "[metal] " + std::to_string(wrong) + " of 32 lanes of " +
                  to_std(device->name()) +
                  " hold other elements of a simdgroup matrix than the "
                  "kernels assume, so results would be wrong: please report "
                  "this GPU, and use PyTorch's own attention on it");
}

}  // namespace orchard::metal
