// csrc/device/sim/execute/fault.cpp: turns a kernel's stray access, which hits
// a guard page, into an error of its dispatch.
#include <signal.h>
#include <sys/mman.h>
#if defined(__APPLE__)
#include <sys/ucontext.h>
#else
#include <ucontext.h>
#endif

#include <mutex>

#include "device/sim/execute/buffer.h"
#include "device/sim/execute/signals.h"
#include "device/sim/execute/watch.h"
#include "device/sim/execute/worker.h"

namespace orchard::sim {
namespace {

struct sigaction previous_segv;
struct sigaction previous_bus;
struct sigaction previous_stop;

bool is_general_fault(const siginfo_t& info) {
#if defined(__linux__)
  return info.si_code == SI_KERNEL;
#else
  (void)info;
  return false;
#endif
}

// One past the faulting instruction's first byte, like a return address.
const void* program_counter(void* context) {
#if defined(__linux__) && defined(__x86_64__)
  const auto* c = static_cast<const ucontext_t*>(context);
  return reinterpret_cast<const char*>(c->uc_mcontext.gregs[REG_RIP]) + 1;
#elif defined(__linux__) && defined(__aarch64__)
  const auto* c = static_cast<const ucontext_t*>(context);
  return reinterpret_cast<const char*>(c->uc_mcontext.pc) + 1;
#else
  (void)context;
  return nullptr;
#endif
}

void on_fault(int signal, siginfo_t* info, void* context) {
  Worker* worker = Worker::current();
  if (worker != nullptr && worker->is_running()) {
    // x86 reports a misaligned vector as a fault without an address.
    const bool is_alignment = signal == SIGBUS || is_general_fault(*info);
    worker->fault(info->si_addr, program_counter(context), is_alignment);
  }
  const struct sigaction& previous =
      signal == SIGSEGV ? previous_segv : previous_bus;
  if (!hand_on(previous, signal, info, context)) {
    // Returning runs into the fault again, now with the default action.
    struct sigaction action{};
    action.sa_handler = SIG_DFL;
    sigaction(signal, &action, nullptr);
  }
}

// The watch asks for the launch's end.
void on_stop(int signal, siginfo_t* info, void* context) {
  Worker* worker = Worker::current();
  if (worker != nullptr && worker->is_running() && worker->shall_stop()) {
    worker->stop(program_counter(context));
    return;
  }
  hand_on(previous_stop, signal, info, context);
}

using Handler = void (*)(int, siginfo_t*, void*);

void install(int signal, Handler handler, struct sigaction& previous) {
  struct sigaction now{};
  sigaction(signal, nullptr, &now);
  if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == handler) return;
  previous = now;
  struct sigaction action{};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, nullptr);
}

// The lane's stack pointer may be what is wrong: handlers get their own stack.
struct AlternateStack {
  AlternateStack() {
    stack_t present{};
    sigaltstack(nullptr, &present);
    if ((present.ss_flags & SS_DISABLE) == 0 && present.ss_size >= kBytes) {
      return;
    }
    memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack_t fresh{};
    fresh.ss_sp = memory;
    fresh.ss_size = kBytes;
    sigaltstack(&fresh, &old);
  }
  ~AlternateStack() {
    if (memory == nullptr) return;
    sigaltstack(&old, nullptr);
    munmap(memory, kBytes);
  }
  static constexpr size_t kBytes = 65536;
  void* memory = nullptr;
  stack_t old{};
};

}  // namespace

void install_handlers() {
  static std::mutex mutex;
  thread_local AlternateStack stack;
  (void)stack;
  const std::lock_guard lock(mutex);
  install(SIGSEGV, on_fault, previous_segv);
  install(SIGBUS, on_fault, previous_bus);
  install(kStopSignal, on_stop, previous_stop);
}

std::string describe_address(const void* address, const Job& job) {
  Buffer* near = find_near(address);
  if (near == nullptr) {
    return address == nullptr ? "access through a null pointer"
                              : "out of bounds: access outside every buffer";
  }
  for (const auto& [index, buffer] : job.unbound) {
    if (buffer == near) {
      return "nothing is bound at index " + std::to_string(index);
    }
  }
  const auto offset = static_cast<const std::byte*>(address) - bytes(near);
  std::string text = "out of bounds: access at byte " + std::to_string(offset) +
                     " of a buffer of " + std::to_string(length_bytes(near)) +
                     " bytes";
  for (const device::Argument& argument : job.launch->arguments) {
    if (argument.bytes.empty() && argument.view.handle == near) {
      return text + " bound at index " + std::to_string(argument.index);
    }
  }
  return text + " that is not bound";
}

}  // namespace orchard::sim
