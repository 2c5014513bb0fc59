// csrc/torch/installation.cpp: see installation.h.
#include "torch/installation.h"

#include <mutex>
#include <sstream>
#include <utility>

#include "device/kernel_source.h"
#include "device/user_cache.h"

namespace orchard::torch_ops {
namespace {

std::mutex installation_mutex;
std::string versions;

std::string kernels_digest() {
  std::string all;
  for (const device::EmbeddedText& text : device::embedded_texts()) {
    if (text.path.substr(0, 8) == "kernels/") all += text.text;
  }
  return device::digest(all);
}

}  // namespace

std::string installation(const device::Device& device) {
  static const std::string texts = kernels_digest();
  const std::lock_guard<std::mutex> lock(installation_mutex);
  return device.name() + "\n" + device::system_build() + "\n" + versions +
         "\n" + texts + "\n";
}

void set_versions(std::string text) {
  const std::lock_guard<std::mutex> lock(installation_mutex);
  versions = std::move(text);
}

}  // namespace orchard::torch_ops
