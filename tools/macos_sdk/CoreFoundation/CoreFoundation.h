// tools/macos_sdk/CoreFoundation/CoreFoundation.h: the two types that metal-cpp
// names, for builds where Apple's SDK is not at hand.
#pragma once

typedef double CFTimeInterval;
typedef const struct __CFString* CFStringRef;
