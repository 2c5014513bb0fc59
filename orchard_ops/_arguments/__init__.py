"""The public functions' arguments, in the operators' form.

Here is what compiled code cannot see: whether an argument is a tensor, a number or a
flag, what autocast asks for, and which layout or alignment a name means.  Which
tensors make an attention problem is decided in C++ (``csrc/torch/call.cpp``), once, for
every device.
"""

from __future__ import annotations

from .dense import Arguments, dense_arguments
from .jagged import HAS_JAGGED, is_jagged, nested_like
from .partial import partial_arguments
from .varlen import packed_arguments

__all__ = [
    "HAS_JAGGED",
    "Arguments",
    "dense_arguments",
    "is_jagged",
    "nested_like",
    "packed_arguments",
    "partial_arguments",
]
