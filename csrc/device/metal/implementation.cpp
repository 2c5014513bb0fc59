// csrc/device/metal/implementation.cpp: the one file that defines metal-cpp's
// tables of classes and selectors.  Hidden, because another library in the
// process may hold the tables of another metal-cpp.
#define METALCPP_SYMBOL_VISIBILITY_HIDDEN
#define NS_PRIVATE_IMPLEMENTATION
#define MTL_PRIVATE_IMPLEMENTATION
#include <Foundation/Foundation.hpp>
#include <Metal/Metal.hpp>
