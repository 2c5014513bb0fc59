// csrc/device/longest.cpp: see longest.h.
#include "device/longest.h"

#include <atomic>

namespace orchard::device {
namespace {

// Backwards run in autograd's threads: one number for all of them.
std::atomic<double> longest{kLongestSeconds};

}  // namespace

double longest_seconds() { return longest; }

void set_longest_seconds(double seconds) { longest = seconds; }

}  // namespace orchard::device
