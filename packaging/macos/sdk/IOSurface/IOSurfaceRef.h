// packaging/macos/sdk/IOSurface/IOSurfaceRef.h: the one type that metal-cpp names,
// for builds where Apple's SDK is not at hand.
#pragma once

typedef struct __IOSurface* IOSurfaceRef;
