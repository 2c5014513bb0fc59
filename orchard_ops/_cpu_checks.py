"""Which CPU tensors make an attention problem: ``csrc/attention``'s rules again."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ._arguments import Arguments
from ._errors import InvalidProblemError

__all__ = ["check_shapes"]

MAX_HEAD_DIM = 256
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_shapes(name: str, arguments: Arguments) -> None:
    """Check the arguments of a call with CPU tensors.

    CPU tensors may also be float64, because PyTorch's own operators do the
    work and a model's float64 copy is what results are measured against.  torch.compile
    traces this too, with symbols for sizes: old ones take no any() of a generator.
    """
    q, k, v = arguments.q, arguments.k, arguments.v
    if q.dtype not in (*DTYPES, torch.float64):
        raise InvalidProblemError(
            f"[{name}] expected float32, float16 or bfloat16, got {q.dtype}; "
            "cast with .to"
        )
    _check_equal(name, "batch", (q.size(0), k.size(0), v.size(0)))
    _check_equal(name, "heads_kv", (k.size(1), v.size(1)))
    _check_equal(name, "len_kv", (k.size(2), v.size(2)))
    _check_equal(name, "head_dim", (q.size(3), k.size(3)))
    for label, value in (("head_dim", q.size(3)), ("head_dim_v", v.size(3))):
        if not 1 <= value <= MAX_HEAD_DIM:
            raise InvalidProblemError(
                f"[{name}] expected {label} from 1 to {MAX_HEAD_DIM}, got {value}; "
                "split wider heads into several"
            )
    heads_q, heads_kv = q.size(1), k.size(1)
    if heads_q != heads_kv and (heads_kv == 0 or heads_q % heads_kv):
        raise InvalidProblemError(
            f"[{name}] expected heads_q to be a multiple of heads_kv, got {heads_q} "
            f"and {heads_kv}; repeat or drop heads"
        )
    if not -math.inf < arguments.scale < math.inf:
        raise InvalidProblemError(
            f"[{name}] expected a finite scale, got {arguments.scale}; leave "
            "scale=None for 1/sqrt(head_dim)"
        )
    _check_extras(name, arguments)
    _check_lengths(name, arguments)


def _check_extras(name: str, arguments: Arguments) -> None:
    """Check the shapes of mask, slopes and sinks."""
    q, k, mask = arguments.q, arguments.k, arguments.attn_mask
    if mask is not None:
        full = (q.size(0), q.size(1), q.size(2), k.size(2))
        if [1 for size, want in zip(mask.shape, full) if size != 1 and size != want]:
            raise InvalidProblemError(
                f"[{name}] expected attn_mask to broadcast to [batch, heads_q, len_q, "
                f"len_kv] = {list(full)}, got {list(mask.shape)}; unsqueeze its "
                "missing dimensions"
            )
    ends = arguments.cu_seqlens_q
    batch = q.size(0) if ends is None else ends.size(0) - 1
    shapes = {"alibi_slopes": [(q.size(1),), (batch, q.size(1))]}
    shapes["sinks"] = [(q.size(1),)]
    for label, tensor in (
        ("alibi_slopes", arguments.alibi_slopes),
        ("sinks", arguments.sinks),
    ):
        if tensor is not None and tuple(tensor.shape) not in shapes[label]:
            wanted = " or ".join(str(list(shape)) for shape in shapes[label])
            raise InvalidProblemError(
                f"[{name}] expected {label} of shape {wanted}, one number for each "
                f"head of q, got {list(tensor.shape)}; expand or slice it"
            )


def _check_lengths(name: str, arguments: Arguments) -> None:
    """Check the packed sequences, whose ends the CPU may read."""
    sides = (
        ("q", arguments.cu_seqlens_q, arguments.q, arguments.max_seqlen_q),
        ("k", arguments.cu_seqlens_k, arguments.k, arguments.max_seqlen_k),
    )
    for side, ends, tensor, longest in sides:
        if ends is None:
            continue
        lengths = ends.diff()
        if int(ends[0]) != 0 or bool((lengths < 0).any()) or ends[-1] > tensor.size(2):
            raise InvalidProblemError(
                f"[{name}] expected cu_seqlens_{side} to rise from 0 to at most "
                f"{tensor.size(2)}, the number of tokens, got {ends.tolist()}; "
                "it holds where each sequence begins, and at last where the last ends"
            )
        if lengths.numel() and int(lengths.max()) > longest:
            raise InvalidProblemError(
                f"[{name}] expected max_seqlen_{side} to be the longest sequence's "
                f"length {int(lengths.max())}, got {longest}; raise it"
            )


def _check_equal(name: str, what: str, sizes: Sequence[int]) -> None:
    if [size for size in sizes if size != sizes[0]]:
        got = ", ".join(str(size) for size in sizes)
        raise InvalidProblemError(
            f"[{name}] expected one {what} in all tensors that have it, got {got}; "
            "slice or expand them to the same size"
        )
