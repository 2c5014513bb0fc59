"""Rules for the arguments that no compiled code can check."""

from __future__ import annotations

import operator
from numbers import Real

import torch
from torch import Tensor

from .._errors import InvalidProblemError, UnsupportedError
from .._tracing import is_compiling

__all__ = [
    "check_flag",
    "check_is_floating",
    "check_is_tensor",
    "check_number",
    "check_rank",
    "check_rotary_table",
    "count_of",
    "is_bottom_right",
    "per_head",
    "slopes_of",
    "whole_number",
    "window_pair",
    "window_sides",
]

_FARTHEST = 2**62  # keys; no tensor has as many
_LONGEST_INT = 1023  # bits of an int that becomes a float


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
            "the sequences one after the other for flash_attention_varlen, or give "
            "flash_attention q, k and v of layout torch.jagged (PyTorch 2.4 and newer)"
        )
    if tensor.layout != torch.strided:
        raise UnsupportedError(
            f"[{name}] expected {label} to be a dense tensor, got one of layout "
            f"{tensor.layout}; convert it with .to_dense()"
        )
    if tensor.is_quantized:
        raise UnsupportedError(
            f"[{name}] expected {label} to be a dense tensor, got a quantized one; "
            "convert it with .dequantize()"
        )


def check_rank(name: str, first: str, rank: int, **tensors: Tensor) -> None:
    """Check the dimensions of tensors whose heads come before the last one.

    Args:
        name: the public function, for errors.
        first: what the dimensions before the heads are called.
        rank: how many dimensions there are.
        tensors: by the names of their arguments.
    """
    for label, tensor in tensors.items():
        check_is_tensor(name, label, tensor)
        if tensor.dim() != rank:
            raise InvalidProblemError(
                f"[{name}] expected {label} of shape [{first}, heads, head_dim], got "
                f"{list(tensor.shape)}; add or merge dimensions with unsqueeze or "
                "flatten"
            )


def check_is_floating(name: str, label: str, tensor: Tensor) -> None:
    """Check that an argument is a tensor of real numbers with fractions."""
    check_is_tensor(name, label, tensor)
    if not tensor.is_floating_point():
        raise InvalidProblemError(
            f"[{name}] expected {label} to be a floating-point tensor, got "
            f"{tensor.dtype}; cast it with .float()"
        )


def check_rotary_table(name: str, x: Tensor, **tables: Tensor) -> None:
    """Check the cosines and sines of the positions of x.

    Args:
        name: the public function, for errors.
        x: ``[..., head_dim]``.
        tables: both, by the names of their arguments.
    """
    for label, table in tables.items():
        check_is_floating(name, label, table)
    cos, sin = tables.values()
    half = x.size(-1) // 2
    is_table = cos.dim() == 2 and cos.shape == sin.shape and cos.size(1) <= half
    if not is_table or not cos.device == sin.device == x.device:
        raise InvalidProblemError(
            f"[{name}] expected {' and '.join(tables)} of one shape [positions, at "
            f"most {half}] on {x.device}, got {list(cos.shape)} and {list(sin.shape)} "
            f"on {cos.device} and {sin.device}; slice or move them"
        )


def per_head(name: str, label: str, tensor: Tensor | None) -> Tensor | None:
    """Return a tensor of one number a head as float32."""
    if tensor is None:
        return None
    check_is_floating(name, label, tensor)
    return tensor.to(torch.float32)


def slopes_of(name: str, slopes: Tensor | None) -> Tensor | None:
    """Return alibi_slopes as float32, once it is sure that no gradient is lost."""
    slopes = per_head(name, "alibi_slopes", slopes)
    if slopes is None:
        return None
    if slopes.requires_grad and torch.is_grad_enabled():
        raise InvalidProblemError(
            f"[{name}] expected alibi_slopes without a gradient, got a tensor that "
            "requires one, which would be lost; detach it, or pass the biases that it "
            "makes as a float attn_mask, which has a gradient"
        )
    return slopes.detach()


def check_number(name: str, label: str, value: object) -> float:
    """Return a number that no gradient is asked of."""
    is_int = isinstance(value, int) and (
        is_compiling() or value.bit_length() <= _LONGEST_INT
    )
    if is_int or isinstance(value, float):
        return float(value)  # type: ignore[arg-type]
    if isinstance(value, Tensor) and value.requires_grad:
        raise InvalidProblemError(
            f"[{name}] expected {label} to be a number, got a tensor that requires a "
            "gradient, which would be lost; multiply q by a learned scale, or detach it"
        )
    is_one = isinstance(value, Tensor) and value.numel() == 1
    if is_one or isinstance(value, Real):
        try:
            return float(value)  # type: ignore[arg-type]
        except (TypeError, RuntimeError, OverflowError):
            pass
    raise InvalidProblemError(
        f"[{name}] expected {label} to be a number, got {value!r}; pass a float"
    )


def check_flag(name: str, label: str, value: object) -> bool:
    """Return a bool, which may come as NumPy's, as a tensor of one, or as 0 or 1."""
    if isinstance(value, bool):
        return value
    try:
        if getattr(value, "ndim", 0) == 0 and value in (0, 1):
            return bool(value)
    except (TypeError, ValueError, RuntimeError):  # sparse, or on the meta device
        pass
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


def count_of(name: str, label: str, value: object, advice: str) -> int:
    """Return a whole number that compiled code can take: one of 64 bits."""
    number = whole_number(name, label, value, advice)
    if is_compiling() or -(2**63) <= number < 2**63:
        return number
    raise InvalidProblemError(
        f"[{name}] expected {label} to be an int of 64 bits, got {number}; {advice}"
    )


def is_bottom_right(name: str, alignment: str) -> bool:
    """Say which corner queries and keys are aligned at."""
    if not isinstance(alignment, str) or alignment not in ("top-left", "bottom-right"):
        raise InvalidProblemError(
            f"[{name}] expected causal_alignment to be 'top-left' or 'bottom-right', "
            f"got {alignment!r}; top-left is PyTorch's meaning, bottom-right Dao's"
        )
    return alignment == "bottom-right"


def window_sides(name: str, window: tuple[int, int] | None) -> tuple[int, int]:
    """Return how far a query sees to the left and right, -1 for any distance."""
    if window is None:
        return -1, -1
    advice = "-1 is open on that side, None no window"
    left, right = window_pair(name, "window", window, advice)
    return -1 if left >= _FARTHEST else left, -1 if right >= _FARTHEST else right


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
