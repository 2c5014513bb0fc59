"""What PyTorch's own operators do not do alike on metalsim and on the CPU, and why."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["LEFT_OUT", "NOT_IN_16_BITS", "OPTIONS", "ROUNDED", "is_left_out"]

_CONTENTS = "what the memory of an empty tensor holds is not defined"
_SPARSE = "the device has strided tensors only; it refuses others by name"
_CUDA = "compiles CUDA's C++, and says so on every other device"

# Operators that are not compared.
LEFT_OUT = {
    "empty": _CONTENTS,
    "empty_like": _CONTENTS,
    "empty_permuted": _CONTENTS,
    "empty_strided": _CONTENTS,
    "new_empty": _CONTENTS,
    "new_empty_strided": _CONTENTS,
    "sparse.mm.reduce": _SPARSE,
    "sparse.sampled_addmm": _SPARSE,
    "to_sparse": _SPARSE,
    "jiterator_2inputs_2outputs": _CUDA,
    "jiterator_4inputs_with_extra_args": _CUDA,
    "jiterator_binary": _CUDA,
    "jiterator_binary_return_by_ref": _CUDA,
    "jiterator_unary": _CUDA,
    "tensor_split": "PyTorch wants its indices on the CPU, whatever the device",
}

# Operators that differ by rounding, because PyTorch picks an algorithm by the device's
# type before any kernel is asked: the tolerance in float32 and complex64.
ROUNDED = {
    "nn.functional.scaled_dot_product_attention": 2e-5,  # plain operators
    "linalg.lstsq": 1e-4,  # gels, where the CPU's default is gelsy
    "linalg.lstsq.grad_oriented": 1e-4,
}

# Of those, what is not compared in 16 bits: plain operators round each score, which
# the CPU's own function keeps in float32, and the samples' scores are in the hundreds.
NOT_IN_16_BITS = {"nn.functional.scaled_dot_product_attention"}

# Options that PyTorch chooses by the device's type where they are left open: on the
# CPU it adds 16 bits up in float32, on a device that it does not know in 16 bits.
# Both devices are given the CPU's choice.
_IN_FLOAT32 = {"acc_policy": "accurate", "acc_dtype": torch.float32}
OPTIONS: dict[str, dict[str, Any]] = {
    "nn.functional.linear_cross_entropy.chunked": _IN_FLOAT32,
    "nn.functional.linear_cross_entropy.chunked_none": _IN_FLOAT32,
}


def is_left_out(name: str) -> bool:
    """Return whether an operator, with its variant, is not compared."""
    return name in LEFT_OUT
