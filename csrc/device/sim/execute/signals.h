// csrc/device/sim/execute/signals.h: sharing signals with whoever handled them
// before.
#pragma once

#include <signal.h>

namespace orchard::sim {

// Calls the handler that stood there before ours; false when there was none.
inline bool hand_on(const struct sigaction& previous,
                    int signal,
                    siginfo_t* info,
                    void* context) {
  if ((previous.sa_flags & SA_SIGINFO) != 0 && previous.sa_sigaction) {
    previous.sa_sigaction(signal, info, context);
    return true;
  }
  if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
    return false;
  }
  previous.sa_handler(signal);
  return true;
}

}  // namespace orchard::sim
