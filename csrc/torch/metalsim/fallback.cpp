// csrc/torch/metalsim/fallback.cpp: runs any operator on the CPU, in place on
// the memory of the metalsim tensors it is given.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <torch/library.h>

#include <mutex>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "torch/metalsim/device.h"
#include "torch/metalsim/host_views.h"
#include "torch/metalsim/kernels.h"

namespace orchard::metalsim {
namespace {

constexpr c10::DispatchKeySet cpu(c10::DispatchKey::CPU);

// Operators whose CPU arguments belong on the CPU even for a GPU's tensors.
bool takes_host_tensors(std::string_view name) {
  return name == "aten::_pack_padded_sequence" ||
         name == "aten::_pad_packed_sequence" || name == "aten::_ctc_loss" ||
         name == "aten::_ctc_loss_backward";
}

bool is_generator(const c10::Argument& argument) {
  const auto* optional = argument.type()->castRaw<c10::OptionalType>();
  const c10::TypeKind kind = optional != nullptr
                                 ? optional->getElementType()->kind()
                                 : argument.type()->kind();
  return kind == c10::TypeKind::GeneratorType;
}

// One call of one operator.
class Call {
 public:
  Call(const c10::OperatorHandle& op, torch::jit::Stack* stack)
      : op_(op), stack_(*stack) {}

  void run() {
    TORCH_CHECK_NOT_IMPLEMENTED(
        op_.hasComputedKernelForDispatchKey(c10::DispatchKey::CPU),
        "[UnsupportedError] metalsim: operator ", op_.operator_name(),
        " has neither a metalsim nor a CPU kernel");
    // Autograd has already seen the call; the CPU tensors must not start it.
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    replace_arguments();
    op_.redispatchBoxed(cpu, &stack_);
    views_.commit();
    replace_results();
  }

 private:
  void replace_arguments() {
    const auto& arguments = op_.schema().arguments();
    const size_t first = stack_.size() - arguments.size();
    for (size_t i = 0; i < arguments.size(); ++i) {
      replace_argument(arguments[i], stack_[first + i]);
    }
  }

  void replace_argument(const c10::Argument& argument, c10::IValue& value) {
    if (value.isTensor()) {
      value = to_host(argument, value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> hosts;
      hosts.reserve(value.toListRef().size());
      for (const c10::IValue& element : value.toListRef()) {
        hosts.push_back(to_host(argument, element.toTensor()));
      }
      value = std::move(hosts);
    } else if (value.isOptionalTensorList()) {
      value = indices_to_host(value);
    } else if (value.isDevice()) {
      stays_on_host_ = value.toDevice().type() != device_type;
      value = c10::Device(c10::DeviceType::CPU);
    } else if (value.isGenerator()) {
      value = host_generator(value.toGenerator());
    } else if (value.isNone() && is_generator(argument)) {
      value = host_generator(default_generator());
    }
  }

  // Tensor?[] holds indices, which may come from the CPU as on any GPU.
  c10::IValue indices_to_host(const c10::IValue& value) {
    auto hosts = value.toOptionalTensorList().copy();
    for (size_t i = 0; i < hosts.size(); ++i) {
      const auto element = hosts.get(i);
      if (element.has_value() && is_metalsim(*element)) {
        hosts.set(i, views_.open(*element));
      }
    }
    return hosts;
  }

  at::Tensor to_host(const c10::Argument& argument, const at::Tensor& tensor) {
    if (is_metalsim(tensor)) return views_.open(tensor);
    if (tensor.defined()) {
      check_place(argument, tensor);
      views_.keep(tensor);
    }
    return tensor;
  }

  // A GPU takes only single numbers from the CPU, and writes none there.
  void check_place(const c10::Argument& argument, const at::Tensor& tensor) {
    const bool written =
        argument.alias_info() != nullptr && argument.alias_info()->isWrite();
    if (tensor.device().is_cpu() && tensor.dim() == 0 && !written) return;
    if (takes_host_tensors(op_.operator_name().name)) return;
    TORCH_CHECK(
        false, op_.operator_name(),
        ": Expected all tensors to be on the same device, but argument '",
        argument.name(), "' is on ", tensor.device(),
        " beside others on metalsim:0");
  }

  void replace_results() {
    const size_t count = op_.schema().returns().size();
    const size_t first = stack_.size() - count;
    for (size_t i = first; i < stack_.size(); ++i) {
      c10::IValue& value = stack_[i];
      if (value.isTensor()) {
        value = to_device(value.toTensor());
      } else if (value.isTensorList()) {
        c10::List<at::Tensor> results;
        results.reserve(value.toListRef().size());
        for (const c10::IValue& element : value.toListRef()) {
          results.push_back(to_device(element.toTensor()));
        }
        value = std::move(results);
      }
    }
  }

  at::Tensor to_device(const at::Tensor& result) {
    return stays_on_host_ ? result : views_.adopt(result);
  }

  const c10::OperatorHandle& op_;
  torch::jit::Stack& stack_;
  HostViews views_;
  bool stays_on_host_ = false;
};

struct Seen {
  std::mutex mutex;
  std::unordered_set<c10::OperatorName> names;
};

Seen& seen() {
  static auto* const it = new Seen;
  return *it;
}

void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  {
    const std::lock_guard lock(seen().mutex);
    seen().names.insert(op.operator_name());
  }
  Call(op, stack).run();
}

torch::CppFunction fallback() {
  return torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>();
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(fallback()); }

bool has_composite(const c10::OperatorHandle& op) {
  using Key = c10::DispatchKey;
  return op.hasKernelForDispatchKey(Key::CompositeExplicitAutograd) ||
         op.hasKernelForDispatchKey(
             Key::CompositeExplicitAutogradNonFunctional) ||
         op.hasKernelForDispatchKey(Key::CompositeImplicitAutograd);
}

}  // namespace

std::vector<std::string> take_fallbacks() {
  const std::lock_guard lock(seen().mutex);
  std::vector<std::string> names;
  for (const auto& name : seen().names) names.push_back(c10::toString(name));
  seen().names.clear();
  return names;
}

void register_kernels_of_cpu(torch::Library& m) {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
    if (name.getNamespace() != "aten") continue;
    const auto op = dispatcher.findSchema(name);
    if (!op.has_value() || !has_composite(*op) ||
        !op->hasKernelForDispatchKey(c10::DispatchKey::CPU) ||
        op->hasKernelForDispatchKey(c10::DispatchKey::PrivateUse1)) {
      continue;
    }
    m.impl(toString(name).c_str(), fallback());
  }
}

}  // namespace orchard::metalsim
