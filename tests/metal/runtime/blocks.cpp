// tests/metal/runtime/blocks.cpp: the runtime behind clang's blocks: what
// copies one to the heap, and the boxed variables (__block) that it holds.
#include <atomic>
#include <new>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kHasCopyDispose = 1 << 25;
constexpr int kIsGlobal = 1 << 28;
constexpr int kIsVariable = 8;  // BLOCK_FIELD_IS_BYREF
constexpr int kMask = 0xff;

struct Descriptor {
  unsigned long reserved, size;
  void (*copy)(void* to, const void* from);
  void (*dispose)(const void* block);
};

struct Block {
  void* isa;
  int flags, reserved;
  void (*invoke)();
  Descriptor* descriptor;
};

// A __block variable; `forwarding` points to the copy that counts.
struct Variable {
  void* isa;
  Variable* forwarding;
  int flags, size;
  void (*keep)(void* to, void* from);
  void (*destroy)(void* variable);
};

// Copies are few and short-lived: a count stands before each.
struct alignas(16) Count {
  std::atomic<int> references{1};
};

void* counted(size_t bytes) {
  auto* memory = static_cast<char*>(
      std::aligned_alloc(16, (sizeof(Count) + bytes + 15) / 16 * 16));
  new (memory) Count;
  return memory + sizeof(Count);
}

Count& count_of(const void* copy) {
  return *reinterpret_cast<Count*>(
      const_cast<char*>(static_cast<const char*>(copy)) - sizeof(Count));
}

bool drop(const void* copy) { return --count_of(copy).references == 0; }

void free_copy(const void* copy) { std::free(&count_of(copy)); }

constexpr int kIsHeap = 1 << 24;

Variable* copy_variable(Variable* from) {
  Variable* now = from->forwarding;
  if (now->flags & kIsHeap) {
    count_of(now).references += 1;
    return now;
  }
  auto* to = static_cast<Variable*>(counted(static_cast<size_t>(from->size)));
  std::memcpy(static_cast<void*>(to), from, static_cast<size_t>(from->size));
  to->flags |= kIsHeap;
  to->forwarding = to;
  // The frame that declared it drops a reference too.
  count_of(to).references = 2;
  from->forwarding = to;
  if (from->flags & kHasCopyDispose) from->keep(to, from);
  return to;
}

void drop_variable(Variable* variable) {
  Variable* now = variable->forwarding;
  if (!(now->flags & kIsHeap) || !drop(now)) return;
  if (now->flags & kHasCopyDispose) now->destroy(now);
  free_copy(now);
}

}  // namespace

extern "C" {

void* _NSConcreteStackBlock[32];
void* _NSConcreteGlobalBlock[32];

void* _Block_copy(const void* argument) {
  const auto* from = static_cast<const Block*>(argument);
  if (from == nullptr || (from->flags & kIsGlobal)) {
    return const_cast<void*>(argument);
  }
  if (from->flags & kIsHeap) {
    count_of(from).references += 1;
    return const_cast<void*>(argument);
  }
  auto* to = static_cast<Block*>(counted(from->descriptor->size));
  std::memcpy(static_cast<void*>(to), from, from->descriptor->size);
  to->flags |= kIsHeap;
  if (from->flags & kHasCopyDispose) from->descriptor->copy(to, from);
  return to;
}

void _Block_release(const void* argument) {
  const auto* block = static_cast<const Block*>(argument);
  if (block == nullptr || !(block->flags & kIsHeap) || !drop(block)) return;
  if (block->flags & kHasCopyDispose) block->descriptor->dispose(block);
  free_copy(block);
}

void _Block_object_assign(void* to, const void* object, int flags) {
  auto** const place = static_cast<const void**>(to);
  if ((flags & kMask) == kIsVariable) {
    *place = copy_variable(static_cast<Variable*>(const_cast<void*>(object)));
    return;
  }
  *place = _Block_copy(object);
}

void _Block_object_dispose(const void* object, int flags) {
  if ((flags & kMask) == kIsVariable) {
    drop_variable(static_cast<Variable*>(const_cast<void*>(object)));
    return;
  }
  _Block_release(object);
}

}  // extern "C"
