// tests/metal/runtime/metal.cpp: Foundation's and Metal's objects but for
// command buffers (commands.cpp), each a few lines over the simulator.
#include "metal.h"

#include <cstring>
#include <mutex>

#include "objects.h"

namespace standin {
namespace {

struct Options : Object {
  Compilation given;
};
struct Library : Object {
  std::string source;
};
struct Function : Object {
  std::string source, name;
};

constexpr uint64_t kThreadsByRegisters = 384;

std::mutex seen_mutex;
Compilation seen_compilation;
int64_t seen_compilations = 0;

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

int64_t define_of(const std::string& source, const std::string& name) {
  const std::string start = "#define " + name + " ";
  const size_t at = source.find(start);
  return at == source.npos ? 1 : std::stoll(source.substr(at + start.size()));
}

bool has_registers_for(const Function& function) {
  const auto found = faults().tiles.find(function.name);
  if (found == faults().tiles.end()) return true;
  const auto define = [&](const char* name) {
    return define_of(function.source, name);
  };
  return define("TILE_ROWS") * define("TILE_COLS") <= found->second.fragments &&
         define("SLICES") >= found->second.slices;
}

Pipeline* new_pipeline(Object*, SEL, Function* function, Failure** error) {
  if (!faults().is_making_pipelines) {
    return fail(error, "Compiler encountered an internal error");
  }
  if (!has_registers_for(*function)) {
    return fail(error,
                "Compute function exceeds available temporary registers");
  }
  try {
    auto compiled = sim::compile(function->source, function->name, {});
    auto* made = make<Pipeline>("MTLComputePipelineState");
    made->compiled = std::move(compiled);
    made->is_bounded =
        function->source.find("#define max_total_threads_per_threadgroup(") ==
        std::string::npos;
    return made;
  } catch (const std::exception& problem) {
    return fail(error, problem.what());
  }
}

uint64_t max_threads(Pipeline* self, SEL) {
  if (faults().max_threads != 0) return faults().max_threads;
  // Metal repeats the attribute; without it, registers say.
  if (!self->is_bounded) return kThreadsByRegisters;
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
}

const bool is_installed = [] {
  install_objects();
  install_device();
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

void* new_buffer(uint64_t length_bytes, StorageMode mode) {
  return make_buffer(length_bytes, mode);
}

sim::Buffer* memory_of(void* buffer) {
  return static_cast<Buffer*>(buffer)->memory;
}

void write_buffer(void* buffer, const void* data, uint64_t length_bytes) {
  const sim::HostAccess access(static_cast<Buffer*>(buffer)->memory);
  std::memcpy(access.data(), data, length_bytes);
}

void read_buffer(void* buffer, void* data, uint64_t length_bytes) {
  const sim::HostAccess access(static_cast<Buffer*>(buffer)->memory);
  std::memcpy(data, access.data(), length_bytes);
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
