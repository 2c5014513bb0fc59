// csrc/device/sim/execute/watch.h: ends a launch that takes too long, or that
// the user interrupts.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <string>
#include <vector>

namespace orchard::sim {

// Sent to the threads of a launch that shall end; ignored by everybody else.
constexpr int kStopSignal = SIGURG;

class Watcher;

// Watches one launch, from another thread: the kernel's own code is not slowed.
// One at a time.
class Watch {
 public:
  using Clock = std::chrono::steady_clock;

  // 0 seconds: no limit.
  Watch(double timeout_seconds, bool hears_interrupts);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // The thread that makes it executes threadgroups for as long as it lives.
  class Member {
   public:
    explicit Member(Watch& watch);
    ~Member();
    Member(const Member&) = delete;
    Member& operator=(const Member&) = delete;

   private:
    Watch& watch_;
  };

  bool is_stopped() const {
    return is_stopped_.load(std::memory_order_acquire);
  }
  // Why it was stopped.
  const std::string& reason() const { return reason_; }

  // From the watching thread: stops the launch if it is time.  A thread that
  // is not in its kernel's code cannot stop there, and is asked again.
  void look(Clock::time_point now);

 private:
  void stop(std::string reason);

  Watcher& watcher_;
  const double timeout_seconds_;
  const Clock::time_point start_;
  bool sees_interrupts_ = false;
  Clock::time_point interrupted_{};  // or the last look before that
  std::vector<pthread_t> members_;
  std::string reason_;
  std::atomic<bool> is_stopped_{false};
};

// Whether this is the thread that Python tells of signals.
bool is_main_thread();

}  // namespace orchard::sim
