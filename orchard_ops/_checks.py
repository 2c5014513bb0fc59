"""Rules for the arguments that no compiled code can check.

Which shapes make an attention problem is decided in C++ (``csrc/attention``),
once, for tensors on a device; ``_cpu_checks`` states the same rules for CPU
tensors, which never get there.
"""

from __future__ import annotations

import math
import operator
from numbers import Real

import torch
from torch import Tensor

from ._errors import InvalidProblemError, UnsupportedError
from ._tracing import promise_range

__all__ = [
    "check_dropout",
    "check_dtypes",
    "check_flag",
    "check_grouping",
    "check_is_tensor",
    "check_mask",
    "check_number",
    "check_packing",
    "check_per_head",
    "check_scale",
    "check_slopes",
    "check_softcap",
    "check_tensors",
    "is_bottom_right",
    "whole_number",
    "window_pair",
    "window_sides",
]

DEVICES = ("mps", "metalsim", "cpu", "meta")
_DENSE = "3 dimensions [batch, len, head_dim] or 4 [batch, heads, len, head_dim]"
_SCORES_3D = "[batch, len_q, len_kv]"
_FARTHEST = 2**62  # keys; no tensor has as many
LONGEST = 2**29  # tokens of a sequence, as csrc/attention has it
_PACKED = "3 dimensions [tokens, heads, head_dim]"


def check_tensors(
    name: str, q: Tensor, k: Tensor, v: Tensor, *, is_packed: bool = False
) -> None:
    """Check that q, k, v are tensors of one rank (3 or 4) and device."""
    for label, tensor in (("q", q), ("k", k), ("v", v)):
        check_is_tensor(name, label, tensor)
    ranks = (3,) if is_packed else (3, 4)
    if q.dim() not in ranks or k.dim() != q.dim() or v.dim() != q.dim():
        shapes = ", ".join(str(list(tensor.shape)) for tensor in (q, k, v))
        raise InvalidProblemError(
            f"[{name}] expected q, k and v to have {_PACKED if is_packed else _DENSE}, "
            f"got shapes {shapes}; add or merge dimensions with unsqueeze or flatten"
        )
    if not q.device == k.device == v.device:
        raise InvalidProblemError(
            f"[{name}] expected q, k and v on one device, got {q.device}, {k.device} "
            f"and {v.device}; move them with .to(q.device)"
        )
    if q.device.type not in DEVICES:
        raise UnsupportedError(
            f"[{name}] expected a tensor on mps, metalsim or cpu, got {q.device}; move "
            "it with .to"
        )


def check_dtypes(name: str, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Check that q, k, v have one dtype, as autocast may have given them."""
    if not q.dtype == k.dtype == v.dtype:
        raise InvalidProblemError(
            f"[{name}] expected q, k and v of one dtype, got {q.dtype}, {k.dtype} and "
            f"{v.dtype}; cast them with .to(q.dtype)"
        )


def check_mask(name: str, attn_mask: Tensor | None, q: Tensor) -> None:
    """Check what attn_mask is made of; its shape is checked with the others."""
    if attn_mask is None:
        return
    _check_beside(name, "attn_mask", attn_mask, q)
    if attn_mask.dtype not in (torch.bool, torch.float32, q.dtype):
        raise InvalidProblemError(
            f"[{name}] expected attn_mask to be bool (True = attend), float32 or "
            f"{q.dtype} like q, got {attn_mask.dtype}; cast it with .to, or a 0/1 mask "
            "with .bool()"
        )
    if attn_mask.dim() > q.dim():
        full = "[batch, heads_q, len_q, len_kv]" if q.dim() == 4 else _SCORES_3D
        raise InvalidProblemError(
            f"[{name}] expected attn_mask to have at most {q.dim()} dimensions like q, "
            f"got shape {list(attn_mask.shape)}; it must broadcast to {full}"
        )


def check_per_head(
    name: str, label: str, tensor: Tensor | None, q: Tensor
) -> Tensor | None:
    """Check a tensor of one number a head; return it as float32."""
    if tensor is None:
        return None
    _check_beside(name, label, tensor, q)
    if not tensor.is_floating_point():
        raise InvalidProblemError(
            f"[{name}] expected {label} to be a floating-point tensor, got "
            f"{tensor.dtype}; cast it with .float()"
        )
    return tensor.to(torch.float32)


def check_packing(
    name: str,
    q: Tensor,
    cu_seqlens: tuple[Tensor, Tensor],
    max_seqlens: tuple[int, int],
) -> tuple[int, int]:
    """Check how sequences are packed; return the longest lengths.

    The numbers in cu_seqlens are not read: that would wait for the device.
    """
    longest = []
    for side, ends, given in zip("qk", cu_seqlens, max_seqlens):
        _check_beside(name, f"cu_seqlens_{side}", ends, q)
        if ends.dtype != torch.int32 or ends.dim() != 1 or ends.size(0) < 2:
            raise InvalidProblemError(
                f"[{name}] expected cu_seqlens_{side} to be int32 of shape [sequences "
                f"+ 1], got {ends.dtype} of shape {list(ends.shape)}; make it with "
                "lengths.cumsum(0, dtype=torch.int32) and a 0 in front"
            )
        advice = "pass the longest sequence's length"
        length = whole_number(name, f"max_seqlen_{side}", given, advice)
        promise_range(length, 0, LONGEST)
        if length < 0:
            raise InvalidProblemError(
                f"[{name}] expected max_seqlen_{side} to be a length, got {length}; "
                f"{advice}"
            )
        longest.append(length)
    if cu_seqlens[0].size(0) != cu_seqlens[1].size(0):
        raise InvalidProblemError(
            f"[{name}] expected cu_seqlens_q and cu_seqlens_k of one length, got "
            f"{cu_seqlens[0].size(0)} and {cu_seqlens[1].size(0)}; a sequence without "
            "keys repeats a number"
        )
    return longest[0], longest[1]


def check_number(name: str, label: str, value: object) -> float:
    """Return a number that no gradient is asked of."""
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, Tensor) and value.requires_grad:
        raise InvalidProblemError(
            f"[{name}] expected {label} to be a number, got a tensor that requires a "
            "gradient, which would be lost; multiply q by a learned scale, or detach it"
        )
    is_one = isinstance(value, Tensor) and value.numel() == 1
    if is_one or isinstance(value, Real):
        try:
            return float(value)  # type: ignore[arg-type]
        except (TypeError, RuntimeError):
            pass
    raise InvalidProblemError(
        f"[{name}] expected {label} to be a number, got {value!r}; pass a float"
    )


def check_flag(name: str, label: str, value: object) -> bool:
    """Return a bool, which may come as NumPy's, as a tensor of one, or as 0 or 1."""
    if isinstance(value, bool):
        return value
    if getattr(value, "ndim", 0) == 0 and value in (0, 1):
        return bool(value)
    raise InvalidProblemError(
        f"[{name}] expected {label} to be a bool, got {value!r}; pass True or False"
    )


def whole_number(name: str, label: str, value: object, advice: str) -> int:
    """Return what ``__index__`` says, as PyTorch does: of a bool nothing."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value  # a symbol of torch.compile as it is
    is_flag = isinstance(value, Tensor) and value.dtype == torch.bool
    if not is_flag and not isinstance(value, bool):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError):
            pass
    raise InvalidProblemError(
        f"[{name}] expected {label} to be an int, got {value!r}; {advice}"
    )


def check_scale(name: str, q: Tensor, scale: float | None) -> float:
    """Return the factor on the scores, 1/sqrt(head_dim) if there is none."""
    if scale is not None:
        return check_number(name, "scale", scale)
    # An int even where torch.compile has a symbol: kernels are made per head size, and
    # old operators take no symbolic float.  0 is refused later, with its own message.
    head_dim = len(range(q.size(-1)))
    return 1.0 / math.sqrt(max(head_dim, 1))


def check_slopes(name: str, slopes: Tensor | None, q: Tensor) -> Tensor | None:
    """Check alibi_slopes; return them as float32, without a gradient anywhere."""
    slopes = check_per_head(name, "alibi_slopes", slopes, q)
    return None if slopes is None else slopes.detach()


def check_dropout(name: str, dropout_p: float) -> float:
    """Check that the dropout probability lies in [0, 1)."""
    dropout_p = check_number(name, "dropout_p", dropout_p)
    if not 0.0 <= dropout_p < 1.0:
        raise InvalidProblemError(
            f"[{name}] expected dropout_p in [0, 1), got {dropout_p}; 0.0 turns "
            "dropout off"
        )
    return dropout_p


def check_softcap(name: str, softcap: float) -> float:
    """Check that the cap is a finite number, or 0 for none."""
    softcap = check_number(name, "softcap", softcap)
    if not 0.0 <= softcap < math.inf:
        raise InvalidProblemError(
            f"[{name}] expected softcap to be a finite number above 0, got {softcap}; "
            "0.0 turns it off"
        )
    return softcap


def is_bottom_right(name: str, alignment: str) -> bool:
    """Say which corner queries and keys are aligned at."""
    if alignment not in ("top-left", "bottom-right"):
        raise InvalidProblemError(
            f"[{name}] expected causal_alignment to be 'top-left' or 'bottom-right', "
            f"got {alignment!r}; top-left is PyTorch's meaning, bottom-right Dao's"
        )
    return alignment == "bottom-right"


def window_sides(
    name: str, window: tuple[int, int] | None, is_causal: bool
) -> tuple[int, int]:
    """Return how far a query sees to the left and right, -1 for any distance."""
    is_causal = check_flag(name, "is_causal", is_causal)
    if window is None:
        return -1, 0 if is_causal else -1
    advice = "-1 is open on that side, None no window"
    left, right = window_pair(name, "window", window, advice)
    if left < -1 or right < -1:
        raise InvalidProblemError(
            f"[{name}] expected each side of window to be a number of keys or -1, got "
            f"{window!r}; {advice}"
        )
    left, right = [-1 if side >= _FARTHEST else side for side in (left, right)]
    return left, 0 if is_causal else right


def window_pair(name: str, label: str, window: object, advice: str) -> tuple[int, int]:
    """Return the two integers of a tuple, list, array or tensor."""
    try:
        sides: list[object] = [] if isinstance(window, str) else list(window)  # type: ignore[call-overload]
        if len(sides) == 2:
            return (
                whole_number(name, label, sides[0], advice),
                whole_number(name, label, sides[1], advice),
            )
    except (TypeError, ValueError, RuntimeError):
        pass
    raise InvalidProblemError(
        f"[{name}] expected {label} to be two integers (left, right), got {window!r}; "
        f"{advice}"
    )


def check_grouping(name: str, q: Tensor, k: Tensor, enable_gqa: bool) -> None:
    """Check that heads are shared only where that was asked for."""
    is_allowed = check_flag(name, "enable_gqa", enable_gqa)
    if not is_allowed and q.dim() == 4 and q.size(1) != k.size(1):
        raise InvalidProblemError(
            f"[{name}] expected heads_q == heads_kv with enable_gqa=False, got "
            f"{q.size(1)} and {k.size(1)}; pass enable_gqa=True to share key heads"
        )


def check_is_tensor(name: str, label: str, tensor: object) -> None:
    """Check that an argument is a tensor, and a dense one."""
    if not isinstance(tensor, Tensor):
        raise InvalidProblemError(
            f"[{name}] expected {label} to be a torch.Tensor, got "
            f"{type(tensor).__name__}; convert it with torch.as_tensor"
        )
    if tensor.is_nested:
        raise UnsupportedError(
            f"[{name}] expected {label} to be a dense tensor, got a nested one; pack "
            "the sequences one after the other for flash_attention_varlen"
        )
    if tensor.layout != torch.strided:
        raise UnsupportedError(
            f"[{name}] expected {label} to be a dense tensor, got one of layout "
            f"{tensor.layout}; convert it with .to_dense()"
        )


def _check_beside(name: str, label: str, tensor: Tensor, q: Tensor) -> None:
    check_is_tensor(name, label, tensor)
    if tensor.device != q.device:
        raise InvalidProblemError(
            f"[{name}] expected {label} on q's device {q.device}, got {tensor.device}; "
            "move it with .to(q.device)"
        )
