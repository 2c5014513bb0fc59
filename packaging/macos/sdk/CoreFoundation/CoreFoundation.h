// packaging/macos/sdk/CoreFoundation/CoreFoundation.h: the two types that metal-cpp
// names, for builds where Apple's SDK is not at hand.
#pragma once

// As Apple's does (through CFStream.h): older metal-cpp includes it nowhere.
#include <dispatch/dispatch.h>

typedef double CFTimeInterval;
typedef const struct __CFString* CFStringRef;
