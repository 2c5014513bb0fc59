// csrc/device/longest.h: how long a command buffer of ours may keep the GPU.
#pragma once

namespace orchard::device {

// macOS ends command buffers that keep the GPU for some seconds, and until one
// ends nothing is drawn on the screen.
inline constexpr double kLongestSeconds = 0.5;

// Of predicted time on the slowest GPU.  Tests make it shorter.
double longest_seconds();
void set_longest_seconds(double seconds);

}  // namespace orchard::device
