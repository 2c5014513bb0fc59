"""Dao's options in the form that ``orchard_ops``' functions take."""

from __future__ import annotations

from .._arguments.checks import check_number, window_pair

__all__ = ["cap_of", "window_of"]


def window_of(name: str, window_size: tuple[int, int]) -> tuple[int, int] | None:
    """Return a window whose open sides are -1, None for none."""
    if type(window_size) is tuple and len(window_size) == 2:
        left, right = window_size  # old compilers compare no tuples
        if type(left) is type(right) is int and left == right == -1:
            return None
    advice = "(-1, -1) is no window"
    left, right = window_pair(name, "window_size", window_size, advice)
    return None if left < 0 and right < 0 else (max(left, -1), max(right, -1))


def cap_of(name: str, softcap: float) -> float:
    """Return the bound on the scores, 0.0 for none."""
    return max(check_number(name, "softcap", softcap), 0.0)
