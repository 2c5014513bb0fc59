"""Flash attention for PyTorch on Apple GPUs, and on a simulator of them.

>>> import torch, orchard_ops
>>> q = k = v = torch.randn(1, 4, 128, 64)  # on "mps", "metalsim" or "cpu"
>>> out = orchard_ops.flash_attention(q, k, v, is_causal=True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import sim
from ._errors import (
    DeviceError,
    FaultError,
    InvalidProblemError,
    KernelCompileError,
    OrchardError,
    PeerError,
    UnsupportedError,
    WrongKernelError,
)
from ._libraries import HAS_TORCH, VERSION

if TYPE_CHECKING or HAS_TORCH:
    from . import _flops, _native, distributed, flash_attn, sdpa, storage
    from ._counts import call_counts, synchronize
    from ._functions.dense import flash_attention, flash_attn_fwd, supports
    from ._functions.kvcache import flash_attention_with_kvcache
    from ._functions.partial import (
        flash_attention_partial,
        flash_attention_partial_backward,
        merge_partials,
        sink_gradient,
    )
    from ._functions.varlen import flash_attention_varlen
    from ._record import record
    from ._scratch import backward_scratch
    from ._tune.tune import tune
else:  # The simulator needs no PyTorch, and imports none.
    from ._without_torch import attribute as __getattr__  # noqa: F401

__version__ = VERSION

__all__ = [
    "DeviceError",
    "FaultError",
    "InvalidProblemError",
    "KernelCompileError",
    "OrchardError",
    "PeerError",
    "UnsupportedError",
    "WrongKernelError",
    "__version__",
    "backward_scratch",
    "call_counts",
    "distributed",
    "flash_attention",
    "flash_attention_partial",
    "flash_attention_partial_backward",
    "flash_attention_varlen",
    "flash_attention_with_kvcache",
    "flash_attn",
    "flash_attn_fwd",
    "merge_partials",
    "record",
    "sdpa",
    "sim",
    "sink_gradient",
    "storage",
    "supports",
    "synchronize",
    "tune",
]

# The one import side effect: the operators register themselves when loaded, and what
# PyTorch's counter of operations needs to know of them.
if HAS_TORCH and _native.has_ops():
    _native.load_ops()
    _flops.register()
