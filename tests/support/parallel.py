"""Run a case over the ranks of a fleet, and put the ranks' results together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.distributed as dist
from cases import Case
from draws import Inputs, make_inputs
from harness import options, sequence_ends
from ranks import group_of
from reference import Results
from torch import Tensor

from orchard_ops import distributed

__all__ = ["Way", "joined", "rank_results"]


@dataclass(frozen=True)
class Way:
    """How a case is spread: over which ranks, by which method, on which device."""

    ranks: tuple[int, ...]
    method: distributed.Method = "ring"
    layout: distributed.Layout = "zigzag"
    device: str = "cpu"
    check: bool = True


def rank_results(case: Case, way: Way) -> Results | None:
    """Return this rank's rows of a case's results; None if it is not among the ranks.

    Runs in a process of a fleet.
    """
    group = group_of(way.ranks)
    if dist.get_rank() not in way.ranks:
        return None
    inputs = make_inputs(case)
    if case.sequences:
        inputs = _unpacked(inputs)
    length = inputs.q.size(2)

    def rows(x: Tensor | None, dim: int = 2) -> Tensor | None:
        return _rows(x, dim, length, way, group)

    q, k, v = (rows(x).requires_grad_() for x in inputs.core[:3])
    mask, sinks = rows(inputs.attn_mask, -2), inputs.sinks
    leaves = [q, k, v]
    if mask is not None and mask.is_floating_point():
        leaves.append(mask.requires_grad_())
    if sinks is not None:
        sinks = sinks.detach().to(way.device).requires_grad_()
        leaves.append(sinks)
    slopes = inputs.alibi_slopes
    torch.manual_seed(case.manual_seed + 7 * group.rank())  # rank 0's counts
    chosen = options(case)
    del chosen["causal_alignment"]
    out, lse = distributed.context_parallel_attention(
        q, k, v, mask, scale=case.scale, group=group, layout=way.layout,
        method=way.method, sinks=sinks, check=way.check, return_lse=True,
        length=None if way.check else length,
        alibi_slopes=None if slopes is None else slopes.to(way.device),
        cu_seqlens=sequence_ends(case, q.device)[0] if case.sequences else None,
        **chosen,
    )  # fmt: skip
    outputs, grads = [out], [rows(inputs.grad_out)]
    if inputs.grad_lse is not None:
        outputs.append(lse)
        grads.append(rows(inputs.grad_lse))
    found = [x.cpu() for x in torch.autograd.grad(outputs, leaves, grads)]
    results = Results(out.detach().cpu(), lse.detach().cpu(), *found[:3])
    if mask is not None and mask.requires_grad:
        results = replace(results, dmask=found[3])
    if sinks is not None:
        results = replace(results, dsinks=found[-1])
    return results


def _rows(
    x: Tensor | None, dim: int, length: int, way: Way, group: Any
) -> Tensor | None:
    """Return this rank's rows of a tensor, on its device; one for all rows stays."""
    if x is None:
        return None
    if x.dim() >= -dim and x.size(dim) == length:
        x = distributed.shard(x, group, dim, way.layout)
    return x.detach().clone().to(way.device)


def _unpacked(inputs: Inputs) -> Inputs:
    """Return packed tensors as a batch of one."""
    q, k, v, grad_out = (x.transpose(0, 1).unsqueeze(0) for x in inputs.core)
    grad_lse = inputs.grad_lse
    if grad_lse is not None:
        grad_lse = grad_lse.unsqueeze(0)
    return replace(inputs, q=q, k=k, v=v, grad_out=grad_out, grad_lse=grad_lse)


def joined(case: Case, way: Way, parts: Sequence[Results | None]) -> Results:
    """Return the whole of what ranks have their rows of."""
    held = [part for part in (parts[rank] for rank in way.ranks) if part is not None]
    whole: dict[str, Tensor | None] = {}
    for field in fields(Results):
        found = [getattr(part, field.name) for part in held]
        if found[0] is None:
            whole[field.name] = None
        elif field.name == "dsinks":
            assert all(torch.equal(each, found[0]) for each in found)
            whole[field.name] = found[0]
        else:
            whole[field.name] = _whole(case, way, field.name, found)
    return Results(**whole)


def _whole(case: Case, way: Way, name: str, parts: Sequence[Tensor]) -> Tensor:
    length = case.len_q
    if case.sequences:
        length = sum(len_q for len_q, _ in case.sequences) + case.rest
    dim = 2
    if name == "dmask":
        dim = -2
        is_shared = parts[0].dim() < 2 or parts[0].size(-2) != _count(way, 0, length)
        if is_shared or "q" not in case.mask.dims:
            return torch.stack([*parts]).sum(0)
    shape = [*parts[0].shape]
    shape[dim] = length
    found = parts[0].new_empty(shape)
    for index, part in enumerate(parts):
        start = 0
        held = distributed.pieces(length, len(way.ranks), index, way.layout)
        for begin, end in held:
            rows = part.narrow(dim, start, end - begin)
            found.narrow(dim, begin, end - begin).copy_(rows)
            start += end - begin
    if not case.sequences:
        return found
    return found[0] if name == "lse" else found[0].transpose(0, 1)


def _count(way: Way, index: int, length: int) -> int:
    held = distributed.pieces(length, len(way.ranks), index, way.layout)
    return sum(end - begin for begin, end in held)
