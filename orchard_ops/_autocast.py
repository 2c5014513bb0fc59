"""What autocast asks for, by PyTorch version."""

from __future__ import annotations

import torch
from torch import Tensor

from ._tracing import is_compiling

__all__ = ["autocast_dtype", "cast_inputs", "is_any_region"]

# From PyTorch 2.4 on one function answers for every device that has such regions;
# which ones is asked here, because torch.compile of 2.4 cannot trace the question.
_HAS_DEVICES = hasattr(torch.amp, "is_autocast_available")
_REGIONS = {"cpu", "metalsim"}
if _HAS_DEVICES and torch.amp.is_autocast_available("mps"):
    _REGIONS.add("mps")


def _is_any_region_or_mps() -> bool:
    return torch._C._is_any_autocast_enabled() or torch.is_autocast_enabled("mps")


# Says whether an autocast region is open, for whatever device; cheaply, because each
# call asks.  PyTorch's own answer leaves mps out.
is_any_region = (
    _is_any_region_or_mps
    if "mps" in _REGIONS and torch.backends.mps.is_available()
    else torch._C._is_any_autocast_enabled
)


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """Return the dtype of the autocast region that we are in, None outside any."""
    if _HAS_DEVICES:
        is_enabled = device_type in _REGIONS and torch.is_autocast_enabled(device_type)
        return torch.get_autocast_dtype(device_type) if is_enabled else None
    if device_type == "cpu":
        is_enabled = torch.is_autocast_cpu_enabled()
        return torch.get_autocast_cpu_dtype() if is_enabled else None
    # A device of another library answers for itself; mps had no autocast yet.  A
    # compiler of those versions knows nothing of its regions and cannot ask.
    if device_type not in _REGIONS or is_compiling():
        return None
    module = getattr(torch, device_type)
    if not module.is_autocast_enabled():
        return None
    dtype: torch.dtype = module.get_autocast_dtype()
    return dtype


def cast_inputs(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cast q, k, v as autocast does for scaled_dot_product_attention.

    float64 stays, as autocast leaves it.  A mask is not cast: it is added to scores
    that are float32 whatever the inputs are.
    """
    dtype = autocast_dtype(q.device.type)
    if dtype is None:
        return q, k, v
    return _cast(q, dtype), _cast(k, dtype), _cast(v, dtype)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    is_eligible = tensor.is_floating_point() and tensor.dtype != torch.float64
    return tensor.to(dtype) if is_eligible else tensor
