// csrc/device/sim/execute/worker.h: one host thread that executes threadgroups:
// its arena of stacks, its scheduler of lanes and simdgroups.
#pragma once

#include <csetjmp>
#include <cstdint>
#include <string>
#include <vector>

#include "device/device.h"
#include "device/sim/execute/checker.h"
#include "device/sim/execute/watch.h"
#include "device/sim/compile/compile.h"
#include "device/sim/msl/abi.h"
#include "device/sim/sim.h"

namespace orchard::sim {

// One dispatch, shared by the workers that execute it.
struct Job {
  const Binary* binary = nullptr;
  const abi::Kernel* kernel = nullptr;
  Checker* checker = nullptr;  // in strict mode
  abi::Arguments arguments{};
  const device::Launch* launch = nullptr;
  const Options* options = nullptr;
  uint32_t threads = 0;                 // of a whole threadgroup
  device::Size3 grid{};                 // of all threads
  std::vector<uint32_t> dynamic_bytes;  // by threadgroup slot
  // Empty buffers that stand for nothing, with their slots.
  std::vector<std::pair<uint32_t, const void*>> unbound;

  // Whether a check is off at a "file:line".
  bool allows(std::string_view check, std::string_view place) const;
};

// Small and fast; the schedule must not depend on the library's generators.
class Random {
 public:
  explicit Random(uint64_t seed = 0) : state_(seed * 2 + 1) {}
  uint32_t next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 33);
  }
  uint32_t below(uint32_t n) { return next() % n; }

 private:
  uint64_t state_;
};

class Worker {
  // First in the arena: strict mode lets kernels touch nothing else of ours.
  struct Head {
    abi::Context context;
    abi::Runtime runtime;
    abi::Arguments arguments;
    abi::u64 slots[abi::max_threads / abi::lanes][2 * abi::lanes];
    abi::Thread threads[abi::max_threads];
    abi::u8 lane_map[abi::lanes];  // of a foreign layout
    Worker* worker;
  };
  static_assert(sizeof(Head) <= abi::stacks_offset);

 public:
  Worker();
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  void begin(const Job& job, const Watch& watch);
  // Empty on success, else what went wrong.
  std::string execute(uint32_t group_index);
  const abi::Counters& counters() const { return head_->context.counters; }

  // From kernels, through the runtime table.
  bool sync(abi::Op op, uint64_t key, uint32_t line, uint32_t flags);
  [[noreturn]] void fail(const std::string& what, uint32_t line);
  [[noreturn]] void fail(const std::string& what, const std::string& line);
  void* local(uint32_t id, uint64_t bytes, uint64_t alignment);
  void wrong_index(uint32_t line, const void* pc);
  void run_lane();
  void access(const void* at,
              uint64_t bytes,
              bool is_write,
              bool is_vector,
              const void* pc);

  // From the fault handler: ends the threadgroup.
  [[noreturn]] void fault(const void* address,
                          const void* pc,
                          bool is_alignment);
  bool is_running() const { return is_running_; }
  bool shall_stop() const { return watch_->is_stopped(); }
  // From the watch's signal: ends the threadgroup, if it interrupts the
  // kernel's own code.  In ours it may hold a lock, or be inside malloc.
  void stop(const void* pc);
  static Worker* current();

  // The worker in whose arena a context lies.
  static Worker& of(abi::Context* context) {
    return *reinterpret_cast<Head*>(context)->worker;
  }

 private:
  enum class State : uint8_t { ready, at_barrier, done };

  static constexpr uint32_t kVisited = 64;  // rows

  // Where a lane waits for others.
  struct Site {
    abi::Op op{};
    uint64_t key = 0;
    uint32_t line = 0;
    uint32_t flags = 0;

    // Its row in what a simdgroup has visited.
    uint32_t row() const {
      return (line * 8 + static_cast<uint32_t>(op)) % kVisited;
    }
    bool operator==(const Site& other) const {
      return op == other.op && key == other.key && line == other.line;
    }
  };

  struct Simdgroup {
    State state = State::ready;
    Site site;              // of all that wait, while they are not apart
    bool is_apart = false;  // lanes wait at different sites
    uint32_t held = 0;      // bits of those that wait, while they are apart
    Site sites[abi::lanes];
    uint32_t waiting = 0;  // bits of those that wait
    // How often each lane took part in a collective.
    uint16_t visits[kVisited][abi::lanes];
    uint32_t count = 0;
    uint32_t live = 0;    // lanes that have not returned
    uint32_t gone = 0;    // bits of those that have
    uint32_t active = 0;  // bits of those that took part in the last collective
    uint32_t resume = 0;  // lane to continue with
    uint32_t step = 1;    // from a lane to the next one
    void* stacks[abi::lanes] = {};
    uint32_t epoch = 1;  // barriers that order its threadgroup memory
  };

  void prepare_threads(uint32_t group_index);
  void lay_out(const device::Size3& size);
  void prepare_stacks();
  void enter(uint32_t simdgroup);
  inline void leave_to(void** from);
  inline void next_lane(void** from);
  inline void resume_lane(uint32_t lane);
  void meet(Simdgroup& s, uint32_t lanes, const Site& site);
  [[gnu::noinline]] bool wait_apart(Simdgroup& s, const Site& site);
  uint32_t choose(Simdgroup& s, const Site& site);
  [[gnu::noinline]] void complete(Simdgroup& s, const Site& site);
  void barrier(Simdgroup& s, uint32_t line, uint32_t flags);
  bool pick(uint32_t& next);
  void release_barrier();
  void count(abi::Op op);
  [[noreturn]] void diverge(const Site& here, const Site& other);
  [[noreturn, gnu::noinline, gnu::cold]] void refuse(abi::Op op, uint32_t line);
  [[noreturn]] void lane_returned();
  std::string describe_place(const std::string& line) const;
  std::string file_and_line(const void* pc) const;
  char* stack_of(uint32_t thread) const;

  char* mapping_ = nullptr;
  char* arena_ = nullptr;
  char* group_mapping_ = nullptr;
  char* group_memory_ = nullptr;
  Head* head_ = nullptr;
  abi::Context* context_ = nullptr;  // head_->context
  const Job* job_ = nullptr;
  const Watch* watch_ = nullptr;
  bool fences_all_ = false;  // barriers, whatever their flags
  Random random_;
  std::vector<Simdgroup> simdgroups_;
  uint32_t simdgroup_count_ = 0;
  device::Size3 size_{};  // of the threadgroup
  uint32_t threads_ = 0;  // of the threadgroup
  uint32_t current_ = 0;
  uint32_t waiting_ = 0;  // simdgroups at the barrier
  uint32_t barrier_line_ = 0;
  uint32_t barrier_flags_ = 0;
  uint32_t group_epoch_ = 1;
  uint32_t group_index_ = 0;
  uint32_t group_bytes_ = 0;
  uint32_t locals_[abi::max_locals] = {};
  void* main_stack_ = nullptr;
  std::string error_;
  sigjmp_buf escape_;
  volatile bool is_running_ = false;
};

// Makes memory faults inside kernels errors, and lets a watch end kernels;
// cheap when already done.
void install_handlers();
// What lies near a faulting address, for the message.
std::string describe_address(const void* address, const Job& job);

}  // namespace orchard::sim
