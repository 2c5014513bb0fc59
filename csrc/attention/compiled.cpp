// csrc/attention/compiled.cpp: the cache of what was compiled, and the way to a
// smaller tile.
#include "attention/compiled.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <unordered_map>

namespace orchard::attention {
namespace {

using device::Device;

struct Key {
  const Device* device;
  Specialisation specialisation;
  bool operator==(const Key&) const = default;
};

struct KeyHash {
  size_t operator()(const Key& key) const noexcept {
    const Specialisation& s = key.specialisation;
    const Features& f = s.features;
    auto hash = reinterpret_cast<uintptr_t>(key.device) ^
                uint64_t { f.all.bits() } << 40;
    for (const int64_t value :
         {static_cast<int64_t>(s.kernel), static_cast<int64_t>(s.dtype),
          static_cast<int64_t>(f.mask), static_cast<int64_t>(f.mask_dtype),
          s.head_dim, s.head_dim_v, s.vec, int64_t{s.tile.rows},
          int64_t{s.tile.cols}, int64_t{s.tile.simdgroups}}) {
      hash = (hash ^ static_cast<uint64_t>(value)) * 0x9E3779B97F4A7C15u;
      hash ^= hash >> 29;
    }
    return hash;
  }
};

// A pipeline, or why there is none.
struct Attempt {
  std::shared_ptr<const device::Pipeline> pipeline;
  std::string reason;
};

Attempt attempt(Device& device, const Specialisation& s) {
  Attempt made;
  try {
    made.pipeline = device.pipeline(request_for(s, file_of(s)));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::pipeline) throw;
    return {nullptr, error.message()};
  }
  const uint32_t most = made.pipeline->max_threads_per_threadgroup();
  if (s.tile.threads() <= most) return made;
  return {nullptr, "it needs " + std::to_string(s.tile.threads()) +
                       " threads per threadgroup, the compiled kernel allows " +
                       std::to_string(most)};
}

Compiled first_that_fits(Device& device, Specialisation s) {
  const std::string wanted = s.name();
  const int64_t largest = std::max(s.head_dim, s.head_dim_v);
  std::string reason;  // of the tile that was wanted
  for (int more = 0;; ++more) {
    Attempt made = attempt(device, s);
    if (made.pipeline) {
      return {std::move(made.pipeline), s.name(), s, slots_of(s),
              std::move(reason)};
    }
    if (more == 0) reason = made.reason;
    const std::optional<Tile> smaller = smaller_tile(s.kernel, s.tile, largest);
    if (!smaller) {
      const std::string others =
          more == 0 ? ""
                    : "; nor can any of " + std::to_string(more) +
                          " smaller tiles, the last because: " + made.reason;
      throw Error(ErrorKind::compile, "[" + wanted + "] cannot run on " +
                                          device.name() + ": " + reason +
                                          others);
    }
    s.tile = *smaller;
  }
}

}  // namespace

const Compiled& compiled(Device& device, const Specialisation& s) {
  static std::mutex mutex;
  // By what was asked for.  Nodes, so that a reference outlives insertions.
  static std::unordered_map<Key, Compiled, KeyHash> cache;
  const Key key{&device, s};
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = cache.find(key);
    if (found != cache.end()) return found->second;
  }
  // Compiled outside the lock: others may compile other kernels meanwhile.
  Compiled fresh = first_that_fits(device, s);
  const std::lock_guard<std::mutex> lock(mutex);
  return cache.emplace(key, std::move(fresh)).first->second;
}

}  // namespace orchard::attention
