// tests/metal/runtime/pytorch/fallback.cpp: every other operator of PyTorch's
// mps device, on the CPU; none that PyTorch itself has no kernel of MPS for.
#include <ATen/ATen.h>
#include <ATen/native/CPUFallback.h>
#include <torch/library.h>

#include <cstdlib>
#include <iterator>
#include <sstream>
#include <string>
#include <unordered_set>

namespace standin {
namespace {

// The operators of ATen that MPS has, without "aten::"; all, if none is named.
const std::unordered_set<std::string>& operators() {
  static const auto& names = *new std::unordered_set<std::string>([] {
    const char* named = std::getenv("STANDIN_OPERATORS");
    std::istringstream words(named == nullptr ? "" : named);
    using Word = std::istream_iterator<std::string>;
    return std::unordered_set<std::string>(Word(words), Word());
  }());
  return names;
}

// As on a Mac, unless PYTORCH_ENABLE_MPS_FALLBACK is set there.
void check_operator(const std::string& full) {
  if (operators().empty() || full.rfind("aten::", 0) != 0) return;
  const std::string name = full.substr(6);
  TORCH_CHECK_NOT_IMPLEMENTED(
      operators().count(name) + operators().count(name + "_symint") > 0,
      "The operator '", full,
      "' is not currently implemented for the MPS device: the macOS wheel of "
      "this PyTorch exports no kernel for it");
}

// Early versions' fallback leaves lists of indices on their device.
c10::IValue on_cpu(const c10::IValue& value) {
  auto indices = value.toOptionalTensorList().copy();
  for (size_t i = 0; i < indices.size(); ++i) {
    const auto index = indices.get(i);
    if (index.has_value() && index->defined()) indices.set(i, index->cpu());
  }
  return indices;
}

void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  check_operator(op.schema().name());
  const size_t count = op.schema().arguments().size();
  for (size_t i = stack->size() - count; i < stack->size(); ++i) {
    c10::IValue& value = (*stack)[i];
    if (value.isOptionalTensorList()) value = on_cpu(value);
  }
  at::native::cpu_fallback(op, stack);
}

TORCH_LIBRARY_IMPL(_, MPS, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

}  // namespace
}  // namespace standin
