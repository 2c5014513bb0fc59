// csrc/torch/metalsim/memory.cpp: allocation of device and pinned storages.
#include "torch/metalsim/memory.h"

#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <unordered_set>
#include <utility>
#include <vector>

#include "torch/metalsim/compat.h"
#include "torch/metalsim/failure.h"

namespace orchard::metalsim {
namespace {

// While launches are dropped, the host's time is what is asked for, and the
// simulator's checks of each allocation (guard pages, poison) cost several
// times as much as the rest of a call: freed buffers are handed out as they
// are, as a GPU's caching allocator does.
class IdlePool {
 public:
  sim::Buffer* take(size_t bytes, device::StorageMode mode) {
    const std::lock_guard lock(mutex_);
    const auto found =
        std::find_if(free_.begin(), free_.end(), [&](sim::Buffer* buffer) {
          return sim::length_bytes(buffer) == bytes &&
                 sim::mode(buffer) == mode;
        });
    if (found == free_.end()) return nullptr;
    sim::Buffer* const buffer = *found;
    *found = free_.back();
    free_.pop_back();
    return buffer;
  }

  bool keep(sim::Buffer* buffer) {
    const std::lock_guard lock(mutex_);
    if (free_.size() == kMost) return false;
    free_.push_back(buffer);
    return true;
  }

  void drain() {
    const std::lock_guard lock(mutex_);
    for (sim::Buffer* const buffer : free_) sim::release(buffer);
    free_.clear();
  }

 private:
  static constexpr size_t kMost = 64;
  std::mutex mutex_;
  std::vector<sim::Buffer*> free_;
};

// Never destroyed, as the other sets here.
IdlePool& idle_pool() {
  static auto* pool = new IdlePool;
  return *pool;
}

void release(void* handle) {
  auto* const buffer = static_cast<sim::Buffer*>(handle);
  if (sim::options().is_idle && idle_pool().keep(buffer)) return;
  sim::release(buffer);
}

// Tests let one allocation fail, to see what a call leaves behind.
struct Failure {
  std::atomic<int64_t> after{-1};
  std::atomic<int64_t> made{0};

  void count() {
    if (made++ != after) return;
    throw Error(ErrorKind::device,
                "metalsim: out of memory, as fail_allocation asked for");
  }
};
Failure failure;

class DeviceAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) ORCHARD_ALLOCATE_CONST override {
    if (bytes == 0) return {nullptr, device()};
    failure.count();
    const device::StorageMode mode = sim::options().default_storage_mode;
    sim::Buffer* buffer =
        sim::options().is_idle ? idle_pool().take(bytes, mode) : nullptr;
    if (buffer == nullptr) buffer = sim::allocate(bytes, mode);
    return {buffer, buffer, &release, device()};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  // Called by c10::Allocator::clone; the arguments are handles.
  void copy_data(void* to, const void* from, size_t bytes) const {
    if (bytes == 0) return;
    sim::HostAccess target(static_cast<sim::Buffer*>(to));
    sim::HostAccess source(static_cast<sim::Buffer*>(const_cast<void*>(from)));
    std::memcpy(target.data(), source.data(), bytes);
  }
};

// Addresses handed out as pinned and not yet freed.
class PinnedSet {
 public:
  void insert(const void* data) {
    const std::lock_guard lock(mutex_);
    addresses_.insert(data);
  }
  void erase(const void* data) {
    const std::lock_guard lock(mutex_);
    addresses_.erase(data);
  }
  bool contains(const void* data) {
    const std::lock_guard lock(mutex_);
    return addresses_.count(data) != 0;
  }

 private:
  std::mutex mutex_;
  std::unordered_set<const void*> addresses_;
};

// Never destroyed: storages may outlive the end of main.
PinnedSet& pinned_set() {
  static auto* set = new PinnedSet;
  return *set;
}

void unpin(void* data) {
  pinned_set().erase(data);
  c10::GetCPUAllocator()->raw_deallocate(data);
}

class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) ORCHARD_ALLOCATE_CONST override {
    if (bytes == 0) return {nullptr, c10::DeviceType::CPU};
    void* data = c10::GetCPUAllocator()->raw_allocate(bytes);
    pinned_set().insert(data);
    return {data, data, &unpin, c10::DeviceType::CPU};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &unpin; }

  void copy_data(void* to, const void* from, size_t bytes) const {
    std::memcpy(to, from, bytes);
  }
};

}  // namespace

c10::Allocator* allocator() {
  static auto* instance = new DeviceAllocator;
  return instance;
}

void fail_allocation(int64_t after) {
  failure.made = 0;
  failure.after = after;
}

int64_t allocations() { return failure.made; }

void set_idle(bool is_idle) {
  sim::options().is_idle = is_idle;
  if (!is_idle) idle_pool().drain();
}

c10::Allocator* pinned_allocator() {
  static auto* instance = new PinnedAllocator;
  return instance;
}

bool is_pinned(const void* data) { return pinned_set().contains(data); }

sim::Buffer* buffer_of(const c10::StorageImpl& storage) {
  void* handle = const_cast<void*>(storage.data());
  if (handle == nullptr) return nullptr;
  TORCH_CHECK(sim::is_buffer(handle),
              "[DeviceError] metalsim: expected a storage made by its own "
              "allocator, got a pointer that is no live simulated buffer "
              "(freed, or wrapped by another library); make the tensor with "
              "tensor.to('metalsim')");
  return static_cast<sim::Buffer*>(handle);
}

void resize_storage(c10::StorageImpl& storage, size_t bytes) {
  TORCH_CHECK(storage.resizable(),
              "metalsim: expected a resizable storage, got a fixed one");
  c10::DataPtr fresh = allocator()->allocate(bytes);
  const size_t kept = std::min(bytes, storage.nbytes());
  sim::Buffer* old = buffer_of(storage);
  if (kept != 0 && old != nullptr) {
    sim::HostAccess target(static_cast<sim::Buffer*>(fresh.get()));
    sim::HostAccess source(old);
    std::memcpy(target.data(), source.data(), kept);
  }
  storage.set_data_ptr_noswap(std::move(fresh));
  storage.set_nbytes(bytes);
}

}  // namespace orchard::metalsim

// PyTorch finds the allocator by device type.
REGISTER_ALLOCATOR(orchard::metalsim::device_type,
                   orchard::metalsim::allocator())
