"""Random problems solved by the calls that users make, and held to float64."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from cases import Case
from draws import Inputs
from fuzz import Problem
from harness import count_calls, lay_out, run_case
from reference import Results, assert_close, make_inputs, solve
from torch import Tensor

from orchard_ops import flash_attn, sdpa

CPU = torch.device("cpu")


def check(problem: Problem, device: torch.device) -> None:
    """Fail unless output and every gradient are near enough to float64."""
    case = problem.case
    inputs = make_inputs(case)
    if problem.call in ("plain", "packed"):
        actual = run_case(case, inputs, CPU, asks_lse=False)
    elif problem.call == "sdpa":
        actual = run_sdpa(case, inputs, device)
    elif problem.call == "kvcache":
        actual = run_kvcache(case, inputs)
    else:
        actual = run_dao(case, inputs)
    assert_close(case, inputs, actual)


def run_dao(case: Case, inputs: Inputs) -> Results:
    """Run Dao's function for a case, on the CPU in Dao's layout."""
    is_packed = bool(case.sequences)
    tensors = [lay_out(t, case.layout, torch.clone) for t in inputs.core]
    if not is_packed:
        tensors = [t.transpose(1, 2) for t in tensors]
    q, k, v, grad = (t.detach().requires_grad_() for t in tensors)
    options: dict[str, Any] = dict(
        softmax_scale=case.scale, causal=case.causal != "none", softcap=case.softcap,
        window_size=case.window or (-1, -1), dropout_p=case.dropout,
        alibi_slopes=inputs.alibi_slopes,
    )  # fmt: skip
    torch.manual_seed(case.manual_seed)
    if is_packed:
        out: Any = flash_attn.flash_attn_varlen_func(q, k, v, *lengths(case), **options)
    else:
        out = flash_attn.flash_attn_func(q, k, v, **options)
    grads = torch.autograd.grad(out, (q, k, v), grad)
    results = [t if is_packed else t.transpose(1, 2) for t in (out, *grads)]
    return Results(results[0].detach(), None, *results[1:])


def lengths(case: Case) -> tuple[Tensor, Tensor, int, int]:
    """Return where a packed case's sequences begin, and the longest."""
    sides = list(zip(*case.sequences))
    ends = [
        torch.tensor(list(itertools.accumulate(side, initial=0)), dtype=torch.int32)
        for side in sides
    ]
    return ends[0], ends[1], max(sides[0]), max(sides[1])


def run_kvcache(case: Case, inputs: Inputs) -> Results:
    """Decode from a cache of poison behind the keys; it has no gradients."""
    q, k, v = (t.transpose(1, 2) for t in inputs.core[:3])
    caches: Any = [
        torch.cat([t, t.new_full((t.size(0), 3, *t.shape[2:]), torch.nan)], 1)
        for t in (k, v)
    ]
    out: Any = flash_attn.flash_attn_with_kvcache(
        q, *caches, cache_seqlens=case.len_kv, softmax_scale=case.scale,
        causal=case.causal != "none", softcap=case.softcap,
        window_size=case.window or (-1, -1), alibi_slopes=inputs.alibi_slopes,
        s_aux=inputs.sinks,
    )  # fmt: skip
    exact = solve(case, inputs)
    gradients = {
        name: value.to(torch.float32 if name == "dsinks" else case.dtype)
        for name, value in exact.items()
        if name.startswith("d")
    }
    return Results(out.transpose(1, 2), None, **gradients)


def run_sdpa(case: Case, inputs: Inputs, device: torch.device) -> Results:
    """Run PyTorch's function, routed to the kernels, for a case."""

    def put(tensor: Tensor) -> Tensor:
        return tensor.to(device)

    q, k, v = (
        lay_out(t, case.layout, put).detach().requires_grad_() for t in inputs.core[:3]
    )
    leaves, mask = [q, k, v], inputs.attn_mask
    if mask is not None:
        layout = case.mask.layout
        layout = "mask-transposed" if layout == "transposed" else layout
        mask = lay_out(mask, layout, put).detach()
        if mask.is_floating_point():
            leaves.append(mask.requires_grad_())
    with sdpa.enabled(), count_calls() as calls:
        out = F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=case.causal != "none", scale=case.scale
        )
        grads = torch.autograd.grad(out, leaves, put(inputs.grad_out))
    assert (calls.fwd, calls.bwd) == (1, 1)
    results = [t.detach().cpu() for t in (out, *grads)]
    return Results(results[0], None, *results[1:])
