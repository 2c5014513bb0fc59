// csrc/device/sim/compile/translate.h: from preprocessed Metal to C++ for the
// compiler.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace orchard::sim {

struct KernelParameter {
  std::string name;
  std::string source;  // C++ type of entry.h that provides it
  bool is_reference = false;
  bool has_attribute = false;
};

struct KernelText {
  std::string name;      // as the host asks for it
  std::string function;  // C++ expression, qualified
  std::string scope;     // namespaces around it, as in "a::b::"
  std::string head;      // <…> behind `template`; empty for plain kernels
  std::string max_threads = "0";
  std::vector<KernelParameter> parameters;
  bool is_template = false;  // the template itself, not an instance
};

struct Translation {
  std::string body;
  std::vector<KernelText> kernels;
};

// What C++ lacks is rewritten (attributes, literals, threadgroup variables).
// Lines keep their numbers.
Translation translate_text(std::string_view preprocessed);

// The body, and after it a table of its kernels for the simulator.
std::string translate(std::string_view preprocessed);

}  // namespace orchard::sim
