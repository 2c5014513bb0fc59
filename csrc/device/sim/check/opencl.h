// csrc/device/sim/check/opencl.h: what of Metal's C++ is said differently in
// C++ for OpenCL, whose type checker reads the text next; see msl/accept.h.
#pragma once

#include <string>
#include <string_view>

namespace orchard::sim {

// Classes get the copies from constant memory that this language does not give
// them, member functions their space, and numbers of bfloat another spelling.
// Lines stay.
std::string to_opencl(std::string_view text);

// Rewrites what the type checker's message complains of although Metal has no
// rule against it, so that it can look again; returns the text itself if there
// is nothing of that kind:
// - Both values of a conditional operator, where one is a variable of a class
//   and one a result of that class, are copied first.
// - A reference to const in thread space takes a temporary object.
// - A member function, which is for objects of all spaces, gives a reference or
//   a pointer in thread space to a member, or passes a member to a function
//   that takes one.
// - An object that becomes a number is added to a pointer.
// - A component of a vector whose type depends on a template is added to.
std::string repair(std::string_view text, std::string_view message);

}  // namespace orchard::sim
