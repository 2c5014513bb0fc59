// tests/metal/runtime/runtime.h: an Objective-C runtime that counts: classes by
// name, methods by selector, objects whose memory outlives them so that a
// message to a dead one is an error with a name instead of a crash.
#pragma once

#include <objc/runtime.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace standin {

// The head of every object.  16 bytes' alignment, as on macOS.
struct alignas(16) Object : objc_object {
  Class isa = nullptr;
  std::atomic<int64_t> references{1};
};

using Method = void (*)();

// Defines a method of a class, which is made when it is first named.  "+name"
// is a class method.
void add_method(const char* kind, const char* selector, Method method);

template <class Function>
void method(const char* kind, const char* selector, Function* function) {
  add_method(kind, selector, reinterpret_cast<Method>(function));
}

// What frees an object's own parts when its last reference goes.
void set_destroy(const char* kind, void (*destroy)(Object*));

// Takes a method away: an older macOS.
void remove_method(const char* kind, const char* selector);

// A new object of a class, with one reference, that of the caller.
template <class T>
T* make(const char* kind) {
  void adopt(Object*, const char*);
  T* object = new T;
  adopt(object, kind);
  return object;
}
void adopt(Object* object, const char* kind);

void retain(Object* object);
void release(Object* object);
// Returns its argument, as the message does.
Object* autorelease(Object* object);

struct Statistics {
  std::map<std::string, int64_t> live;  // objects by class, zeros left out
  int64_t over_releases = 0;
  int64_t messages_to_dead = 0;
  int64_t autoreleased_without_pool = 0;
  std::map<std::string, int64_t> sent;  // messages by selector
};
Statistics statistics();
void reset_statistics();  // but for live objects

}  // namespace standin
