// tests/metal_runtime/metal.cpp: the Metal objects that csrc/device/metal uses,
// each a few lines over the simulator.
#include "metal.h"

#include <cstring>
#include <functional>
#include <mutex>
#include <span>
#include <thread>

#include "device/sim/sim.h"
#include "runtime.h"

namespace standin {
namespace {

namespace sim = orchard::sim;
using orchard::device::Launch;
using orchard::device::StorageMode;

struct Text : Object {
  std::string bytes;
};
struct Failure : Object {
  std::string reason;
};
struct Options : Object {
  Compilation given;
};
struct Library : Object {
  std::string source;
};
struct Function : Object {
  std::string source, name;
};
struct Pipeline : Object {
  std::shared_ptr<const orchard::device::Pipeline> compiled;
};
struct Buffer : Object {
  sim::Buffer* memory = nullptr;
  StorageMode mode = StorageMode::shared;
};

// A block's head, as compilers lay it out.
struct Block {
  void* isa;
  int flags, reserved;
  void (*invoke)(Block*, Object*);
};
extern "C" void* _Block_copy(const void* block);
extern "C" void _Block_release(const void* block);

struct Commands : Object {
  std::vector<Launch> launches;
  std::vector<std::vector<std::byte>> bytes;  // that launches point to
  std::vector<Object*> used;                  // retained until the end
  std::vector<Block*> handlers;
  int64_t status = 0;
  Failure* failure = nullptr;
};
struct Encoder : Object {
  Commands* commands = nullptr;
  Launch next;
  bool is_open = true;
};

constexpr int64_t kCompleted = 4, kFailed = 5;

std::mutex seen_mutex;
Compilation seen_compilation;
int64_t seen_compilations = 0;
std::vector<std::string> seen_messages;

void note(const std::string& message) {
  const std::lock_guard<std::mutex> lock(seen_mutex);
  seen_messages.push_back(message);
}

Text* text(const std::string& bytes) {
  auto* made = make<Text>("NSString");
  made->bytes = bytes;
  autorelease(made);
  return made;
}

// Gives an autoreleased error to the caller, as Metal does.
std::nullptr_t fail(Failure** error, const std::string& reason) {
  if (error == nullptr) return nullptr;
  *error = make<Failure>("NSError");
  (*error)->reason = reason;
  autorelease(*error);
  return nullptr;
}

// Foundation.
Text* string_with(Object*, SEL, const char* bytes, uint64_t) {
  return text(bytes);
}
const char* utf8(Text* self, SEL) { return self->bytes.c_str(); }
Text* localized(Failure* self, SEL) { return text(self->reason); }
Object* process_info(Object*, SEL) {
  static Object* one = make<Object>("NSProcessInfo");
  return one;
}
struct Version {
  int64_t major, minor, patch;
};
bool is_at_least(Object*, SEL, Version version) {
  return faults().macos >= version.major;
}

// MTLCompileOptions.
Object* options_alloc(Object*, SEL) {
  return make<Options>("MTLCompileOptions");
}
void set_language(Options* self, SEL, uint64_t version) {
  self->given.language_version = static_cast<uint32_t>(version);
}
void set_fast_math(Options* self, SEL, bool is_fast) {
  self->given.is_fast_math = is_fast;
}
void set_math_mode(Options* self, SEL, int64_t mode) {
  self->given.math_mode = mode;
}
void set_math_functions(Options* self, SEL, int64_t functions) {
  self->given.math_functions = functions;
}

// MTLDevice.
Object* the_device() {
  static Object* one = make<Object>("MTLDevice");
  return one;
}
Text* device_name(Object*, SEL) { return text("Simulated Apple GPU"); }
uint64_t registry_id(Object*, SEL) { return 7; }
bool supports_family(Object*, SEL, int64_t family) {
  return family - 1000 <= faults().family;
}
uint64_t threadgroup_memory(Object*, SEL) { return 32768; }
uint64_t working_set(Object*, SEL) { return uint64_t{8} << 30; }
struct Size {
  uint64_t width, height, depth;
};
Size threads_per_threadgroup(Object*, SEL) { return {1024, 1024, 1024}; }

Library* new_library(
    Object*, SEL, Text* source, Options* options, Failure** error) {
  {
    const std::lock_guard<std::mutex> lock(seen_mutex);
    seen_compilation = options->given;
    seen_compilation.source = source->bytes;
    seen_compilations += 1;
  }
  if (!faults().is_compiling) {
    return fail(error, "program_source:3:7: error: use of undeclared name");
  }
  auto* made = make<Library>("MTLLibrary");
  made->source = source->bytes;
  return made;
}

Function* new_function(Library* self, SEL, Text* name) {
  if (!faults().has_function) return nullptr;
  auto* made = make<Function>("MTLFunction");
  made->source = self->source;
  made->name = name->bytes;
  return made;
}

Pipeline* new_pipeline(Object*, SEL, Function* function, Failure** error) {
  if (!faults().is_making_pipelines) {
    return fail(error, "Compiler encountered an internal error");
  }
  try {
    auto compiled = sim::compile(function->source, function->name, {});
    auto* made = make<Pipeline>("MTLComputePipelineState");
    made->compiled = std::move(compiled);
    return made;
  } catch (const std::exception& problem) {
    return fail(error, problem.what());
  }
}

uint64_t max_threads(Pipeline* self, SEL) {
  if (faults().max_threads != 0) return faults().max_threads;
  return self->compiled->max_threads_per_threadgroup();
}

// MTLBuffer.
Buffer* make_buffer(uint64_t length, StorageMode mode) {
  auto* made = make<Buffer>("MTLBuffer");
  made->mode = mode;
  made->memory = sim::allocate(length, mode);
  return made;
}
Buffer* new_buffer_message(Object*, SEL, uint64_t length, uint64_t options) {
  if (!faults().is_allocating) return nullptr;
  return make_buffer(length, static_cast<StorageMode>(options >> 4 & 0xf));
}
uint64_t buffer_mode(Buffer* self, SEL) {
  return static_cast<uint64_t>(self->mode);
}
uint64_t buffer_length(Buffer* self, SEL) {
  return sim::length_bytes(self->memory);
}
void* buffer_contents(Buffer* self, SEL) { return sim::contents(self->memory); }
Object* buffer_device(Buffer*, SEL) { return the_device(); }

// MTLCommandQueue, MTLCommandBuffer.
Object* new_queue(Object*, SEL) { return make<Object>("MTLCommandQueue"); }
Commands* command_buffer(Object*, SEL) {
  auto* made = make<Commands>("MTLCommandBuffer");
  autorelease(made);
  return made;
}
Encoder* compute_encoder(Commands* self, SEL) {
  auto* made = make<Encoder>("MTLComputeCommandEncoder");
  made->commands = self;
  retain(self);
  autorelease(made);
  return made;
}
void add_handler(Commands* self, SEL, Block* block) {
  self->handlers.push_back(static_cast<Block*>(_Block_copy(block)));
}

void execute(Commands* self) {
  self->status = kCompleted;
  std::string reason = "Caused GPU Timeout Error (IOAF code 2)";
  try {
    if (faults().is_running) {
      sim::simulator().submit(self->launches);
      return;
    }
  } catch (const std::exception& problem) {
    reason = problem.what();
  }
  self->status = kFailed;
  self->failure = make<Failure>("NSError");
  self->failure->reason = reason;
}

// Handlers run on a thread that has no autorelease pool, as Metal's do.
void commit(Commands* self, SEL) {
  std::thread gpu([self] {
    execute(self);
    for (Block* block : self->handlers) {
      block->invoke(block, self);
      _Block_release(block);
    }
    self->handlers.clear();
  });
  gpu.join();
}
void wait(Commands*, SEL) {}
uint64_t status(Commands* self, SEL) {
  return static_cast<uint64_t>(self->status);
}
Failure* commands_error(Commands* self, SEL) { return self->failure; }
void destroy_commands(Object* object) {
  auto* self = static_cast<Commands*>(object);
  for (Object* used : self->used) release(used);
  if (self->failure != nullptr) release(self->failure);
}

// MTLComputeCommandEncoder.
void use(Encoder* self, Object* object) {
  retain(object);
  self->commands->used.push_back(object);
}
void set_pipeline(Encoder* self, SEL, Pipeline* pipeline) {
  note("setComputePipelineState");
  use(self, pipeline);
  self->next.pipeline = pipeline->compiled;
}
void bind(Encoder* self, orchard::device::Argument argument) {
  orchard::device::Arguments bound;
  for (const orchard::device::Argument& old : self->next.arguments) {
    if (old.index != argument.index) bound.push_back(old);
  }
  bound.push_back(argument);
  self->next.arguments = std::move(bound);
}
void set_buffer(
    Encoder* self, SEL, Buffer* buffer, uint64_t offset, uint64_t index) {
  note("setBuffer " + std::to_string(index) + " +" + std::to_string(offset));
  use(self, buffer);
  bind(self, {static_cast<uint32_t>(index),
              orchard::device::Access::read_write,
              sim::view(buffer->memory, offset,
                        sim::length_bytes(buffer->memory) - offset),
              {}});
}
void set_bytes(Encoder* self,
               SEL,
               const std::byte* data,
               uint64_t length,
               uint64_t index) {
  note("setBytes " + std::to_string(index) + " " + std::to_string(length));
  auto& kept = self->commands->bytes.emplace_back(data, data + length);
  bind(self, {static_cast<uint32_t>(index),
              orchard::device::Access::read,
              {},
              std::span<const std::byte>(kept)});
}
void set_threadgroup(Encoder* self, SEL, uint64_t length, uint64_t) {
  note("setThreadgroupMemoryLength " + std::to_string(length));
  self->next.threadgroup_bytes = static_cast<uint32_t>(length);
}
void dispatch(Encoder* self, SEL, Size groups, Size threads) {
  note("dispatch " + std::to_string(groups.width) + " x " +
       std::to_string(threads.width));
  const auto size = [](const Size& from) {
    return orchard::device::Size3{static_cast<uint32_t>(from.width),
                                  static_cast<uint32_t>(from.height),
                                  static_cast<uint32_t>(from.depth)};
  };
  self->next.threadgroups = size(groups);
  self->next.threads_per_threadgroup = size(threads);
  self->commands->launches.push_back(self->next);
}
void end_encoding(Encoder* self, SEL) {
  note("endEncoding");
  self->is_open = false;
}
void destroy_encoder(Object* object) {
  release(static_cast<Encoder*>(object)->commands);
}
void destroy_pipeline(Object* object) {
  static_cast<Pipeline*>(object)->compiled.reset();
}
void destroy_buffer(Object* object) {
  sim::release(static_cast<Buffer*>(object)->memory);
}

void install_objects() {
  method("NSString", "+stringWithCString:encoding:", string_with);
  method("NSString", "utf8String", utf8);
  method("NSString", "UTF8String", utf8);
  method("NSError", "localizedDescription", localized);
  method("NSProcessInfo", "+processInfo", process_info);
  method("NSProcessInfo", "isOperatingSystemAtLeastVersion:", is_at_least);
  method("MTLCompileOptions", "+alloc", options_alloc);
  method("MTLCompileOptions", "setLanguageVersion:", set_language);
  method("MTLCompileOptions", "setFastMathEnabled:", set_fast_math);
  method("MTLLibrary", "newFunctionWithName:", new_function);
  method("MTLComputePipelineState", "maxTotalThreadsPerThreadgroup",
         max_threads);
  method("MTLBuffer", "storageMode", buffer_mode);
  method("MTLBuffer", "length", buffer_length);
  method("MTLBuffer", "contents", buffer_contents);
  method("MTLBuffer", "device", buffer_device);
  set_destroy("MTLComputePipelineState", destroy_pipeline);
  set_destroy("MTLBuffer", destroy_buffer);
}

void install_device() {
  method("MTLDevice", "name", device_name);
  method("MTLDevice", "registryID", registry_id);
  method("MTLDevice", "supportsFamily:", supports_family);
  method("MTLDevice", "maxThreadgroupMemoryLength", threadgroup_memory);
  method("MTLDevice", "maxThreadsPerThreadgroup", threads_per_threadgroup);
  method("MTLDevice", "recommendedMaxWorkingSetSize", working_set);
  method("MTLDevice", "newLibraryWithSource:options:error:", new_library);
  method("MTLDevice",
         "newComputePipelineStateWithFunction:error:", new_pipeline);
  method("MTLDevice", "newBufferWithLength:options:", new_buffer_message);
  method("MTLDevice", "newCommandQueue", new_queue);
}

void install_commands() {
  method("MTLCommandQueue", "commandBuffer", command_buffer);
  method("MTLCommandBuffer", "computeCommandEncoder", compute_encoder);
  method("MTLCommandBuffer", "addCompletedHandler:", add_handler);
  method("MTLCommandBuffer", "commit", commit);
  method("MTLCommandBuffer", "waitUntilCompleted", wait);
  method("MTLCommandBuffer", "status", status);
  method("MTLCommandBuffer", "error", commands_error);
  constexpr const char* kEncoder = "MTLComputeCommandEncoder";
  method(kEncoder, "setComputePipelineState:", set_pipeline);
  method(kEncoder, "setBuffer:offset:atIndex:", set_buffer);
  method(kEncoder, "setBytes:length:atIndex:", set_bytes);
  method(kEncoder, "setThreadgroupMemoryLength:atIndex:", set_threadgroup);
  method(kEncoder, "dispatchThreadgroups:threadsPerThreadgroup:", dispatch);
  method(kEncoder, "endEncoding", end_encoding);
  set_destroy("MTLCommandBuffer", destroy_commands);
  set_destroy(kEncoder, destroy_encoder);
}

const bool is_installed = [] {
  install_objects();
  install_device();
  install_commands();
  apply_faults();
  return true;
}();

}  // namespace

Faults& faults() {
  static Faults one;
  return one;
}

void apply_faults() {
  remove_method("MTLCompileOptions", "setMathMode:");
  remove_method("MTLCompileOptions", "setMathFloatingPointFunctions:");
  if (faults().macos < 15) return;
  method("MTLCompileOptions", "setMathMode:", set_math_mode);
  method("MTLCompileOptions",
         "setMathFloatingPointFunctions:", set_math_functions);
}

Compilation last_compilation() {
  const std::lock_guard<std::mutex> lock(seen_mutex);
  return seen_compilation;
}

int64_t compilations() {
  const std::lock_guard<std::mutex> lock(seen_mutex);
  return seen_compilations;
}

std::vector<std::string> encoded() {
  const std::lock_guard<std::mutex> lock(seen_mutex);
  return seen_messages;
}

void clear_encoded() {
  const std::lock_guard<std::mutex> lock(seen_mutex);
  seen_messages.clear();
}

void* new_buffer(uint64_t length_bytes, StorageMode mode) {
  return make_buffer(length_bytes, mode);
}

void write_buffer(void* buffer, const void* data, uint64_t length_bytes) {
  const sim::HostAccess access(static_cast<Buffer*>(buffer)->memory);
  std::memcpy(access.data(), data, length_bytes);
}

void read_buffer(void* buffer, void* data, uint64_t length_bytes) {
  const sim::HostAccess access(static_cast<Buffer*>(buffer)->memory);
  std::memcpy(data, access.data(), length_bytes);
}

Stream::Stream() : queue_(make<Object>("MTLCommandQueue")) {}

Stream::~Stream() {
  if (buffer_ != nullptr) synchronize();
  release(static_cast<Object*>(queue_));
}

void* Stream::command_buffer() {
  if (buffer_ == nullptr) buffer_ = make<Commands>("MTLCommandBuffer");
  return buffer_;
}

void* Stream::compute_encoder() {
  if (encoder_ == nullptr) {
    auto* made = make<Encoder>("MTLComputeCommandEncoder");
    made->commands = static_cast<Commands*>(command_buffer());
    retain(made->commands);
    encoder_ = made;
  }
  return encoder_;
}

void Stream::synchronize() {
  if (encoder_ != nullptr) release(static_cast<Object*>(encoder_));
  encoder_ = nullptr;
  if (buffer_ == nullptr) return;
  commit(static_cast<Commands*>(buffer_), nullptr);
  release(static_cast<Object*>(buffer_));
  buffer_ = nullptr;
}

extern "C" {

void* MTLCreateSystemDefaultDevice() {
  if (!faults().has_device) return nullptr;
  retain(the_device());
  return the_device();
}
void* MTLCopyAllDevices() { return nullptr; }
void* MTLCopyAllDevicesWithObserver(void*, void*) { return nullptr; }
void MTLRemoveDeviceObserver(void*) {}

}  // extern "C"
}  // namespace standin
