// csrc/device/sim/execute/watch.cpp: see watch.h.
#include "device/sim/execute/watch.h"

#if defined(__linux__)
#include <sys/syscall.h>
#endif
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <sstream>
#include <thread>

#include "device/sim/execute/signals.h"

namespace orchard::sim {
namespace {

using std::chrono::milliseconds;

constexpr auto kPeriod = milliseconds(50);
constexpr auto kInsistence = milliseconds(2);  // between requests to stop
// A launch that ends by itself so soon is left alone: then what the user's own
// handler says happens between launches.
constexpr auto kGrace = milliseconds(300);
constexpr int kIdlePeriods = 20;

struct sigaction previous_interrupt;
// Set by whichever thread gets the signal, read by the watching one.
std::atomic<bool> is_interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);

void on_interrupt(int signal, siginfo_t* info, void* context) {
  is_interrupted = true;
  hand_on(previous_interrupt, signal, info, context);
}

bool is_ours(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) != 0 &&
         action.sa_sigaction == on_interrupt;
}

// False where a SIGINT ends the process, or nothing, anyway.
bool listen_for_interrupts() {
  is_interrupted = false;
  struct sigaction now{};
  sigaction(SIGINT, nullptr, &now);
  if (is_ours(now)) return true;
  const bool has_handler =
      (now.sa_flags & SA_SIGINFO) != 0 ||
      (now.sa_handler != SIG_DFL && now.sa_handler != SIG_IGN);
  if (!has_handler) return false;
  previous_interrupt = now;
  now.sa_sigaction = on_interrupt;
  now.sa_flags |= SA_SIGINFO | SA_ONSTACK;  // lanes' stacks are small
  sigaction(SIGINT, &now, nullptr);
  return true;
}

void stop_listening() {
  struct sigaction now{};
  sigaction(SIGINT, &previous_interrupt, &now);
  if (!is_ours(now)) sigaction(SIGINT, &now, nullptr);  // set meanwhile
}

}  // namespace

// The thread that looks at the present launch now and then; it sleeps once
// there has been none for a while.
class Watcher {
 public:
  Watcher() {
    std::thread([this] { run(); }).detach();
  }

  void begin(Watch* watch) {
    const std::lock_guard lock(mutex_);
    watch_ = watch;
    is_used_ = true;
    if (is_asleep_) changed_.notify_one();
  }
  void end() {
    const std::lock_guard lock(mutex_);
    watch_ = nullptr;
  }
  std::mutex& mutex() { return mutex_; }

  // Never destroyed, as its thread is not; a forked process needs its own.
  static Watcher& instance() {
    static Watcher* watcher = nullptr;
    static pid_t process = 0;
    if (watcher == nullptr || process != getpid()) {
      watcher = new Watcher;
      process = getpid();
    }
    return *watcher;
  }

 private:
  void run() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, nullptr);
    std::unique_lock lock(mutex_);
    for (int idle = 0;;) {
      idle = is_used_ || watch_ != nullptr ? 0 : idle + 1;
      is_used_ = false;
      if (idle > kIdlePeriods) {
        is_asleep_ = true;
        changed_.wait(lock, [this] { return is_used_; });
        is_asleep_ = false;
      }
      if (watch_ != nullptr) watch_->look(Watch::Clock::now());
      const bool insists = watch_ != nullptr && watch_->is_stopped();
      changed_.wait_for(lock, insists ? kInsistence : kPeriod);
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  Watch* watch_ = nullptr;
  bool is_used_ = false;  // since the last look: waking it costs more than that
  bool is_asleep_ = false;
};

Watch::Watch(double timeout_seconds, bool hears_interrupts)
    : watcher_(Watcher::instance()),
      timeout_seconds_(timeout_seconds),
      start_(Clock::now()) {
  sees_interrupts_ = hears_interrupts && listen_for_interrupts();
  watcher_.begin(this);
}

Watch::~Watch() {
  watcher_.end();
  if (sees_interrupts_) stop_listening();
}

Watch::Member::Member(Watch& watch) : watch_(watch) {
  const std::lock_guard lock(watch_.watcher_.mutex());
  watch_.members_.push_back(pthread_self());
}

Watch::Member::~Member() {
  const std::lock_guard lock(watch_.watcher_.mutex());
  std::erase_if(watch_.members_, [](pthread_t member) {
    return pthread_equal(member, pthread_self()) != 0;
  });
}

void Watch::look(Clock::time_point now) {
  if (!is_stopped()) {
    const std::chrono::duration<double> seconds = now - start_;
    if (timeout_seconds_ > 0 && seconds.count() >= timeout_seconds_) {
      std::ostringstream text;
      text << "did not end within its timeout of " << timeout_seconds_
           << " seconds; allow it more if it ends at all";
      stop(text.str());
    } else if (!sees_interrupts_ || !is_interrupted) {
      interrupted_ = now;
    } else if (now - interrupted_ >= kGrace) {
      stop("interrupted by SIGINT");
    }
  }
  if (!is_stopped()) return;
  for (const pthread_t member : members_) pthread_kill(member, kStopSignal);
}

bool is_main_thread() {
#if defined(__APPLE__)
  return pthread_main_np() != 0;
#else
  return syscall(SYS_gettid) == getpid();
#endif
}

void Watch::stop(std::string reason) {
  reason_ = std::move(reason);
  is_stopped_.store(true, std::memory_order_release);
}

}  // namespace orchard::sim
