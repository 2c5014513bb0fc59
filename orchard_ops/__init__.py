"""Flash attention for PyTorch on Apple GPUs, and on a simulator of them.

>>> import torch, orchard_ops
>>> q = k = v = torch.randn(1, 4, 128, 64)  # on "mps", "metalsim" or "cpu"
>>> out = orchard_ops.flash_attention(q, k, v, is_causal=True)
"""

from __future__ import annotations

from . import _native, flash_attn, sdpa, sim, storage
from ._attention import flash_attention, flash_attn_fwd, supports
from ._errors import (
    DeviceError,
    InvalidProblemError,
    KernelCompileError,
    OrchardError,
    UnsupportedError,
)
from ._kvcache import flash_attention_with_kvcache
from ._record import record
from ._scratch import backward_scratch
from ._varlen import flash_attention_varlen

__version__ = _native.VERSION

__all__ = [
    "DeviceError",
    "InvalidProblemError",
    "KernelCompileError",
    "OrchardError",
    "UnsupportedError",
    "__version__",
    "backward_scratch",
    "flash_attention",
    "flash_attention_varlen",
    "flash_attention_with_kvcache",
    "flash_attn",
    "flash_attn_fwd",
    "record",
    "sdpa",
    "sim",
    "storage",
    "supports",
]

# The one import side effect: the operators register themselves when loaded.
if _native.has_ops():
    _native.load_ops()
