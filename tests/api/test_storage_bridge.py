"""Tensors reach the kernels where they lie: any mode, offset and strides, no copy."""

from __future__ import annotations

import itertools
from typing import Any, Callable

import pytest
import torch
from cases import Case
from harness import allocating, bits, count_calls, placer
from needs import skip_without_metalsim
from reference import Inputs, Results, assert_close, make_inputs
from torch import Tensor

import orchard_ops

MODES = ("private", "shared")
CASE = Case(
    "bridge",
    batch=2,
    heads_q=2,
    heads_kv=2,
    len_q=11,
    len_kv=18,
    causal="top-left",
)


def frame(shape: tuple[int, ...]) -> Tensor:
    """Return memory full of NaN, so that any read around a view spreads."""
    return torch.full(shape, torch.nan)


# Each layout: the NaN memory for a [batch, heads, length, head_dim] tensor, and the
# view of that memory which the tensor occupies.
LAYOUTS: dict[
    str, tuple[Callable[..., Tensor], Callable[[Tensor, tuple[int, ...]], Tensor]]
] = {
    "offset": (
        lambda b, h, n, d: frame((b * h * n * d + 40,)),
        lambda base, s: base[13 : 13 + s[0] * s[1] * s[2] * s[3]].view(s),
    ),
    "transposed": (
        lambda b, h, n, d: frame((b, n, h, d)),
        lambda base, _: base.transpose(1, 2),
    ),
    "head-slice": (
        lambda b, h, n, d: frame((b, h, n, d + 7)),
        lambda base, s: base[..., 3 : 3 + s[3]],
    ),
    "every-other-row": (
        lambda b, h, n, d: frame((b, h, 2 * n + 1, d)),
        lambda base, _: base[:, :, 1::2],
    ),
    "inner-batch": (
        lambda b, h, n, d: frame((n, b + 1, h + 1, d)),
        lambda base, _: base[:, 1:, 1:].permute(1, 2, 0, 3),
    ),
}


def run(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> Results:
    """Run forward and backward on tensors that lie on the device."""
    leaves: Any = [tensor.detach().requires_grad_() for tensor in (q, k, v)]
    out, lse = orchard_ops.flash_attention(*leaves, is_causal=True, return_lse=True)
    gradients = torch.autograd.grad(out, leaves, grad)
    return Results(*(t.detach().cpu() for t in (out, lse, *gradients)))


@pytest.mark.parametrize(
    "modes", list(itertools.product(MODES, repeat=4)), ids="-".join
)
def test_each_tensor_in_each_mode(modes: tuple[str, ...], device: torch.device) -> None:
    """Forward and backward bind q, k, v and grad_out of any mode without a copy."""
    if set(modes) != {MODES[0]}:
        skip_without_metalsim("modes")
    inputs = make_inputs(CASE)
    tensors = [placer(device, mode)(tensor) for mode, tensor in zip(modes, inputs.core)]
    if device.type == "metalsim":
        seen = tuple(orchard_ops.storage.describe(t).storage_mode for t in tensors)
        assert seen == modes
    with count_calls() as calls:
        actual = run(*tensors)
    assert_close(CASE, inputs, actual)
    assert (calls.fwd, calls.bwd) == (1, 1)
    assert (calls.copies, calls.bytes_copied) == (0, 0)


@pytest.mark.usefixtures("storage_mode")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_views_are_read_in_place(layout: str, device: torch.device) -> None:
    """Views give the same results; the NaN around them is neither read nor written."""
    make, view = LAYOUTS[layout]
    inputs = make_inputs(CASE)
    bases, views = [], []
    for values in inputs.core:
        base = make(*values.shape)
        view(base, values.shape).copy_(values)
        bases.append((base, base.to(device)))
        views.append(view(bases[-1][1], values.shape))
        assert not views[-1].is_contiguous() or views[-1].storage_offset()
    with count_calls() as calls:
        actual = run(*views)
    assert_close(CASE, inputs, actual)
    assert (calls.fwd, calls.bwd, calls.copies) == (1, 1, 0)
    for before, after in bases:
        assert torch.equal(bits(before), bits(after))


@pytest.mark.parametrize("name", ["q", "k", "v", "grad_out"])
def test_one_tensor_at_an_odd_offset(name: str, device: torch.device) -> None:
    """One tensor that is aligned to its elements alone, beside three aligned ones."""
    inputs = make_inputs(CASE)
    make, view = LAYOUTS["offset"]
    tensors = []
    for label, values in zip(("q", "k", "v", "grad_out"), inputs.core):
        tensor = values.to(device)
        if label == name:
            tensor = view(make(*values.shape).to(device), values.shape)
            tensor.copy_(values)
        tensors.append(tensor)
    with count_calls() as calls:
        actual = run(*tensors)
    assert_close(CASE, inputs, actual)
    assert (calls.fwd, calls.bwd, calls.copies) == (1, 1, 0)


@pytest.mark.parametrize("mixture", [0, 1, 2])
def test_each_tensor_in_another_layout(mixture: int, device: torch.device) -> None:
    """q, k, v and grad_out may all lie differently, in different modes."""
    names = list(LAYOUTS)
    inputs = make_inputs(CASE)
    views = []
    for index, values in enumerate(inputs.core):
        make, view = LAYOUTS[names[(mixture * 2 + index) % len(names)]]
        base = make(*values.shape)
        view(base, values.shape).copy_(values)
        with allocating(device, MODES[(mixture + index) % 2]):
            views.append(view(base.to(device), values.shape))
    with count_calls() as calls:
        actual = run(*views)
    assert_close(CASE, inputs, actual)
    assert calls.copies == 0


@pytest.mark.usefixtures("storage_mode")
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_expanded_tensors(dim: int, device: torch.device) -> None:
    """A dimension of stride 0 is read in place, for inputs and for grad_out."""
    inputs = make_inputs(CASE)
    tensors = [
        tensor.narrow(dim, 0, 1).to(device).expand(tensor.shape)
        for tensor in inputs.core
    ]
    with count_calls() as calls:
        actual = run(*tensors)
    expanded: Any = (
        tensor.narrow(dim, 0, 1).expand(tensor.shape) for tensor in inputs.core
    )
    assert_close(CASE, Inputs(*expanded), actual)
    assert calls.copies == 0


@pytest.mark.usefixtures("storage_mode")
def test_slices_of_a_fused_qkv(device: torch.device) -> None:
    """q, k and v cut from one projection bind in place; its gradient is whole."""
    case = Case("fused", batch=2, heads_q=2, heads_kv=2, len_q=13, len_kv=13,
                head_dim=16, causal="top-left")  # fmt: skip
    inputs = make_inputs(case)
    stacked = torch.stack((inputs.q, inputs.k, inputs.v), 0).permute(1, 3, 0, 2, 4)
    fused = stacked.contiguous().to(device).requires_grad_()
    q, k, v = (part.transpose(1, 2) for part in fused.unbind(2))
    with count_calls() as calls:
        out, lse = orchard_ops.flash_attention(q, k, v, is_causal=True, return_lse=True)
        out.backward(inputs.grad_out.to(device))
    dq, dk, dv = (part.transpose(1, 2) for part in fused.grad.cpu().unbind(2))
    assert_close(case, inputs, Results(out.detach().cpu(), lse.cpu(), dq, dk, dv))
    assert calls.copies == 0


def test_strided_last_dimension_is_copied_and_counted(device: torch.device) -> None:
    """Only a last dimension whose stride is not 1 costs a copy, and it is counted."""
    inputs = make_inputs(CASE)
    q = inputs.q.transpose(-1, -2).contiguous().to(device).transpose(-1, -2)
    others: Any = (tensor.to(device) for tensor in (inputs.k, inputs.v))
    with count_calls() as calls:
        orchard_ops.flash_attention(q, *others, is_causal=True)
    assert (calls.copies, calls.bytes_copied) == (1, inputs.q.numel() * 4)


def test_sixteen_bit_views_at_odd_offsets(device: torch.device) -> None:
    """A float16 view that starts at any element is read at its own alignment."""
    case = Case("odd", torch.float16, len_q=9, len_kv=9)
    inputs = make_inputs(case)
    size = inputs.q.numel()
    views = []
    for start, values in zip((1, 2, 3, 4), inputs.core):
        base = torch.full((size + 8,), torch.nan, dtype=torch.float16)
        base[start : start + size] = values.flatten()
        views.append(base.to(device)[start : start + size].view(values.shape))
    leaves: Any = [tensor.detach().requires_grad_() for tensor in views[:3]]
    out, lse = orchard_ops.flash_attention(*leaves, return_lse=True)
    gradients = torch.autograd.grad(out, leaves, views[3])
    actual = Results(*(t.detach().cpu() for t in (out, lse, *gradients)))
    assert_close(case, inputs, actual)


def test_describe_names_mode_offset_and_length(
    device: torch.device, storage_mode: str
) -> None:
    """describe() tells the buffer's mode and length and the view's byte offset."""
    view = torch.zeros(8, 16, device=device)[3:, 2:]
    described = orchard_ops.storage.describe(view)
    if device.type == "metalsim":
        assert described.storage_mode == storage_mode
    assert described.byte_offset == (3 * 16 + 2) * 4
    assert described.buffer_length_bytes >= 8 * 16 * 4
    assert not described.is_contiguous
    assert described.device_name


def test_describe_of_a_cpu_tensor() -> None:
    """A CPU tensor lies in host memory."""
    described = orchard_ops.storage.describe(torch.zeros(8, 4)[2:])
    assert described == orchard_ops.storage.StorageDescription(
        "host", 8 * 4 * 4, 2 * 4 * 4, True, "cpu"
    )


def test_describe_refuses_other_devices() -> None:
    """A meta tensor has no storage to describe."""
    with pytest.raises(orchard_ops.UnsupportedError, match="meta"):
        orchard_ops.storage.describe(torch.empty(2, device="meta"))
