"""What PyTorch's ``FlopCounterMode`` counts for the operators.

As for PyTorch's own attention: two products of a multiply and an add for each score in
the forward, five in the backward, with its scores computed anew; nothing is taken off
for masks.  Of packed sequences and caches the scores are those that exist.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from . import _native
from ._arguments import Arguments

__all__ = ["register"]

_BEFORE_CALL = 5  # arguments of backward between grad_out and the call's


def register() -> None:
    """Tell the counter of the operators, where this PyTorch lets others do so."""
    registry = getattr(_counter(), "flop_registry", None)
    if registry is None:  # before 2.2
        return
    # Not by register_flop_formula: that of 2.2 to 2.4 keeps formulas of others by a key
    # that its counter never asks for.
    registry[_native.ops.forward] = _of_forward
    registry[_native.ops.backward] = _of_backward
    registry[_native.ops.decode] = _of_decode


def _counter() -> ModuleType:
    """Import PyTorch's counter, without its word that Triton is not there.

    Builds of 2.13 for CUDA say so at that import, which whoever imports this package
    has not asked for.
    """
    name = "torch.utils.flop_counter"
    log = logging.getLogger(name)
    before, log.disabled = log.disabled, True
    try:
        return importlib.import_module(name)
    finally:
        log.disabled = before


def _of_forward(*arguments: Any, **options: Any) -> int:
    out = _take_result(options)[0]
    call = Arguments(*arguments, **options)
    return 2 * _scores(call, out) * (call.q.size(-1) + call.v.size(-1))


def _of_backward(grad_out: Tensor, *arguments: Any, **options: Any) -> int:
    _take_result(options)
    call = Arguments(*arguments[_BEFORE_CALL:], **options)
    size, size_v = call.q.size(-1), call.v.size(-1)
    return 2 * _scores(call, grad_out) * (3 * size + 2 * size_v)


def _of_decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cache_seqlens: Tensor,
    block_table: Tensor | None = None,
    *_: Any,
    **__: Any,
) -> int:
    capacity = k_cache.size(2)
    if block_table is not None:
        capacity *= block_table.size(1)
    lengths = _numbers(cache_seqlens) or [capacity] * q.size(0)
    keys = sum(min(max(length, 0), capacity) for length in lengths)
    return 2 * keys * q.size(1) * q.size(2) * (q.size(3) + v_cache.size(3))


def _take_result(options: dict[str, Any]) -> Any:
    """Remove and return what the operator returned, by the counter's name for it."""
    return options.pop("out_val" if "out_val" in options else "out")  # before 2.4


def _scores(call: Arguments, out: Tensor) -> int:
    """Return how many scores a call has, by the shape of its output."""
    if call.cu_seqlens_q is None or call.cu_seqlens_k is None:
        return int(out[..., 0].numel()) * call.k.size(-2)
    pairs = [(call.max_seqlen_q, call.max_seqlen_k)] * (call.cu_seqlens_q.size(0) - 1)
    starts_q, starts_k = _numbers(call.cu_seqlens_q), _numbers(call.cu_seqlens_k)
    if call.part is not None:
        starts_q = _within(starts_q, call.part[0], call.max_seqlen_q)
        starts_k = _within(starts_k, call.part[1], call.max_seqlen_k)
    if starts_q and starts_k:
        pairs = list(zip(_steps(starts_q), _steps(starts_k)))
    return int(out.size(-3)) * sum(len_q * len_kv for len_q, len_kv in pairs)


def _within(starts: Sequence[int], offset: int, length: int) -> list[int]:
    """Return where sequences of a whole begin in a part of it."""
    return [min(max(start - offset, 0), length) for start in starts]


def _steps(starts: Sequence[int]) -> list[int]:
    return [end - start for start, end in zip(starts, starts[1:])]


def _numbers(tensor: Tensor) -> list[int]:
    """Return what a tensor holds, nothing where nobody can know it."""
    if tensor.is_meta or isinstance(tensor, FakeTensor):
        return []
    numbers: list[int] = tensor.tolist()
    return numbers
