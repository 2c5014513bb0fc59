"""Dao's ``flash_attn``: its public functions, signatures and layouts, on our kernels.

>>> from orchard_ops.flash_attn import flash_attn_func
>>> orchard_ops.flash_attn.install_as_flash_attn()
>>> import flash_attn  # finds this package

``__version__`` is the version of ``flash_attn`` whose signatures these are.
"""

from __future__ import annotations

from ._install import install_as_flash_attn, uninstall_as_flash_attn
from .flash_attn_interface import (
    flash_attn_func,
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
    flash_attn_with_kvcache,
)

__version__ = "2.8.3"

__all__ = [
    "__version__",
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
    "install_as_flash_attn",
    "uninstall_as_flash_attn",
]
