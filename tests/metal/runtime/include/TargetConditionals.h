// tests/metal/runtime/include/TargetConditionals.h: metal-cpp is compiled as
// for macOS.
#pragma once

#define TARGET_OS_OSX 1
#define TARGET_OS_IPHONE 0
