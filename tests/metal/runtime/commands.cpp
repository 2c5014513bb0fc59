// tests/metal/runtime/commands.cpp: queues, command buffers and encoders: what
// is encoded runs on the simulator when it is committed.
#include <chrono>
#include <mutex>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "objects.h"

namespace standin {
namespace {

using orchard::device::Launch;

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
  double start_time = 0.0, end_time = 0.0;
  Failure* failure = nullptr;
};
// MPSCommandBuffer: what PyTorch's streams give out.
struct Shell : Object {
  Commands* root = nullptr;
};
struct Encoder : Object {
  Commands* commands = nullptr;
  Launch next;
  bool is_open = true;
  bool is_concurrent = false;
};

constexpr int64_t kCompleted = 4, kFailed = 5;

std::mutex seen_mutex;
std::vector<std::string> seen_messages;

void note(const std::string& message) {
  const std::lock_guard<std::mutex> lock(seen_mutex);
  seen_messages.push_back(message);
}

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
  note("addCompletedHandler");
  self->handlers.push_back(static_cast<Block*>(_Block_copy(block)));
}

double now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
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
    self->start_time = now();
    execute(self);
    self->end_time = now();
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
double start_time(Commands* self, SEL) { return self->start_time; }
double end_time(Commands* self, SEL) { return self->end_time; }
Failure* commands_error(Commands* self, SEL) { return self->failure; }
Commands* root_of(Shell* self, SEL) { return self->root; }
void add_handler_to_root(Shell* self, SEL, Block* block) {
  add_handler(self->root, nullptr, block);
}
void destroy_shell(Object* object) {
  release(static_cast<Shell*>(object)->root);
}
void destroy_commands(Object* object) {
  auto* self = static_cast<Commands*>(object);
  for (Block* block : self->handlers) _Block_release(block);
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
uint64_t dispatch_type(Encoder* self, SEL) {
  return self->is_concurrent ? 1 : 0;
}
void memory_barrier(Encoder*, SEL, uint64_t scope) {
  note("memoryBarrier " + std::to_string(scope));
}
void end_encoding(Encoder* self, SEL) {
  note("endEncoding");
  self->is_open = false;
}
void destroy_encoder(Object* object) {
  release(static_cast<Encoder*>(object)->commands);
}
void install_commands() {
  method("MTLDevice", "newCommandQueue", new_queue);
  method("MTLCommandQueue", "commandBuffer", command_buffer);
  method("MTLCommandBuffer", "computeCommandEncoder", compute_encoder);
  method("MTLCommandBuffer", "addCompletedHandler:", add_handler);
  method("MTLCommandBuffer", "commit", commit);
  method("MTLCommandBuffer", "waitUntilCompleted", wait);
  method("MTLCommandBuffer", "status", status);
  method("MTLCommandBuffer", "error", commands_error);
  method("MTLCommandBuffer", "GPUStartTime", start_time);
  method("MTLCommandBuffer", "GPUEndTime", end_time);
  method("MPSCommandBuffer", "rootCommandBuffer", root_of);
  method("MPSCommandBuffer", "addCompletedHandler:", add_handler_to_root);
  constexpr const char* kEncoder = "MTLComputeCommandEncoder";
  method(kEncoder, "setComputePipelineState:", set_pipeline);
  method(kEncoder, "setBuffer:offset:atIndex:", set_buffer);
  method(kEncoder, "setBytes:length:atIndex:", set_bytes);
  method(kEncoder, "setThreadgroupMemoryLength:atIndex:", set_threadgroup);
  method(kEncoder, "dispatchThreadgroups:threadsPerThreadgroup:", dispatch);
  method(kEncoder, "endEncoding", end_encoding);
  method(kEncoder, "dispatchType", dispatch_type);
  method(kEncoder, "memoryBarrierWithScope:", memory_barrier);
  set_destroy("MTLCommandBuffer", destroy_commands);
  set_destroy("MPSCommandBuffer", destroy_shell);
  set_destroy(kEncoder, destroy_encoder);
}

const bool is_installed = [] {
  install_commands();
  return true;
}();

}  // namespace

std::vector<std::string> encoded() {
  const std::lock_guard<std::mutex> lock(seen_mutex);
  return seen_messages;
}

void clear_encoded() {
  const std::lock_guard<std::mutex> lock(seen_mutex);
  seen_messages.clear();
}

Stream::Stream() : queue_(make<Object>("MTLCommandQueue")) {}

Stream::~Stream() {
  if (buffer_ != nullptr) synchronize();
  release(static_cast<Object*>(queue_));
}

void* Stream::command_buffer() {
  if (buffer_ == nullptr) {
    // As PyTorch: what the queue gives is autoreleased, and the stream retains.
    auto* made = make<Shell>("MPSCommandBuffer");
    made->root = standin::command_buffer(nullptr, nullptr);
    retain(made->root);
    retain(made);
    autorelease(made);
    buffer_ = made;
  }
  return buffer_;
}

void* Stream::compute_encoder() {
  if (encoder_ == nullptr) {
    auto* made = standin::compute_encoder(
        static_cast<Shell*>(command_buffer())->root, {});
    made->is_concurrent = faults().is_concurrent;
    retain(made);
    encoder_ = made;
  }
  return encoder_;
}

void Stream::end_encoder() {
  if (encoder_ != nullptr) release(static_cast<Object*>(encoder_));
  encoder_ = nullptr;
}

void Stream::abandon() {
  end_encoder();
  if (buffer_ != nullptr) release(static_cast<Object*>(buffer_));
  buffer_ = nullptr;
}

void Stream::commit() {
  note("commit");
  end_encoder();
  if (buffer_ == nullptr) return;
  auto* const shell = static_cast<Shell*>(buffer_);
  committed_.push_back(shell->root);
  shell->root = make<Commands>("MTLCommandBuffer");
}

bool Stream::synchronize() {
  if (buffer_ != nullptr) commit();
  bool is_good = true;
  for (void* one : std::exchange(committed_, {})) {
    auto* const commands = static_cast<Commands*>(one);
    standin::commit(commands, nullptr);
    is_good = commands->status == kCompleted && is_good;
    release(commands);
  }
  abandon();
  return is_good;
}

}  // namespace standin
