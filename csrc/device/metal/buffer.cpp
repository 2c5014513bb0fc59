// csrc/device/metal/buffer.cpp: what a storage's data pointer really is.  A
// message to anything but a live object ends the process, so a handle is
// examined before it is asked.
#include <mach/mach.h>
#include <objc/runtime.h>

#include <cstdlib>
#include <mutex>
#include <set>

#include "device/metal/apple.h"
#include "device/metal/metal.h"

namespace orchard::metal {
namespace {

// Whether the kernel can read a word there: never faults.
bool is_readable(const void* address) {
  uintptr_t word = 0;
  vm_size_t bytes_read = 0;
  return vm_read_overwrite(mach_task_self(),
                           reinterpret_cast<vm_address_t>(address),
                           sizeof(word), reinterpret_cast<vm_address_t>(&word),
                           &bytes_read) == KERN_SUCCESS &&
         bytes_read == sizeof(word);
}

// Whether a word is a class that the runtime knows, by comparing addresses.
bool is_class(Class candidate) {
  unsigned count = 0;
  Class* classes = objc_copyClassList(&count);
  bool is_found = false;
  for (unsigned i = 0; i < count && !is_found; ++i) {
    is_found = classes[i] == candidate;
  }
  std::free(classes);
  return is_found;
}

// A debug layer or a capture wraps buffers in classes of its own, so a class
// counts by what it answers to, not by its name.
bool is_buffer_class(Class candidate) {
  static std::mutex mutex;
  static std::set<Class> known;
  const std::lock_guard<std::mutex> lock(mutex);
  if (known.count(candidate) != 0) return true;
  if (candidate == nullptr || !is_class(candidate)) return false;
  using namespace MTL::Private::Selector;
  for (const SEL message :
       {s_kstorageMode, s_kcontents, s_klength, s_kdevice}) {
    if (!class_respondsToSelector(candidate, message)) return false;
  }
  known.insert(candidate);
  return true;
}

bool is_buffer(const void* handle) {
  // Objects are aligned to 16 bytes; an odd address would be a tagged pointer.
  if (reinterpret_cast<uintptr_t>(handle) % 16 != 0) return false;
  if (!is_readable(handle)) return false;
  return is_buffer_class(
      object_getClass(static_cast<id>(const_cast<void*>(handle))));
}

}  // namespace

BufferInfo buffer_info(const char* operation, const void* handle) {
  const auto refuse = [&](const char* what) {
    throw Error(ErrorKind::device, std::string("[") + operation + "] " + what);
  };
  if (handle == nullptr || !is_buffer(handle)) {
    refuse(
        "expected a tensor over an MTLBuffer, got a storage that holds none "
        "(freed, or wrapped by another library): make it with "
        "tensor.to('mps'), or copy it with tensor.clone() while it is alive");
  }
  const AutoreleaseScope scope;
  const auto* buffer = static_cast<const MTL::Buffer*>(handle);
  const MTL::StorageMode mode = buffer->storageMode();
  if (mode == MTL::StorageModeMemoryless) {
    refuse(
        "got a tensor over a memoryless resource, which keeps nothing between "
        "passes: allocate it as shared or private, as tensor.to('mps') does");
  }
  return {static_cast<device::StorageMode>(mode), buffer->length()};
}

}  // namespace orchard::metal
