// csrc/device/sim/execute/buffer.cpp: simulated device memory.
//
// A buffer's bytes end where a page ends (up to 64 bytes), and guard pages
// follow: reading past the end faults.  What is left of the first page is
// poison and is checked after each launch.
#include "device/sim/execute/buffer.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>
#include <unordered_set>

#include "device/sim/execute/poison.h"

namespace orchard::sim {

struct Buffer {
  std::byte* mapping = nullptr;  // guard page, pages, guard page
  uint64_t page_bytes = 0;       // between the guards
  uint64_t length = 0;
  device::StorageMode mode = device::StorageMode::shared;
  std::mutex mutex;
  uint32_t open = 0;
  bool is_mapped = true;

  std::byte* pages() const { return mapping + guard(); }
  // Address space is free: strides past the end should meet it too.
  static uint64_t guard() { return 16 * page(); }
  static uint64_t page() {
    static const auto size = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    return size;
  }
  // 64-byte aligned, as close to the end as that allows.
  std::byte* first() const {
    return pages() + page_bytes - (length + 63) / 64 * 64;
  }
};

namespace {

constexpr uint64_t kMaxCached = uint64_t{64} << 20;

struct Registry {
  std::mutex mutex;
  std::unordered_set<const void*> live;
  std::map<const std::byte*, Buffer*> by_address;
  std::multimap<uint64_t, Buffer*> spare;  // by page bytes
  uint64_t spare_bytes = 0;
  uint64_t allocated = 0;
  uint64_t peak = 0;
};

Registry& registry() {
  // Never destroyed: tensors may outlive static objects.
  static auto* const instance = new Registry;
  return *instance;
}

void protect(Buffer* buffer, bool is_open) {
  if (buffer->is_mapped == is_open || buffer->page_bytes == 0) return;
  mprotect(buffer->pages(), buffer->page_bytes,
           is_open ? PROT_READ | PROT_WRITE : PROT_NONE);
  buffer->is_mapped = is_open;
}

Buffer* map_pages(uint64_t page_bytes) {
  const uint64_t total = page_bytes + 2 * Buffer::guard();
  void* at = mmap(nullptr, total, PROT_NONE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) {
    throw Error(ErrorKind::device, "simulator: out of memory allocating " +
                                       std::to_string(page_bytes) + " bytes");
  }
  auto* buffer = new Buffer;
  buffer->mapping = static_cast<std::byte*>(at);
  buffer->page_bytes = page_bytes;
  buffer->is_mapped = false;
  protect(buffer, true);
  return buffer;
}

void unmap(Buffer* buffer) {
  munmap(buffer->mapping, buffer->page_bytes + 2 * Buffer::guard());
  delete buffer;
}

Buffer* take_spare(Registry& all, uint64_t page_bytes) {
  const auto found = all.spare.find(page_bytes);
  if (found == all.spare.end()) return nullptr;
  Buffer* buffer = found->second;
  all.spare.erase(found);
  all.spare_bytes -= page_bytes;
  return buffer;
}

void open(Buffer* buffer) {
  const std::lock_guard lock(buffer->mutex);
  if (buffer->open++ == 0) protect(buffer, true);
}

void close(Buffer* buffer) {
  const std::lock_guard lock(buffer->mutex);
  if (--buffer->open == 0 && buffer->mode == device::StorageMode::private_) {
    protect(buffer, false);
  }
}

}  // namespace

Buffer* allocate(uint64_t length_bytes, device::StorageMode mode) {
  const uint64_t page = Buffer::page();
  if (length_bytes > (uint64_t{1} << 46)) {
    throw Error(ErrorKind::device, "simulator: cannot allocate " +
                                       std::to_string(length_bytes) + " bytes");
  }
  // At least one redzone byte on each side unless the size fits a page.
  const uint64_t page_bytes =
      std::max(page, (length_bytes + page - 1) / page * page);
  Registry& all = registry();
  Buffer* buffer = nullptr;
  {
    const std::lock_guard lock(all.mutex);
    buffer = take_spare(all, page_bytes);
  }
  if (buffer == nullptr) buffer = map_pages(page_bytes);
  buffer->length = length_bytes;
  buffer->mode = mode;
  buffer->open = 0;
  protect(buffer, true);
  // Huge buffers stay sparse: only their first and last pages are poisoned.
  const uint64_t limit = uint64_t{1} << 30;
  if (page_bytes <= limit) {
    poison(buffer->pages(), page_bytes);
  } else {
    poison(buffer->pages(), page);
    poison(buffer->pages() + page_bytes - page, page);
  }
  if (mode == device::StorageMode::private_) protect(buffer, false);
  const std::lock_guard lock(all.mutex);
  all.live.insert(buffer);
  all.by_address.emplace(buffer->mapping, buffer);
  all.allocated += length_bytes;
  all.peak = std::max(all.peak, all.allocated);
  return buffer;
}

void release(Buffer* buffer) {
  if (buffer == nullptr) return;
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  if (all.live.erase(buffer) == 0) return;
  all.by_address.erase(buffer->mapping);
  all.allocated -= buffer->length;
  if (all.spare_bytes + buffer->page_bytes <= kMaxCached) {
    // A stale pointer must not reach it.
    protect(buffer, false);
    all.spare_bytes += buffer->page_bytes;
    all.spare.emplace(buffer->page_bytes, buffer);
  } else {
    unmap(buffer);
  }
}

bool is_buffer(const void* handle) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  return all.live.contains(handle);
}

device::StorageMode mode(const Buffer* buffer) { return buffer->mode; }

uint64_t length_bytes(const Buffer* buffer) { return buffer->length; }

void* contents(const Buffer* buffer) {
  return buffer->mode == device::StorageMode::private_ ? nullptr
                                                       : buffer->first();
}

std::byte* bytes(const Buffer* buffer) { return buffer->first(); }

HostAccess::HostAccess(Buffer* buffer) : buffer_(buffer), data_(nullptr) {
  if (buffer_ == nullptr) return;
  open(buffer_);
  data_ = buffer_->first();
}

HostAccess::~HostAccess() {
  if (buffer_ != nullptr) close(buffer_);
}

DeviceAccess::DeviceAccess(Buffer* buffer) : buffer_(buffer) { open(buffer_); }

DeviceAccess::~DeviceAccess() { close(buffer_); }

device::BufferView view(Buffer* buffer,
                        uint64_t offset_bytes,
                        uint64_t length_bytes) {
  return {buffer, offset_bytes, length_bytes, buffer->mode};
}

bool has_whole_redzones(const Buffer* buffer) {
  const std::byte* first = buffer->first();
  const std::byte* end = first + buffer->length;
  const std::byte* last = buffer->pages() + buffer->page_bytes;
  const std::byte* begin =
      std::max<const std::byte*>(buffer->pages(), first - Buffer::page());
  // The pattern has a period of two bytes and begins at a page.
  const auto odd = static_cast<uint64_t>(end - buffer->pages()) % 2;
  const bool is_tail_whole =
      end + odd >= last ||
      is_poison(end + odd, static_cast<uint64_t>(last - end) - odd);
  return is_tail_whole &&
         is_poison(begin, static_cast<uint64_t>(first - begin));
}

void repair_redzones(Buffer* buffer) {
  std::byte* first = buffer->first();
  const auto before = static_cast<uint64_t>(first - buffer->pages());
  poison(buffer->pages(), std::min(before, Buffer::page()));
  const uint64_t odd = (before + buffer->length) % 2;
  std::byte* end = first + buffer->length + odd;
  std::byte* last = buffer->pages() + buffer->page_bytes;
  if (end < last) poison(end, static_cast<uint64_t>(last - end));
}

Buffer* find_near(const void* address) {
  Registry& all = registry();
  const auto* at = static_cast<const std::byte*>(address);
  const std::lock_guard lock(all.mutex);
  auto found = all.by_address.upper_bound(at);
  if (found == all.by_address.begin()) return nullptr;
  Buffer* buffer = (--found)->second;
  const std::byte* end =
      buffer->mapping + buffer->page_bytes + 2 * Buffer::guard();
  return at < end ? buffer : nullptr;
}

void hold_buffers() { registry().mutex.lock(); }
void go_on_allocating() { registry().mutex.unlock(); }

uint64_t allocated_bytes() {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  return all.allocated;
}

uint64_t peak_bytes() {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  return all.peak;
}

void reset_peak_bytes() {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  all.peak = all.allocated;
}

}  // namespace orchard::sim
