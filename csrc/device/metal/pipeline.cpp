// csrc/device/metal/pipeline.cpp: from a kernel's text to a pipeline state.
#include "device/metal/pipeline.h"

#include "device/kernel_source.h"
#include "device/metal/metal.h"

namespace orchard::metal {
namespace {

NS::SharedPtr<MTL::CompileOptions> compile_options() {
  auto options = NS::TransferPtr(MTL::CompileOptions::alloc()->init());
  options->setLanguageVersion(
      static_cast<MTL::LanguageVersion>(language_version()));
  // A NaN in an input must reach the output; kernels name fast:: functions
  // where they want them.
  if (is_macos_at_least(15)) {
    options->setMathMode(MTL::MathModeSafe);
    options->setMathFloatingPointFunctions(
        MTL::MathFloatingPointFunctionsPrecise);
  } else {
    options->setFastMathEnabled(false);
  }
  return options;
}

[[noreturn]] void fail(const device::PipelineRequest& request,
                       const char* step,
                       const std::string& reason,
                       ErrorKind kind = ErrorKind::compile) {
  const uint32_t version = language_version();
  throw Error(kind, "[metal] " + std::string(request.entry) + " (" +
                        std::string(request.file) + ", Metal " +
                        std::to_string(version >> 16) + "." +
                        std::to_string(version & 0xffff) + ") " + step + ": " +
                        reason);
}

std::shared_ptr<const Pipeline> compile(
    MTL::Device* device, const device::PipelineRequest& request) {
  const AutoreleaseScope scope;
  const std::string name(request.entry);
  NS::Error* error = nullptr;
  // With a library, an error is only a warning.
  const auto library = NS::TransferPtr(device->newLibrary(
      to_ns(device::kernel_source(request)), compile_options().get(), &error));
  if (!library) fail(request, "does not compile", to_std(error));
  const auto function = NS::TransferPtr(library->newFunction(to_ns(name)));
  if (!function) fail(request, "is missing", "the text has no such kernel");
  error = nullptr;
  auto state =
      NS::TransferPtr(device->newComputePipelineState(function.get(), &error));
  if (!state) {
    // Without defines, as the probe, a kernel has no other form to try.
    fail(request, "gives no pipeline", to_std(error),
         request.defines.empty() ? ErrorKind::compile : ErrorKind::pipeline);
  }
  return std::make_shared<Pipeline>(std::move(state), name);
}

// All that changes the text, apart from what the library carries.
std::string content_key(const device::PipelineRequest& request) {
  std::string key(request.file);
  key.append(1, '\0').append(request.entry);
  for (const auto& [name, value] : request.defines) {
    key.append(1, '\0').append(name).append(1, '=').append(value);
  }
  return key;
}

}  // namespace

uint32_t language_version() {
  const AutoreleaseScope scope;
  if (is_macos_at_least(15)) return MTL::LanguageVersion3_2;
  if (is_macos_at_least(14)) return MTL::LanguageVersion3_1;
  if (is_macos_at_least(13)) return MTL::LanguageVersion3_0;
  throw Error(ErrorKind::unsupported,
              "[metal] needs macOS 13 or newer (Metal 3.0)");
}

std::shared_ptr<PipelineCache::Entry> PipelineCache::entry(
    const device::PipelineRequest& request) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::shared_ptr<Entry>& found = entries_[content_key(request)];
  if (!found) found = std::make_shared<Entry>();
  return found;
}

std::shared_ptr<const Pipeline> PipelineCache::get(
    MTL::Device* device, const device::PipelineRequest& request) {
  const std::shared_ptr<Entry> slot = entry(request);
  const std::lock_guard<std::mutex> lock(slot->mutex);
  if (!slot->pipeline) slot->pipeline = compile(device, request);
  return slot->pipeline;
}

}  // namespace orchard::metal
