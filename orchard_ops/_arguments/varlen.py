"""The arguments of ``flash_attention_varlen``."""

from __future__ import annotations

from torch import Tensor

from .._autocast import cast_inputs
from .._tracing import promise_range
from .checks import (
    check_flag,
    check_is_tensor,
    check_number,
    check_rank,
    count_of,
    is_bottom_right,
    per_head,
    slopes_of,
    window_sides,
)
from .dense import Arguments, seed_for

__all__ = ["packed_arguments"]

LONGEST = 2**29  # tokens of a sequence, as csrc/attention has it


def packed_arguments(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: tuple[Tensor, Tensor],
    max_seqlens: tuple[int, int],
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    *,
    causal_alignment: str,
    window: tuple[int, int] | None,
    softcap: float,
    alibi_slopes: Tensor | None,
    sinks: Tensor | None,
    return_lse: bool = False,
    seed: Tensor | None = None,
) -> Arguments:
    """Check ``flash_attention_varlen``'s arguments; draw the seed if none is given."""
    check_rank(name, "tokens", 3, q=q, k=k, v=v)
    q, k, v = cast_inputs(q, k, v)
    # A list, because torch.compile cannot unpack a generator everywhere.
    q, k, v = [tensor.transpose(0, 1).unsqueeze(0) for tensor in (q, k, v)]
    for side, starts in zip("qk", cu_seqlens):
        check_is_tensor(name, f"cu_seqlens_{side}", starts)
    dropout_p = check_number(name, "dropout_p", dropout_p)
    left, right = window_sides(name, window)
    return Arguments(
        q,
        k,
        v,
        None,
        dropout_p,
        check_flag(name, "is_causal", is_causal),
        None if scale is None else check_number(name, "scale", scale),
        True,
        is_bottom_right(name, causal_alignment),
        left,
        right,
        check_number(name, "softcap", softcap),
        slopes_of(name, alibi_slopes),
        per_head(name, "sinks", sinks),
        seed_for(dropout_p, seed),
        *cu_seqlens,
        _longest(name, "q", max_seqlens[0]),
        _longest(name, "k", max_seqlens[1]),
        check_flag(name, "return_lse", return_lse),
    )


def _longest(name: str, side: str, given: int) -> int:
    """Return a number of tokens, which torch.compile may know only in the run."""
    advice = "pass the longest sequence's length"
    length = count_of(name, f"max_seqlen_{side}", given, advice)
    promise_range(length, 0, LONGEST)
    return length
