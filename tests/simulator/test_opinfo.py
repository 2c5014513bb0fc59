"""PyTorch's own operators on metalsim beside the CPU: every sample of its OpInfo.

Each operator runs on the same numbers in the same layout on both, forward and
gradient.  The device runs the CPU's kernels, so float32 and integers must agree bit
for bit.  The suite runs a slice; ``nox -s test-opinfo`` runs everything.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterable
from typing import Any

import opinfo_exceptions as exceptions
import pytest
import torch
from needs import skip_without_metalsim
from torch import Tensor
from torch.utils._pytree import tree_flatten

from orchard_ops import sim

skip_without_metalsim("device")
sim.enable()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db

DEVICE = torch.device("metalsim", 0)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.complex64)
IS_WHOLE = os.environ.get("ORCHARD_ALL_OPERATORS") == "1"
EVERY = 1 if IS_WHOLE else 24
# Of a sum of a few terms in 16 bits.
ROUNDINGS = {torch.float16: 4 * 2.0**-11, torch.bfloat16: 4 * 2.0**-8}


def full_name(op: Any) -> str:
    """Return an operator's name with its variant, unique in the table."""
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


OPERATORS = {full_name(op): op for op in op_db}


def to_device(value: Any) -> Any:
    """Return the value on metalsim: a tensor with the same strides over a copy."""
    if isinstance(value, torch.device) or value == "cpu":
        return DEVICE
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return value
    whole = torch.empty(0, dtype=value.dtype).set_(value.detach().untyped_storage())
    moved = whole.to(DEVICE).as_strided(
        value.shape, value.stride(), value.storage_offset()
    )
    if value.is_conj():
        moved = torch._conj(moved)
    if value.is_neg():
        moved = torch._neg_view(moved)
    return moved.requires_grad_(value.requires_grad)


def seed() -> None:
    """Give both devices the same random numbers."""
    torch.default_generator.manual_seed(0)
    torch.metalsim.manual_seed(0)  # type: ignore[attr-defined]


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors of a nest of lists and tuples."""
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]


def call(op: Any, sample: Any, wants_gradients: bool) -> tuple[Any, list[Any]]:
    """Return the operator's results, and gradients by what it was given."""
    seed()
    result = op(sample.input, *sample.args, **sample.kwargs)
    if sample.output_process_fn_grad is not None:
        result = sample.output_process_fn_grad(result)
    outs = [out for out in tensors_in(result) if out.requires_grad]
    leaves = [
        leaf
        for leaf in tensors_in(
            [sample.input, sample.args, list(sample.kwargs.values())]
        )
        if leaf.requires_grad
    ]
    if not wants_gradients or not outs or not leaves:
        return result, []
    weights = [torch.linspace(0.5, 1.5, out.numel()).to(out.dtype) for out in outs]
    grads = [
        weight.reshape(out.shape).to(out.device) for weight, out in zip(weights, outs)
    ]
    seed()
    return result, list(torch.autograd.grad(outs, leaves, grads, allow_unused=True))


def compare(name: str, expected: Any, actual: Any, where: str) -> None:
    """Fail unless both are the same; 16 bits may differ by a few roundings."""
    expected, actual = tree_flatten(expected)[0], tree_flatten(actual)[0]
    assert len(expected) == len(actual), where
    for right, found in zip(expected, actual):
        if not isinstance(right, Tensor):
            assert type(right) is type(found), where
            assert right == found or right != right, where  # or NaN
            continue
        assert found.dtype == right.dtype, where
        if right.dtype in ROUNDINGS and name in exceptions.NOT_IN_16_BITS:
            continue
        tolerance = ROUNDINGS.get(right.dtype, 0.0)
        if right.dtype in (torch.float32, torch.complex64):
            tolerance = exceptions.ROUNDED.get(name, 0.0)
        torch.testing.assert_close(
            found.detach().cpu(), right.detach(), rtol=tolerance, atol=tolerance,
            equal_nan=True, msg=lambda text: f"{where}: {text}",
        )  # fmt: skip


def samples_of(op: Any, dtype: torch.dtype, wants_gradients: bool) -> Iterable[Any]:
    """Return PyTorch's samples, made on the CPU."""
    torch.manual_seed(0)
    return op.sample_inputs("cpu", dtype, requires_grad=wants_gradients)


def check_sample(name: str, sample: Any, wants_gradients: bool, where: str) -> None:
    """Run one sample on both devices; what the CPU refuses must be refused."""
    op = OPERATORS[name]
    if name in exceptions.OPTIONS:
        options = sample.kwargs["options"]
        sample.kwargs["options"] = dataclasses.replace(
            options, **exceptions.OPTIONS[name]
        )
    # Some samples are views of other leaves, made without a graph.
    own = sample.transform(
        lambda x: (
            x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x
        )
    )
    moved = sample.transform(to_device)
    try:
        expected = call(op, own, wants_gradients)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        with pytest.raises(type(error)):
            call(op, moved, wants_gradients)
        return
    compare(name, expected, call(op, moved, wants_gradients), where)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [name for name in OPERATORS if not exceptions.is_left_out(name)][::EVERY]
)
def test_operator_agrees_with_the_cpu(name: str) -> None:
    """Every sample gives the CPU's result and gradients."""
    op = OPERATORS[name]
    count = 0
    types = op.supported_dtypes("cpu")
    for dtype in [dtype for dtype in DTYPES if dtype in types]:
        wants = dtype in op.supported_backward_dtypes("cpu") and op.supports_autograd
        for number, sample in enumerate(samples_of(op, dtype, wants)):
            check_sample(name, sample, wants, f"{name} {dtype} sample {number}")
            count += 1
    assert count > 0 or not types & set(DTYPES)
