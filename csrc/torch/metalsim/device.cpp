// csrc/torch/metalsim/device.cpp: device guard, hooks and generator.
#include "torch/metalsim/device.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/GeneratorForPrivateuseone.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <utility>

#include "torch/metalsim/compat.h"
#include "torch/metalsim/memory.h"

namespace orchard::metalsim {
namespace {

void check_device(c10::Device asked) {
  TORCH_CHECK(asked.type() == device_type && asked.index() <= 0,
              "metalsim: expected device metalsim:0, got ", asked);
}

c10::Stream default_stream() {
  return c10::Stream(c10::Stream::DEFAULT, device());
}

// One device and one stream on it, on which everything has already happened:
// operators run to their end in the calling thread.
class Guard final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return device_type; }
  c10::Device exchangeDevice(c10::Device next) const override {
    check_device(next);
    return device();
  }
  c10::Device getDevice() const override { return device(); }
  void setDevice(c10::Device next) const override { check_device(next); }
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }

  c10::Stream getStream(c10::Device) const noexcept override {
    return default_stream();
  }
  c10::Stream getDefaultStream(c10::Device) const override {
    return default_stream();
  }
  c10::Stream exchangeStream(c10::Stream) const noexcept override {
    return default_stream();
  }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}

  void record(void**,
              const c10::Stream&,
              const c10::DeviceIndex,
              const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }

  // Newer versions' (compat.h); declared so that every version compiles.
  c10::Stream getNewStream(c10::Device, int) const { return default_stream(); }
  void synchronizeEvent(void*) const {}
  void synchronizeDevice(const c10::DeviceIndex) const {}
};

class GeneratorImpl final : public c10::GeneratorImpl {
 public:
  explicit GeneratorImpl(at::Generator host)
      : c10::GeneratorImpl(
            // Qualified: the base has a member of that name.
            metalsim::device(),
            c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
        host_(std::move(host)) {}

  const at::Generator& host() const { return host_; }

  void set_current_seed(uint64_t seed) override {
    host_.set_current_seed(seed);
  }
  uint64_t current_seed() const override { return host_.current_seed(); }
  uint64_t seed() override { return host_.seed(); }
  void set_offset(uint64_t offset) override {
    host_.unsafeGetGeneratorImpl()->set_offset(offset);
  }
  uint64_t get_offset() const override {
    return host_.unsafeGetGeneratorImpl()->get_offset();
  }
  void set_state(const c10::TensorImpl& state) override {
    host_.unsafeGetGeneratorImpl()->set_state(state);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return host_.unsafeGetGeneratorImpl()->get_state();
  }

 private:
  GeneratorImpl* clone_impl() const override {
    return new GeneratorImpl(host_.clone());
  }

  at::Generator host_;
};

at::Generator new_generator(c10::DeviceIndex) {
  return at::make_generator<GeneratorImpl>(at::detail::createCPUGenerator());
}

// Without `override`: see compat.h.  getDefaultGenerator became const.
struct Hooks final : at::PrivateUse1HooksInterface {
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) {
    return default_generator();
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const {
    return default_generator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex index) const {
    return new_generator(index);
  }
  at::Device getDeviceFromPtr(void*) const { return device(); }
  at::Allocator* getPinnedMemoryAllocator() const { return pinned_allocator(); }
  bool isPinnedPtr(const void* data) const { return is_pinned(data); }
  bool hasPrimaryContext(c10::DeviceIndex) const { return true; }
  bool isBuilt() const { return true; }
  bool isAvailable() const { return true; }
  c10::DeviceIndex deviceCount() const { return 1; }
  c10::DeviceIndex getCurrentDevice() const { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const { return 0; }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const {
    resize_storage(*storage.unsafeGetStorageImpl(), bytes);
  }
};

// The library is loaded once and never unloaded; PyTorch keeps the pointers.
[[maybe_unused]] const bool registered = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks);
#if !ORCHARD_TORCH_AT_LEAST(2, 6)
  at::_GeneratorRegister register_generator(new_generator);
#endif
  return true;
}();

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

}  // namespace

const at::Generator& default_generator() {
  static auto* generator = new at::Generator(new_generator(0));
  return *generator;
}

at::Generator host_generator(const at::Generator& generator) {
  TORCH_CHECK(generator.device().type() == device_type,
              "Expected a 'metalsim' device type for generator but found '",
              generator.device(), "'");
  return generator.get<GeneratorImpl>()->host();
}

}  // namespace orchard::metalsim
