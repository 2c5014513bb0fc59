// tests/metal/runtime/runtime.cpp: classes, methods, reference counts.
#include "runtime.h"

#include <mach/mach.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>

// A class is an object too: class methods are looked up in `class_methods`.
struct objc_class : standin::Object {
  std::string name;
  std::map<std::string, standin::Method> methods;
  std::map<std::string, standin::Method> class_methods;
  void (*destroy)(standin::Object*) = nullptr;
  int64_t live = 0;
};

namespace standin {
namespace {

struct World {
  std::recursive_mutex mutex;
  std::map<std::string, objc_class*> classes;
  std::set<std::string> selectors;
  Statistics counted;
  objc_class* dead = nullptr;
};

// Leaked on purpose: metal-cpp's tables are filled before main().
World& world() {
  static World& it = *new World;
  return it;
}

objc_class* class_named(const std::string& name) {
  World& w = world();
  const std::lock_guard<std::recursive_mutex> lock(w.mutex);
  objc_class*& found = w.classes[name];
  if (found == nullptr) {
    found = new objc_class;
    found->name = name;
  }
  return found;
}

thread_local std::vector<std::vector<Object*>> pools;

struct Pool : Object {
  size_t depth = 0;
};

[[noreturn]] void unrecognized(const char* kind, const char* selector) {
  std::fprintf(stderr, "-[%s %s]: unrecognized selector\n", kind, selector);
  std::abort();
}

// Every object understands these.
int64_t root_retain(Object* self, SEL) {
  retain(self);
  return reinterpret_cast<int64_t>(self);
}
void root_release(Object* self, SEL) { release(self); }
Object* root_autorelease(Object* self, SEL) { return autorelease(self); }
uint64_t root_retain_count(Object* self, SEL) {
  return static_cast<uint64_t>(self->references);
}
Object* root_init(Object* self, SEL) { return self; }
bool root_responds(Object* self, SEL, SEL selector) {
  return class_respondsToSelector(self->isa, selector);
}
void nothing() {}

Method root_method(const std::string& selector) {
  static const std::map<std::string, Method> methods = {
      {"retain", reinterpret_cast<Method>(root_retain)},
      {"release", reinterpret_cast<Method>(root_release)},
      {"autorelease", reinterpret_cast<Method>(root_autorelease)},
      {"retainCount", reinterpret_cast<Method>(root_retain_count)},
      {"init", reinterpret_cast<Method>(root_init)},
      {"respondsToSelector:", reinterpret_cast<Method>(root_responds)},
  };
  const auto found = methods.find(selector);
  return found == methods.end() ? nullptr : found->second;
}

Method find(const std::map<std::string, Method>& methods, const char* name) {
  const auto found = methods.find(name);
  return found == methods.end() ? nullptr : found->second;
}

Object* pool_alloc(Object*, SEL) { return make<Pool>("NSAutoreleasePool"); }

Object* pool_init(Pool* self, SEL) {
  pools.emplace_back();
  self->depth = pools.size();
  return self;
}

void pool_drain(Pool* self, SEL) {
  while (pools.size() >= self->depth) {
    const std::vector<Object*> objects = std::move(pools.back());
    pools.pop_back();
    for (Object* object : objects) release(object);
  }
  release(self);
}

const bool is_installed = [] {
  method("NSAutoreleasePool", "+alloc", pool_alloc);
  method("NSAutoreleasePool", "init", pool_init);
  method("NSAutoreleasePool", "drain", pool_drain);
  world().dead = class_named("(dead object)");
  return true;
}();

}  // namespace

void add_method(const char* kind, const char* selector, Method method) {
  objc_class* found = class_named(kind);
  const std::lock_guard<std::recursive_mutex> lock(world().mutex);
  if (selector[0] == '+') {
    found->class_methods[selector + 1] = method;
  } else {
    found->methods[selector] = method;
  }
}

void remove_method(const char* kind, const char* selector) {
  const std::lock_guard<std::recursive_mutex> lock(world().mutex);
  class_named(kind)->methods.erase(selector);
}

void set_destroy(const char* kind, void (*destroy)(Object*)) {
  class_named(kind)->destroy = destroy;
}

void adopt(Object* object, const char* kind) {
  objc_class* found = class_named(kind);
  const std::lock_guard<std::recursive_mutex> lock(world().mutex);
  object->isa = found;
  found->live += 1;
}

void retain(Object* object) { object->references += 1; }

// The memory stays, so that what comes after the end is seen and counted.
void release(Object* object) {
  const int64_t left = --object->references;
  const std::lock_guard<std::recursive_mutex> lock(world().mutex);
  if (left < 0) world().counted.over_releases += 1;
  if (left != 0) return;
  objc_class* kind = object->isa;
  kind->live -= 1;
  object->isa = world().dead;
  if (kind->destroy != nullptr) kind->destroy(object);
}

Object* autorelease(Object* object) {
  if (pools.empty()) {
    const std::lock_guard<std::recursive_mutex> lock(world().mutex);
    world().counted.autoreleased_without_pool += 1;
    return object;
  }
  pools.back().push_back(object);
  return object;
}

Statistics statistics() {
  const std::lock_guard<std::recursive_mutex> lock(world().mutex);
  Statistics now = world().counted;
  for (const auto& [name, kind] : world().classes) {
    if (kind->live != 0) now.live[name] = kind->live;
  }
  return now;
}

void reset_statistics() {
  const std::lock_guard<std::recursive_mutex> lock(world().mutex);
  world().counted = {};
}

// What send.S jumps to.
extern "C" Method standin_lookup(Object* self, SEL selector) {
  World& w = world();
  const std::lock_guard<std::recursive_mutex> lock(w.mutex);
  const char* name = reinterpret_cast<const char*>(selector);
  if (self == nullptr) return nothing;
  w.counted.sent[name] += 1;
  if (self->isa == nullptr) {  // a class
    auto* kind = static_cast<objc_class*>(self);
    const Method found = find(kind->class_methods, name);
    if (found == nullptr) unrecognized(kind->name.c_str(), name);
    return found;
  }
  if (self->isa == w.dead) {
    const bool is_release = std::strcmp(name, "release") == 0;
    (is_release ? w.counted.over_releases : w.counted.messages_to_dead) += 1;
    return nothing;
  }
  Method found = find(self->isa->methods, name);
  if (found == nullptr) found = root_method(name);
  if (found == nullptr) unrecognized(self->isa->name.c_str(), name);
  return found;
}

}  // namespace standin

using standin::world;

extern "C" {

Class objc_lookUpClass(const char* name) { return standin::class_named(name); }

Protocol* objc_getProtocol(const char*) { return nullptr; }

Class* objc_copyClassList(unsigned* count) {
  const std::lock_guard<std::recursive_mutex> lock(world().mutex);
  const auto& classes = world().classes;
  *count = static_cast<unsigned>(classes.size());
  auto* list = static_cast<Class*>(std::malloc(*count * sizeof(Class)));
  size_t at = 0;
  for (const auto& entry : classes) list[at++] = entry.second;
  return list;
}

Class object_getClass(id object) {
  return static_cast<standin::Object*>(object)->isa;
}

bool class_respondsToSelector(Class kind, SEL selector) {
  const std::lock_guard<std::recursive_mutex> lock(world().mutex);
  const char* name = reinterpret_cast<const char*>(selector);
  return standin::find(kind->methods, name) != nullptr ||
         standin::root_method(name) != nullptr;
}

SEL sel_registerName(const char* name) {
  const std::lock_guard<std::recursive_mutex> lock(world().mutex);
  const std::string& kept = *world().selectors.insert(name).first;
  return reinterpret_cast<SEL>(const_cast<char*>(kept.c_str()));
}

mach_port_t mach_task_self(void) { return 0; }

kern_return_t vm_read_overwrite(mach_port_t,
                                vm_address_t address,
                                vm_size_t size,
                                vm_address_t data,
                                vm_size_t* size_read) {
  const iovec to{reinterpret_cast<void*>(data), size};
  const iovec from{reinterpret_cast<void*>(address), size};
  const ssize_t count = process_vm_readv(getpid(), &to, 1, &from, 1, 0);
  *size_read = count < 0 ? 0 : static_cast<vm_size_t>(count);
  return count < 0 ? 1 : KERN_SUCCESS;
}

}  // extern "C"
