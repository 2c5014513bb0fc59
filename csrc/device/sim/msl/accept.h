// csrc/device/sim/msl/accept.h: Metal's declarations for the type checker of
// accept.h, in C++ for OpenCL.  Nothing is run, so functions have bodies only
// where the optimizer must see through them to keep arrays in registers.
#pragma once

#include "accept_internals.h"
#include "accept_threads.h"
#include "language.h"

// What lies there is const, said or not.
#define constant const __constant
