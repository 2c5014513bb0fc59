// csrc/torch/metalsim/compat.h: every difference between the PyTorch versions
// that metalsim is built for; the rest of the folder is one text for all.
#pragma once

#include <ATen/autocast_mode.h>
#include <c10/util/Optional.h>
#include <torch/version.h>

#include <optional>

#define ORCHARD_TORCH_AT_LEAST(major, minor) \
  (TORCH_VERSION_MAJOR > (major) ||          \
   (TORCH_VERSION_MAJOR == (major) && TORCH_VERSION_MINOR >= (minor)))

// c10::Allocator::allocate lost its const in 2.3.
#if ORCHARD_TORCH_AT_LEAST(2, 3)
#define ORCHARD_ALLOCATE_CONST
#else
#define ORCHARD_ALLOCATE_CONST const
#endif

namespace orchard::metalsim {

// c10::optional was a class of its own up to 2.1.
#if ORCHARD_TORCH_AT_LEAST(2, 2)
using std::optional;
#else
using c10::optional;
#endif

// The state of torch.autocast for this device, which is each thread's own.
inline bool is_autocast_enabled() {
#if ORCHARD_TORCH_AT_LEAST(2, 4)
  return at::autocast::is_autocast_enabled(c10::DeviceType::PrivateUse1);
#else
  return at::autocast::is_privateuseone_enabled();
#endif
}

inline void set_autocast_enabled(bool is_enabled) {
#if ORCHARD_TORCH_AT_LEAST(2, 4)
  at::autocast::set_autocast_enabled(c10::DeviceType::PrivateUse1, is_enabled);
#else
  at::autocast::set_privateuseone_enabled(is_enabled);
#endif
}

inline at::ScalarType autocast_dtype() {
#if ORCHARD_TORCH_AT_LEAST(2, 4)
  return at::autocast::get_autocast_dtype(c10::DeviceType::PrivateUse1);
#else
  return at::autocast::get_autocast_privateuseone_dtype();
#endif
}

inline void set_autocast_dtype(at::ScalarType dtype) {
#if ORCHARD_TORCH_AT_LEAST(2, 4)
  at::autocast::set_autocast_dtype(c10::DeviceType::PrivateUse1, dtype);
#else
  at::autocast::set_autocast_privateuseone_dtype(dtype);
#endif
}

// Interfaces to PyTorch gained virtual functions over the versions.  Functions
// that only some versions know are declared without `override`: where the base
// class has them they override, elsewhere they are plain functions.  Clang
// warns where they do.
#if defined(__clang__)
#pragma clang diagnostic ignored "-Winconsistent-missing-override"
#endif

}  // namespace orchard::metalsim
