"""Nested tensors of layout torch.jagged, through the kernels of packed sequences."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import F16, Case
from harness import bits, count_calls, options, sequence_ends
from needs import TORCH, chosen_device, skip_without
from reference import Results, assert_close, make_inputs
from torch import Tensor, nn

import orchard_ops
from orchard_ops import InvalidProblemError, UnsupportedError, flash_attention, sdpa

pytestmark = pytest.mark.skipif(
    TORCH < (2, 4), reason="PyTorch makes jagged tensors of values from 2.4 on"
)
DEVICES = ["cpu"] if chosen_device() == "cpu" else [chosen_device(), "cpu"]

_RAGGED = ((5, 40), (33, 7), (1, 65), (0, 16))
_BASE = Case("", heads_q=4, heads_kv=2, sequences=_RAGGED)
CASES = [
    replace(_BASE, name="jagged-plain"),
    replace(_BASE, name="jagged-f16-causal", dtype=F16, causal="bottom-right"),
    replace(_BASE, name="jagged-all", window=(30, 4), softcap=3.0, sinks="normal",
            alibi="batch-heads", dropout=0.2, head_dim_v=40, grad_lse=True),
]  # fmt: skip


def jagged(values: Tensor, starts: Tensor) -> Tensor:
    """Return ``[total, heads, ...]`` as ``[batch, heads, length, ...]``."""
    return torch.nested.nested_tensor_from_jagged(values, starts.long()).transpose(1, 2)


def values_of(nested: Tensor) -> Tensor:
    """Undo `jagged`."""
    return nested.values().transpose(0, 1)


@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_matches_float64(case: Case, kind: str) -> None:
    """Output, lse and every gradient are right, in one launch and without a copy."""
    device = torch.device(kind)
    skip_without(case.dtype, device)
    inputs = make_inputs(case)
    q, k, v = (t.to(device).requires_grad_() for t in inputs.core[:3])
    starts_q, starts_k, *_ = sequence_ends(case, device)
    starts_q, starts_k = starts_q.long(), starts_k.long()
    leaves = [q, k, v]
    given: dict[str, Any] = dict(options(case), return_lse=True)
    if inputs.sinks is not None and inputs.alibi_slopes is not None:
        given["sinks"] = inputs.sinks.to(device).requires_grad_()
        given["alibi_slopes"] = inputs.alibi_slopes.to(device)
        leaves.append(given["sinks"])
    torch.manual_seed(case.manual_seed)
    with count_calls() as calls:
        nested = jagged(q, starts_q), jagged(k, starts_k), jagged(v, starts_k)
        results: Any = flash_attention(*nested, **given)
        out, lse = results
        assert out.shape[:3] == lse.shape == nested[0].shape[:3]
        outputs, grads = [values_of(out)], [inputs.grad_out.to(device)]
        if inputs.grad_lse is not None:
            outputs.append(lse.values())
            grads.append(inputs.grad_lse.to(device))
        found = [t.cpu() for t in torch.autograd.grad(outputs, leaves, grads)]
    assert kind == "cpu" or (calls.fwd, calls.bwd, calls.copies) == (1, 1, 0)
    out, lse = outputs[0].detach().cpu(), lse.values().detach().cpu()
    dsinks = found[3] if len(found) > 3 else None
    assert_close(case, inputs, Results(out, lse, *found[:3], dsinks=dsinks))


@pytest.mark.parametrize("causal", [False, True])
def test_sdpa_is_routed(causal: bool, device: torch.device) -> None:
    """F.scaled_dot_product_attention takes them, with PyTorch's meaning."""
    torch.manual_seed(0)
    starts = torch.tensor([0, 9, 10, 31])
    tensors = [torch.randn(31, 2, 16) for _ in range(3)]
    grad = torch.randn(31, 2, 16)
    here = [t.to(device).requires_grad_() for t in tensors]
    starts = starts.to(device)
    nested: Any = [jagged(leaf, starts) for leaf in here]
    assert sdpa.explain(*nested, is_causal=causal).is_routed
    with sdpa.enabled(), count_calls() as calls:
        out = F.scaled_dot_product_attention(*nested, is_causal=causal)
        found = torch.autograd.grad(values_of(out), here, grad.to(device))
    assert (calls.fwd, calls.bwd) == (1, 1)
    there = [t.transpose(0, 1).requires_grad_() for t in tensors]
    parts = zip(*(t.split([9, 1, 21], 1) for t in there))
    want = torch.cat(
        [F.scaled_dot_product_attention(*part, is_causal=causal) for part in parts], 1
    )
    wanted = torch.autograd.grad(want, there, grad.transpose(0, 1))
    for got, expected in zip((values_of(out), *found), (want, *wanted)):
        assert torch.allclose(got.detach().cpu(), expected.transpose(0, 1), atol=1e-5)


def test_the_cpu_is_left_to_pytorch() -> None:
    """Nested tensors of the CPU go to PyTorch's own function, as others do."""
    nested = jagged(torch.randn(31, 2, 16), torch.tensor([0, 9, 31]))
    assert "device cpu" in sdpa.explain(nested, nested, nested).reason


def test_sdpa_drops_out(device: torch.device) -> None:
    """dropout_p drops weights, by the seed that a packed call draws."""
    starts = torch.tensor([0, 9, 31], dtype=torch.int32).to(device)
    q = torch.randn(31, 2, 16).to(device)
    nested = jagged(q, starts)
    torch.manual_seed(3)
    with sdpa.enabled():
        out = F.scaled_dot_product_attention(nested, nested, nested, dropout_p=0.5)
    torch.manual_seed(3)
    want = orchard_ops.flash_attention_varlen(q, q, q, starts, starts, 22, 22, 0.5)
    assert torch.equal(bits(values_of(out)), bits(want))


class Attention(nn.Module):
    """Self-attention of two heads, over nested or padded sequences."""

    def __init__(self) -> None:
        """Make the layers; a bias gets no gradient from jagged tensors in 2.4."""
        super().__init__()
        self.into = nn.ModuleList([nn.Linear(16, 16, bias=False) for _ in range(3)])
        self.out = nn.Linear(16, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend, causally."""
        parts = [layer(x) for layer in self.into]
        heads = [part.unflatten(-1, [2, 8]).transpose(1, 2) for part in parts]
        out = F.scaled_dot_product_attention(*heads, is_causal=True)
        return self.out(out.transpose(1, 2).flatten(-2))


def test_a_layer_trains_on_them(device: torch.device) -> None:
    """A layer's output and parameters' gradients are those of each sequence alone."""
    torch.manual_seed(0)
    there = Attention()
    here = copy.deepcopy(there).to(device)
    sequences = [torch.randn(length, 16) for length in (7, 1, 12)]
    want = torch.cat([there(each.unsqueeze(0))[0] for each in sequences])
    want.square().sum().backward()
    starts = torch.tensor([0, 7, 8, 20]).to(device)
    x = torch.nested.nested_tensor_from_jagged(torch.cat(sequences).to(device), starts)
    with sdpa.enabled(), count_calls() as calls:
        out = here(x).values()
        out.square().sum().backward()
    assert (calls.fwd, calls.bwd) == (1, 1)
    assert torch.allclose(out.detach().cpu(), want.detach(), atol=1e-5)
    for ours, theirs in zip(here.parameters(), there.parameters()):
        assert torch.allclose(ours.grad.cpu(), theirs.grad, atol=1e-4)


def test_without_heads(device: torch.device) -> None:
    """Three dimensions are one head."""
    starts = torch.tensor([0, 9, 31]).to(device)
    q = torch.randn(31, 16).to(device)
    three = torch.nested.nested_tensor_from_jagged(q, starts)
    four = jagged(q.unsqueeze(1), starts)
    out = flash_attention(three, three, three)
    want = flash_attention(four, four, four)
    assert torch.equal(bits(out.values()), bits(values_of(want)[:, 0]))


def test_what_does_not_fit_is_refused(device: torch.device) -> None:
    """Holes, other lengths, other dimensions and masks are refused, with a reason."""
    q = torch.randn(31, 2, 16).to(device)
    starts, others = (torch.tensor([0, n, 31]).to(device) for n in (9, 10))
    nested = jagged(q, starts)
    assert orchard_ops.supports(nested, nested, nested) == (True, "")
    with pytest.raises(InvalidProblemError, match="same offsets"):
        flash_attention(nested, nested, jagged(q, others))
    with pytest.raises(InvalidProblemError, match="lengths come before the last"):
        flash_attention(*[nested.transpose(1, 2)] * 3)
    holes = torch.nested.nested_tensor_from_jagged(
        q[:, 0], starts, lengths=torch.tensor([5, 7]).to(device)
    )
    with pytest.raises(UnsupportedError, match="holes"):
        flash_attention(holes, holes, holes)
    with pytest.raises(UnsupportedError, match="dense"):
        flash_attention(nested, q, q)
    mask = torch.ones(31, 31, dtype=torch.bool).to(device)
    with pytest.raises(InvalidProblemError, match="packed sequences"):
        flash_attention(nested, nested, nested, mask)
    assert "packed" in sdpa.explain(nested, nested, nested, mask).reason
