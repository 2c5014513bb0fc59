// csrc/device/sim/execute/worker.cpp: schedules the lanes of one threadgroup;
// see worker.h.
//
// A simdgroup runs far ahead, until it waits at a threadgroup barrier: that
// shows a missing barrier more often than switching everywhere.  Now and then,
// by the seed, another simdgroup gets its turn at a collective.
#include "device/sim/execute/worker.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <new>

#include "device/sim/execute/fiber.h"
#include "device/sim/execute/poison.h"

namespace orchard::sim {
namespace {

constexpr uint64_t kGuard = 65536;
constexpr uint32_t kMaxGroupBytes = 32768;
constexpr uint32_t kThreadgroupFlag = 2;  // mem_flags::mem_threadgroup
// Below each stack; an overflow changes it.
constexpr uint64_t kCanary = 0x0ddc0ffee0ddf00du;

thread_local Worker* running = nullptr;

float exp10_of(float x) { return std::pow(10.0f, x); }

const abi::Runtime kRuntime = {
    [](abi::Context* c,
       abi::Op op,
       abi::u64 key,
       abi::u32 line,
       abi::u32 flags) { return Worker::of(c).sync(op, key, line, flags); },
    [](abi::Context* c, const char* what, abi::u32 line) {
      Worker::of(c).fail(what, line);
    },
    [](abi::Context* c, abi::u32 id, abi::u64 bytes, abi::u64 alignment) {
      return Worker::of(c).local(id, bytes, alignment);
    },
    [](abi::Context* c,
       const void* at,
       abi::u64 bytes,
       bool is_write,
       bool is_vector,
       void* pc) { Worker::of(c).access(at, bytes, is_write, is_vector, pc); },
    [](abi::Context* c, abi::u32 line, void* pc) {
      Worker::of(c).wrong_index(line, pc);
    },
    [](float x) { return std::exp(x); },
    [](float x) { return std::exp2(x); },
    exp10_of,
    [](float x) { return std::log(x); },
    [](float x) { return std::log2(x); },
    [](float x) { return std::log10(x); },
    [](float x, float y) { return std::pow(x, y); },
    [](float x) { return std::sin(x); },
    [](float x) { return std::cos(x); },
    [](float x) { return std::tan(x); },
    [](float x) { return std::asin(x); },
    [](float x) { return std::acos(x); },
    [](float x) { return std::atan(x); },
    [](float x, float y) { return std::atan2(x, y); },
    [](float x) { return std::sinh(x); },
    [](float x) { return std::cosh(x); },
    [](float x) { return std::tanh(x); },
    [](float x, float y) { return std::fmod(x, y); },
};

void lane_entry() { running->run_lane(); }

char* map(uint64_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
  return static_cast<char*>(at);
}

const char* name_of(abi::Op op) {
  constexpr const char* names[] = {"matrix multiply",     "shuffle",
                                   "reduction",           "vote",
                                   "simdgroup_barrier",   "threadgroup_barrier",
                                   "matrix load or store"};
  return names[static_cast<uint32_t>(op)];
}

// Whether an operation is that of the active lanes, without those that have
// returned.  Barriers and matrices are everybody's.
bool is_of_active_lanes(abi::Op op) {
  return op == abi::Op::shuffle || op == abi::Op::reduce || op == abi::Op::vote;
}

}  // namespace

bool Job::allows(std::string_view check, std::string_view place) const {
  for (const std::string& entry : options->allowed) {
    const std::string_view text = entry;
    if (text == check) return true;
    if (!text.starts_with(check) || text.substr(check.size(), 1) != "@") {
      continue;
    }
    const std::string_view at = text.substr(check.size() + 1);
    if (!place.ends_with(at)) continue;
    const size_t before = place.size() - at.size();
    if (before == 0 || place[before - 1] == '/') return true;
  }
  return false;
}

void Worker::resume_lane(uint32_t lane) {
  context_->lane = lane;
  context_->touched = 0;
  context_->log_position = 0;
  context_->lane_base = stack_of(current_ * abi::lanes + lane);
}

// Continues with the lane that the context names.
void Worker::leave_to(void** from) {
  orchard_fiber_switch(from, simdgroups_[current_].stacks[context_->lane]);
}

void Worker::next_lane(void** from) {
  const Simdgroup& s = simdgroups_[current_];
  uint32_t lane = context_->lane;
  do {
    lane += s.step;  // at most the count
    if (lane >= s.count) lane -= s.count;
  } while (((s.gone | s.held) >> lane & 1) != 0);
  resume_lane(lane);
  leave_to(from);
}

Worker* Worker::current() { return running; }

Worker::Worker() {
  mapping_ = map(2 * abi::arena_bytes);
  const auto address = reinterpret_cast<uintptr_t>(mapping_);
  arena_ = mapping_ + (abi::arena_bytes - address % abi::arena_bytes);
  group_mapping_ = map(kMaxGroupBytes + 2 * kGuard);
  group_memory_ = group_mapping_ + kGuard;
  mprotect(group_mapping_, kGuard, PROT_NONE);
  mprotect(group_memory_ + kMaxGroupBytes, kGuard, PROT_NONE);
  head_ = new (arena_) Head;
  head_->runtime = kRuntime;
  head_->worker = this;
  context_ = &head_->context;
  *context_ = {};
  context_->runtime = &head_->runtime;
}

Worker::~Worker() {
  munmap(mapping_, 2 * abi::arena_bytes);
  munmap(group_mapping_, kMaxGroupBytes + 2 * kGuard);
}

// Stacks grow downward: thread t's
// stack starts where thread t + 1's may end.
char* Worker::stack_of(uint32_t thread) const {
  return arena_ + abi::stacks_offset + (thread + 1) * abi::stack_stride;
}

void Worker::begin(const Job& job, const Watch& watch) {
  // Row by row: four neighboring lanes share one, and kernels that take the
  // maximum of a row as Apple's layout has it take another.
  static const uint8_t foreign[abi::lanes] = {
      0,  1,  8,  9,  2,  3,  10, 11, 4,  5,  12, 13, 6,  7,  14, 15,
      16, 17, 24, 25, 18, 19, 26, 27, 20, 21, 28, 29, 22, 23, 30, 31};
  job_ = &job;
  watch_ = &watch;
  running = this;
  const Options& options = *job.options;
  fences_all_ = job.allows("barrier_flags", "");
  context_->counters = {};
  context_->is_eager = options.is_eager;
  context_->matrix_order = static_cast<uint32_t>(options.matrix_order);
  std::copy(std::begin(foreign), std::end(foreign), head_->lane_map);
  if (options.seed != 0) {
    Random random(options.seed);
    for (uint32_t i = abi::lanes - 1; i > 0; --i) {
      std::swap(head_->lane_map[i], head_->lane_map[random.below(i + 1)]);
    }
  }
  context_->lane_map = options.has_foreign_layout ? head_->lane_map : nullptr;
  lay_out(job.launch->threads_per_threadgroup);
}

// Threads of a threadgroup of some size.
void Worker::lay_out(const device::Size3& size) {
  const device::Launch& launch = *job_->launch;
  size_ = size;
  threads_ = size[0] * size[1] * size[2];
  simdgroup_count_ = (threads_ + abi::lanes - 1) / abi::lanes;
  if (simdgroups_.size() < simdgroup_count_) {
    simdgroups_.resize(simdgroup_count_);
  }
  for (uint32_t t = 0; t < threads_; ++t) {
    abi::Thread& thread = head_->threads[t];
    std::copy(size.begin(), size.end(), thread.threads);
    std::copy(launch.threads_per_threadgroup.begin(),
              launch.threads_per_threadgroup.end(), thread.dispatched);
    std::copy(launch.threadgroups.begin(), launch.threadgroups.end(),
              thread.groups);
    std::copy(job_->grid.begin(), job_->grid.end(), thread.grid);
    thread.local[0] = t % size[0];
    thread.local[1] = t / size[0] % size[1];
    thread.local[2] = t / size[0] / size[1];
    thread.local_index = t;
    thread.simdgroup = t / abi::lanes;
    thread.lane = t % abi::lanes;
    thread.simdgroups = simdgroup_count_;
    thread.dispatched_simdgroups =
        (job_->threads + abi::lanes - 1) / abi::lanes;
    std::memcpy(stack_of(t) - abi::stack_stride, &kCanary, sizeof(kCanary));
  }
}

void Worker::prepare_threads(uint32_t group_index) {
  const device::Size3& groups = job_->launch->threadgroups;
  const device::Size3& whole = job_->launch->threads_per_threadgroup;
  const device::Size3 group = {group_index % groups[0],
                               group_index / groups[0] % groups[1],
                               group_index / groups[0] / groups[1]};
  device::Size3 size{};
  for (size_t i = 0; i < 3; ++i) {
    size[i] = std::min(whole[i], job_->grid[i] - group[i] * whole[i]);
  }
  if (size != size_) lay_out(size);
  for (uint32_t t = 0; t < threads_; ++t) {
    std::copy(group.begin(), group.end(), head_->threads[t].group);
  }
}

void Worker::prepare_stacks() {
  for (uint32_t i = 0; i < simdgroup_count_; ++i) {
    Simdgroup& s = simdgroups_[i];
    const uint32_t first = i * abi::lanes;
    s.state = State::ready;
    s.count = std::min(abi::lanes, threads_ - first);
    s.live = s.count;
    s.gone = 0;
    s.active = s.count == abi::lanes ? ~0u : (1u << s.count) - 1;
    s.is_apart = false;
    s.held = 0;
    s.waiting = 0;
    std::memset(s.visits, 0, sizeof(s.visits));
    s.resume = random_.below(s.count);
    s.step = s.count == abi::lanes ? random_.next() % abi::lanes | 1 : 1;
    s.epoch = 1;
    for (uint32_t lane = 0; lane < s.count; ++lane) {
      s.stacks[lane] = prepare_fiber(stack_of(first + lane), lane_entry);
    }
  }
}

std::string Worker::execute(uint32_t group_index) {
  random_ = Random(job_->options->seed * 0x9e3779b97f4a7c15u + group_index);
  prepare_threads(group_index);
  prepare_stacks();
  head_->arguments = job_->arguments;
  group_index_ = group_index;
  group_epoch_ = 1;
  if (job_->checker) {
    job_->checker->begin_threadgroup(
        reinterpret_cast<const std::byte*>(group_memory_));
  }
  group_bytes_ = 0;
  waiting_ = 0;
  std::fill(std::begin(locals_), std::end(locals_), UINT32_MAX);
  error_.clear();
  for (size_t slot = 0; slot < job_->dynamic_bytes.size(); ++slot) {
    head_->arguments.group_memory[slot] = group_memory_ + group_bytes_;
    group_bytes_ += job_->dynamic_bytes[slot];
  }
  poison(group_memory_, group_bytes_);
  if (sigsetjmp(escape_, 1) == 0) {
    is_running_ = true;
    enter(random_.below(simdgroup_count_));
    leave_to(&main_stack_);
  }
  is_running_ = false;
  for (uint32_t t = 0; t < threads_ && error_.empty(); ++t) {
    uint64_t canary = 0;
    std::memcpy(&canary, stack_of(t) - abi::stack_stride, sizeof(canary));
    if (canary != kCanary) {
      error_ = "kernel " + std::string(job_->kernel->name) +
               ": a thread's private variables exceed 64 KiB";
    }
  }
  return error_;
}

// Makes a simdgroup the running one; its lane `resume` comes next.
void Worker::enter(uint32_t simdgroup) {
  current_ = simdgroup;
  Simdgroup& s = simdgroups_[simdgroup];
  context_->slots = head_->slots[simdgroup];
  context_->simdgroup = simdgroup;
  context_->log_length = 0;
  context_->arrived = 0;
  context_->active = s.active;
  context_->gone = s.gone;
  resume_lane(s.resume);
}

void Worker::run_lane() {
  const uint32_t thread = current_ * abi::lanes + context_->lane;
  job_->kernel->thunk(&head_->arguments, &head_->threads[thread]);
  lane_returned();
}

void Worker::lane_returned() {
  Simdgroup& s = simdgroups_[current_];
  for (uint32_t left = s.waiting; left != 0; left &= left - 1) {
    const Site& site = s.is_apart ? s.sites[std::countr_zero(left)] : s.site;
    if (is_of_active_lanes(site.op)) continue;
    fail("a lane returns while others of its simdgroup wait at the " +
             std::string(name_of(site.op)) + " of line " +
             std::to_string(site.line),
         context_->line);
  }
  if (context_->log_position != context_->log_length) {
    fail("a lane returns before a matrix multiply that others reach",
         context_->line);
  }
  void* gone = nullptr;
  context_->gone = s.gone |= 1u << context_->lane;
  if (--s.live > 0) {
    if (context_->arrived == s.live) {  // All waited for this one.
      const Site site = s.site;
      if (s.is_apart) {
        choose(s, s.sites[std::countr_zero(s.waiting)]);
      } else {
        meet(s, s.waiting, site);
      }
    }
    next_lane(&gone);
  }
  s.state = State::done;
  if (job_->checker != nullptr) job_->checker->synchronized(current_);
  uint32_t next = 0;
  if (pick(next)) {
    enter(next);
    leave_to(&gone);
  }
  orchard_fiber_switch(&gone, main_stack_);
  __builtin_unreachable();
}

void Worker::diverge(const Site& here, const Site& other) {
  fail("lanes of a simdgroup diverge: one reaches the " +
           std::string(name_of(here.op)) + " here while others wait at the " +
           name_of(other.op) + " of line " + std::to_string(other.line),
       here.line);
}

void Worker::refuse(abi::Op op, uint32_t line) {
  const std::string name = name_of(op);
  fail(context_->log_position != context_->log_length
           ? "lanes of a simdgroup diverge: one reaches the " + name +
                 " here, others a matrix multiply before it"
           : "a " + name +
                 " is reached after other lanes of the simdgroup returned",
       line);
}

// Each lane comes here at each collective: what is rare is elsewhere.
bool Worker::sync(abi::Op op, uint64_t key, uint32_t line, uint32_t flags) {
  Simdgroup& s = simdgroups_[current_];
  context_->line = line;
  if (context_->log_position != context_->log_length ||
      (s.gone != 0 && !is_of_active_lanes(op))) [[unlikely]] {
    refuse(op, line);
  }
  if (context_->arrived == 0) {
    s.site.op = op;
    s.site.key = key;
    s.site.line = line;
    s.site.flags = flags;
  } else if (s.is_apart || op != s.site.op || key != s.site.key ||
             line != s.site.line) [[unlikely]] {
    return wait_apart(s, {op, key, line, flags});
  }
  s.waiting |= 1u << context_->lane;
  if (++context_->arrived < s.live) {
    next_lane(&s.stacks[context_->lane]);
    return false;
  }
  complete(s, {op, key, line, flags});
  return true;
}

// Lanes in divergent flow meet at a collective of their own: those that wait at
// another one let them go first, and are met again later.
bool Worker::wait_apart(Simdgroup& s, const Site& site) {
  const uint32_t lane = context_->lane;
  if (!s.is_apart) {
    const bool is_here = is_of_active_lanes(site.op);
    const bool is_there = is_of_active_lanes(s.site.op);
    const auto is_matrix = [](abi::Op op) {
      return op == abi::Op::matrix || op == abi::Op::matrix_memory;
    };
    if ((!is_here && !is_there) || is_matrix(site.op) || is_matrix(s.site.op)) {
      diverge(site, s.site);
    }
    s.is_apart = true;
    for (Site& other : s.sites) other = s.site;
  }
  s.sites[lane] = site;
  s.waiting |= 1u << lane;
  s.held = s.waiting;
  if (++context_->arrived < s.live) {
    next_lane(&s.stacks[lane]);
    return false;
  }
  const uint32_t lanes = choose(s, site);
  if ((lanes >> lane & 1) == 0) next_lane(&s.stacks[lane]);
  return true;
}

// All lanes wait, at different sites: lets those at one of them go on.  That is
// the first in the text, which the others then reach or have left behind, as
// branches join behind their end.  Where both may be in one loop, nobody can
// tell who waits for whom.
uint32_t Worker::choose(Simdgroup& s, const Site& site) {
  const Site* first = nullptr;
  for (uint32_t left = s.waiting; left != 0; left &= left - 1) {
    const Site& here = s.sites[std::countr_zero(left)];
    if (!is_of_active_lanes(here.op)) continue;
    if (first == nullptr || here.line < first->line) first = &here;
  }
  const Site chosen = first != nullptr ? *first : site;
  uint32_t lanes = 0;
  for (uint32_t left = s.waiting; left != 0; left &= left - 1) {
    const int lane = std::countr_zero(left);
    if (s.sites[lane] == chosen) lanes |= 1u << lane;
  }
  s.held = s.waiting & ~lanes;
  if (s.held == 0) {
    s.is_apart = false;
    complete(s, chosen);
    return lanes;
  }
  const Site& other = s.sites[std::countr_zero(s.held)];
  if (first == nullptr) diverge(chosen, other);
  const uint16_t* visits = s.visits[chosen.row()];
  const uint32_t count = visits[std::countr_zero(lanes)];
  for (uint32_t left = s.held; left != 0; left &= left - 1) {
    const int lane = std::countr_zero(left);
    if (count != 0 && visits[lane] == count &&
        is_of_active_lanes(s.sites[lane].op)) {
      diverge(chosen, s.sites[lane]);
    }
  }
  meet(s, lanes, chosen);
  context_->arrived = static_cast<uint32_t>(std::popcount(s.held));
  return lanes;
}

// Some lanes have arrived at a collective, and may go on.
void Worker::meet(Simdgroup& s, uint32_t lanes, const Site& site) {
  // A loop of collectives is seldom met in the kernel's own code.
  if (watch_->is_stopped()) [[unlikely]]
    fail(watch_->reason(), site.line);
  count(site.op);
  if (job_->checker != nullptr) job_->checker->synchronized(current_);
  if (is_of_active_lanes(site.op)) {
    std::memcpy(context_->slots + abi::lanes, context_->slots,
                abi::lanes * sizeof(abi::u64));
    uint16_t* visits = s.visits[site.row()];
    for (uint32_t lane = 0; lane < abi::lanes; ++lane) {
      visits[lane] += static_cast<uint16_t>(lanes >> lane & 1);
    }
  }
  s.waiting &= ~lanes;
  context_->arrived = 0;
  context_->log_length = 0;
  context_->log_position = 0;
  context_->touched = 0;
  context_->active = s.active = lanes;
}

void Worker::complete(Simdgroup& s, const Site& site) {
  meet(s, s.waiting, site);
  if (s.count != abi::lanes && site.op == abi::Op::matrix) {
    fail("a matrix multiply needs all 32 lanes; this simdgroup has " +
             std::to_string(s.count),
         site.line);
  }
  s.resume = context_->lane;
  if (site.op == abi::Op::threadgroup_barrier) {
    barrier(s, site.line, site.flags);
    return;
  }
  if (site.op == abi::Op::simdgroup_barrier &&
      (fences_all_ || (site.flags & kThreadgroupFlag) != 0)) {
    s.epoch += 1;
  }
  if (simdgroup_count_ > 1 && job_->options->seed != 0 &&
      random_.below(64) == 0) {
    uint32_t next = 0;
    if (pick(next) && next != current_) {
      enter(next);
      leave_to(&s.stacks[s.resume]);
    }
  }
}

void Worker::count(abi::Op op) {
  abi::Counters& c = context_->counters;
  switch (op) {
    case abi::Op::shuffle:
      c.shuffles += 1;
      break;
    case abi::Op::reduce:
      c.reductions += 1;
      break;
    case abi::Op::vote:
      c.votes += 1;
      break;
    case abi::Op::simdgroup_barrier:
      c.simdgroup_barriers += 1;
      break;
    case abi::Op::matrix:
    case abi::Op::matrix_memory:
    case abi::Op::threadgroup_barrier:
      break;
  }
}

void Worker::barrier(Simdgroup& s, uint32_t line, uint32_t flags) {
  if (waiting_ == 0) {
    barrier_line_ = line;
    barrier_flags_ = flags;
  }
  if (barrier_line_ != line) {
    fail(
        "simdgroups wait at different threadgroup barriers: here and at line " +
            std::to_string(barrier_line_),
        line);
  }
  s.state = State::at_barrier;
  ++waiting_;
  uint32_t next = 0;
  pick(next);
  if (next == current_) return;
  enter(next);
  leave_to(&s.stacks[s.resume]);
}

// A ready simdgroup by the seed; opens the barrier when all stand at it.
bool Worker::pick(uint32_t& next) {
  if (waiting_ == simdgroup_count_) release_barrier();
  uint32_t ready = 0;
  for (uint32_t i = 0; i < simdgroup_count_; ++i) {
    ready += simdgroups_[i].state == State::ready;
  }
  if (ready == 0) {
    if (waiting_ == 0) return false;
    fail("a threadgroup barrier is not reached by all threads: " +
             std::to_string(waiting_) + " of " +
             std::to_string(simdgroup_count_) +
             " simdgroups wait, the others have returned",
         barrier_line_);
  }
  uint32_t skip = random_.below(ready);
  for (uint32_t i = 0; i < simdgroup_count_; ++i) {
    if (simdgroups_[i].state == State::ready && skip-- == 0) next = i;
  }
  return true;
}

void Worker::release_barrier() {
  waiting_ = 0;
  context_->counters.threadgroup_barriers += 1;
  const bool is_fence = fences_all_ || (barrier_flags_ & kThreadgroupFlag) != 0;
  group_epoch_ += is_fence;
  for (uint32_t i = 0; i < simdgroup_count_; ++i) {
    simdgroups_[i].state = State::ready;
    simdgroups_[i].epoch += is_fence;
  }
}

void* Worker::local(uint32_t id, uint64_t bytes, uint64_t alignment) {
  if (id >= abi::max_locals) fail("too many threadgroup variables", 0);
  if (locals_[id] == UINT32_MAX) {
    const uint64_t step = std::max<uint64_t>(alignment, 16);
    const uint64_t at = (group_bytes_ + step - 1) / step * step;
    if (at + bytes > kMaxGroupBytes) {
      fail("threadgroup memory: " + std::to_string(at + bytes) +
               " bytes needed, 32768 allowed",
           context_->line);
    }
    locals_[id] = static_cast<uint32_t>(at);
    group_bytes_ = static_cast<uint32_t>(at + bytes);
    poison(group_memory_ + at, bytes);
  }
  return group_memory_ + locals_[id];
}

std::string Worker::describe_place(const std::string& line) const {
  const abi::Thread& thread =
      head_->threads[current_ * abi::lanes + context_->lane];
  std::string text = "kernel " + std::string(job_->kernel->name);
  if (!line.empty()) text += ", " + line;
  text += ", threadgroup (" + std::to_string(thread.group[0]) + ", " +
          std::to_string(thread.group[1]) + ", " +
          std::to_string(thread.group[2]) + "), simdgroup " +
          std::to_string(current_) + ", lane " + std::to_string(context_->lane);
  return text;
}

std::string Worker::file_and_line(const void* pc) const {
  return job_->binary->line_of(pc);
}

void Worker::fail(const std::string& what, uint32_t line) {
  fail(what, line != 0 ? "line " + std::to_string(line) : std::string());
}

// The strings of the lane's frames are lost: its stack is abandoned.
void Worker::fail(const std::string& what, const std::string& line) {
  error_ = describe_place(line) + ": " + what;
  void* gone = nullptr;
  orchard_fiber_switch(&gone, main_stack_);
  __builtin_unreachable();
}

void Worker::access(const void* at,
                    uint64_t bytes,
                    bool is_write,
                    bool is_vector,
                    const void* pc) {
  if (job_->checker == nullptr) return;
  Accessor who;
  who.group = group_index_;
  who.thread = current_ * abi::lanes + context_->lane;
  who.simdgroup = current_;
  who.group_epoch = group_epoch_;
  who.simdgroup_epoch = simdgroups_[current_].epoch;
  if (job_->checker->access(
          who,
          {static_cast<const std::byte*>(at), bytes, is_write, is_vector, pc},
          group_bytes_, context_->counters)) {
    return;
  }
  std::string problem = job_->checker->problem();
  if (const void* other = job_->checker->other_pc()) {
    problem += " (the earlier access: " + file_and_line(other) + ")";
  }
  fail(problem, file_and_line(pc));
}

void Worker::wrong_index(uint32_t line, const void* pc) {
  if (job_->allows("bounds", file_and_line(pc))) return;
  fail("out of bounds: an index that its array does not have", line);
}

void Worker::fault(const void* address, const void* pc, bool is_alignment) {
  is_running_ = false;
  error_ = describe_place(file_and_line(pc)) + ": " +
           (is_alignment ? "misaligned vector access"
                         : describe_address(address, *job_));
  siglongjmp(escape_, 1);
}

void Worker::stop(const void* pc) {
  if (!job_->binary->holds(pc)) return;
  is_running_ = false;
  error_ = describe_place(file_and_line(pc)) + ": " + watch_->reason();
  siglongjmp(escape_, 1);
}

}  // namespace orchard::sim
