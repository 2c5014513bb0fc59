"""What users of other attention packages for Apple GPUs complain about.

One test or table for each complaint, named after the right behaviour.  Complaints
about features as such (no backward, no dropout, no finite biases) are answered by
feature_cases.py, about silent refusals by test_errors.py, about surrounding memory by
test_storage_bridge.py.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import Case, Mask
from harness import allocated_bytes, attend, bits, run_case
from needs import needs_metalsim, skip_without
from reference import assert_close, largest, make_inputs, solve
from torch import Tensor

import orchard_ops

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16


def leaf(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a copy on the device that requires gradients."""
    skip_without(tensor.dtype, device)
    return tensor.detach().to(device).requires_grad_()


@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
@pytest.mark.parametrize("past", [8, 21, 64])
def test_the_future_does_not_leak_into_the_past(
    past: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Whatever later tokens hold, rows before them keep every bit, dq included.

    NaN values in v, and for dq in k, may reach the rows of their tile as 0 * NaN, as
    they reach all rows in torch.matmul.
    """
    case = Case("future", dtype, heads_q=2, len_q=77, len_kv=77, causal="top-left")
    inputs = make_inputs(case)
    results = []
    for values in ((), (1e4, 1e4, -1e4), (torch.nan, torch.nan)):
        q, k, v = (tensor.clone() for tensor in inputs.core[:3])
        for tensor, value in zip((q, k, v), values):
            tensor[:, :, past:] = value
        leaves: Any = [leaf(tensor, device) for tensor in (q, k, v)]
        out, lse = attend(case, *leaves)
        (dq,) = torch.autograd.grad(out, leaves[0], inputs.grad_out.to(device))
        results.append([bits(t)[:, :, :past] for t in (out, lse, dq)])
    plain, large, nan = results
    for want, got in [*zip(plain, large), *zip(plain[:2], nan)]:
        assert torch.equal(want, got)


@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
def test_nothing_flows_back_into_the_future(
    dtype: torch.dtype, device: torch.device
) -> None:
    """Keys and values after the last row with a gradient get exactly zero."""
    case = Case("backflow", dtype, len_q=77, len_kv=77, causal="top-left")
    inputs = make_inputs(case)
    inputs.grad_out[:, :, 30:] = 0
    results = run_case(case, inputs, device)
    for tensor in (results.dq, results.dk, results.dv):
        assert not tensor[:, :, 30:].any()
        assert tensor[:, :, :30].any()


ORDERS = list(itertools.permutations(range(3)))


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_permuted_inputs(order: tuple[int, ...], device: torch.device) -> None:
    """Batch, heads and length may lie in any order in memory, for every tensor."""
    case = Case("permuted", batch=2, heads_q=3, heads_kv=3, len_q=18, len_kv=29,
                causal="bottom-right")  # fmt: skip
    inputs = make_inputs(case)
    order = (*order, 3)
    back = [order.index(dim) for dim in range(4)]
    tensors = [t.permute(order).contiguous().to(device) for t in inputs.core]
    q, k, v, grad_out = (tensor.permute(back) for tensor in tensors)
    leaves: Any = [tensor.detach().requires_grad_() for tensor in (q, k, v)]
    out, lse = attend(case, *leaves)
    gradients = torch.autograd.grad(out, leaves, grad_out)
    results = [t.detach().cpu() for t in (out, lse, *gradients)]
    assert_close(case, inputs, type(solve(case, inputs))(*results))


@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_fully_masked_rows_are_zeros(
    kind: str, dtype: torch.dtype, device: torch.device
) -> None:
    """Rows that a mask empties give zeros, and zero gradients, never NaN."""
    case = Case("masked-rows", dtype, len_q=23, len_kv=37,
                mask=Mask(kind, hidden="rows"))  # fmt: skip
    results = run_case(case, make_inputs(case), device)
    for _, tensor in results.items():
        assert not tensor.isnan().any()
    for tensor in (results.out, results.dq):
        assert not tensor[:, :, 2::5].any()
    assert torch.isneginf(results.lse[:, :, 2::5]).all()


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)], ids=str)
def test_decoding_at_ragged_lengths(
    heads: tuple[int, int], device: torch.device
) -> None:
    """One query each, 1 to 1,025 keys, grouped heads, in memory full of NaN."""
    lengths = [*range(1, 18), 31, 32, 33, 63, 64, 65, 97, 1023, 1024, 1025]
    pairs = tuple((1, length) for length in lengths)
    case = Case("decode", F16, heads_q=heads[0], heads_kv=heads[1], sequences=pairs,
                head_dim=64, causal="bottom-right", layout="sliced")  # fmt: skip
    inputs = make_inputs(case)
    assert_close(case, inputs, run_case(case, inputs, device))


@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
def test_softmax_over_thousands_of_keys(
    dtype: torch.dtype, device: torch.device
) -> None:
    """Sums over 4,500 keys stay as near to float64 as sums over a few."""
    case = Case("long-keys", dtype, len_q=9, len_kv=4500)
    inputs = make_inputs(case)
    # An even attention is the hard case: each weight is small, the sum long.
    inputs = replace(inputs, k=inputs.k * 0.1, v=inputs.v + 1.0)
    assert_close(case, inputs, run_case(case, inputs, device))


def test_more_scores_than_32_bits_count(device: torch.device) -> None:
    """65,700 by 65,700 scores, 4.3e9 of them, in a narrow window: exact."""
    length = 65_700
    v = torch.arange(length, dtype=F32).view(1, 1, length, 1).repeat(1, 1, 1, 8)
    q = torch.ones(1, 1, length, 8)
    leaves: Any = [leaf(tensor, device) for tensor in (q, q, v)]
    out = orchard_ops.flash_attention(*leaves, window=(0, 0))
    assert torch.equal(out.detach().cpu(), v)
    (dv,) = torch.autograd.grad(out, leaves[2], v.to(device))
    assert torch.equal(dv.cpu(), v)


# Strides in elements of the batch, head and row of a tensor whose 16-bit elements
# reach beyond 2**31 and 2**32; bytes reach beyond 2**33.
FAR = {
    "batch": (2**32 + 64, 64, 128),
    "head": (2**14, 2**31 + 64, 64),
    "row": (64, 128, 2**29),
    # The last of nine rows begins where the kernels that count a head's elements in 32
    # bits are used no more, and just before.
    "first wide row": (64, 128, 2**28 - 2**13),
    "last narrow row": (64, 128, 2**28 - 2**13 - 64),
}
FAR_NAMES = ("q", "k", "v", "grad_out", "mask")


def far_view(values: Tensor, strides: tuple[int, ...], device: torch.device) -> Tensor:
    """Put values into a huge buffer, of which only their pages are ever touched."""
    reach = sum((n - 1) * s for n, s in zip(values.shape, strides)) + 1
    base = torch.empty(reach, dtype=values.dtype, device=device)
    view = base.as_strided(values.shape, strides)
    view.copy_(values.to(device))
    return view


@needs_metalsim("untouched")
@pytest.mark.parametrize("name", FAR_NAMES)
@pytest.mark.parametrize("axis", FAR)
def test_offsets_beyond_32_bits(axis: str, name: str, device: torch.device) -> None:
    """Each tensor may span more than 2**32 elements; the results keep their bits."""
    case = Case("far", F16, batch=2, heads_q=2, heads_kv=2, len_q=9, len_kv=9,
                mask=Mask("float", hidden="none"))  # fmt: skip
    inputs = make_inputs(case)
    strides = (*FAR[axis], 1)
    tensors = dict(zip(FAR_NAMES, (*inputs.core, inputs.attn_mask)))
    near = {label: tensor.to(device) for label, tensor in tensors.items()}
    far = dict(near)
    far[name] = far_view(tensors[name], strides, device)
    results = []
    for given in (near, far):
        leaves: Any = [
            given[label].detach().requires_grad_() for label in ("q", "k", "v")
        ]
        mask = given["mask"].detach().requires_grad_()
        out, lse = attend(case, *leaves, attn_mask=mask)
        gradients = torch.autograd.grad(out, (*leaves, mask), given["grad_out"])
        results.append([bits(t) for t in (out, lse, *gradients)])
    for want, got in zip(*results):
        assert torch.equal(want, got)


def test_varying_lengths_leave_no_memory_behind(device: torch.device) -> None:
    """After forty different lengths as much is allocated as before."""
    q = torch.randn(1, 2, 64, 64).to(device)
    before = allocated_bytes(device)
    for length in range(1, 41):
        leaves: Any = [q[:, :, :length].detach().requires_grad_() for _ in range(3)]
        out = orchard_ops.flash_attention(*leaves, is_causal=True, dropout_p=0.1)
        out.backward(torch.ones(out.shape).to(device))
        del leaves, out
    assert allocated_bytes(device) == before


@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
def test_nan_stays_where_the_definition_puts_it(
    dtype: torch.dtype, device: torch.device
) -> None:
    """A NaN query, bias or gradient reaches its own row; a hidden key none."""
    case = Case("nan", dtype, len_q=30, len_kv=41, mask=Mask("float", hidden="none"))
    inputs = make_inputs(case)
    inputs.attn_mask[0, 0, 4, 7] = torch.nan
    inputs.q[0, 0, 11] = torch.nan
    inputs.grad_out[0, 0, 20] = torch.nan
    results = run_case(case, inputs, device)
    rows = results.out.isnan().all(-1).flatten().nonzero().flatten().tolist()
    assert rows == [4, 11]
    assert int(results.out.isnan().sum()) == 2 * case.value_dim
    rows = results.dq.isnan().any(-1).flatten().nonzero().flatten().tolist()
    assert rows == [4, 11, 20]
    hidden = replace(case, mask=Mask("bool", hidden="columns"))
    inputs = make_inputs(hidden)
    clean = run_case(hidden, inputs, device)
    inputs.k[:, :, ~inputs.attn_mask[0, 0, 0]] = torch.nan
    dirty = run_case(hidden, inputs, device)
    for name in ("out", "lse", "dv"):
        want, got = getattr(clean, name), getattr(dirty, name)
        assert largest(want.double() - got.double()) == 0.0, name
