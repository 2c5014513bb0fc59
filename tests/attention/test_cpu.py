"""CPU tensors get the same meaning from PyTorch's own operators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import CASES, EMPTY_CASES, Case
from feature_cases import FEATURE_CASES
from harness import Operators, options, run_case
from reference import assert_close, make_inputs, solve
from torch import Tensor

import orchard_ops

CPU = torch.device("cpu")


# With lse plain operators serve; without, PyTorch's own function where it is right.
both_ways = pytest.mark.parametrize("asks_lse", [True, False], ids=["lse", "plain"])


@both_ways
@pytest.mark.parametrize("case", [*CASES, *FEATURE_CASES], ids=lambda case: case.name)
def test_matches_float64(case: Case, asks_lse: bool) -> None:
    """Both ways are as near to float64 as the kernels must be."""
    case = replace(case, grad_lse=case.grad_lse and asks_lse)
    inputs = make_inputs(case)
    assert_close(case, inputs, run_case(case, inputs, CPU, asks_lse=asks_lse))


@pytest.mark.parametrize("lengths", [(8192, 1), (8192, 2), (1, 8192), (2, 8192)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def test_long_sums_are_rounded_once(
    dtype: torch.dtype, lengths: tuple[int, int]
) -> None:
    """Gradients in 16 bits are no further off where many rows are summed."""
    case = Case("long", dtype, heads_q=2, heads_kv=2, len_q=lengths[0],
                len_kv=lengths[1], head_dim=32)  # fmt: skip
    inputs = make_inputs(case)
    assert_close(case, inputs, run_case(case, inputs, CPU, asks_lse=False))


@both_ways
@pytest.mark.parametrize("case", EMPTY_CASES, ids=lambda case: case.name)
def test_empty_problems(case: Case, asks_lse: bool) -> None:
    """Empty lengths, batches and heads give empty or zero results."""
    case = replace(case, grad_lse=case.grad_lse and asks_lse)
    inputs = make_inputs(case)
    actual = run_case(case, inputs, CPU, asks_lse=asks_lse)
    for name, want in solve(case, inputs).items():
        if asks_lse or name != "lse":
            assert torch.equal(getattr(actual, name).double(), want), name


@pytest.mark.parametrize("causal", ["none", "top-left", "bottom-right"])
def test_asking_for_lse_changes_nothing(causal: str) -> None:
    """The output is the same with and without lse, dead rows included."""
    case = Case("lse", heads_q=4, heads_kv=2, len_q=12, len_kv=7, causal=causal)
    inputs = make_inputs(case)
    q, k, v = inputs.q, inputs.k, inputs.v
    asked = options(case)
    with_lse, _ = orchard_ops.flash_attention(q, k, v, return_lse=True, **asked)
    without = orchard_ops.flash_attention(q, k, v, **asked)
    assert torch.allclose(with_lse, without, atol=1e-6)


def test_gradients_are_exact_in_float64() -> None:
    """The composite passes gradcheck, with rows that attend to nothing."""
    parts = [
        torch.randn(1, 2, length, 3, dtype=torch.float64, requires_grad=True)
        for length in (5, 3, 3)
    ]

    def attend(*tensors: Any) -> torch.Tensor:
        return orchard_ops.flash_attention(
            *tensors, is_causal=True, causal_alignment="bottom-right"
        )

    assert torch.autograd.gradcheck(attend, parts)


def zeros_and_steps(len_q: int, len_kv: int, size: int = 8) -> list[Tensor]:
    """Return q and k of zeros, and a v whose row j holds j."""
    steps = torch.arange(float(len_kv)).view(1, 1, -1, 1).repeat(1, 1, 1, size)
    return [torch.zeros(1, 1, len_q, size), torch.zeros(1, 1, len_kv, size), steps]


ONE_COLUMN = {
    "float, one number": torch.zeros(1, 1, 1, 1),
    "float, a number a row": torch.zeros(1, 1, 4, 1),
    "float, of two dimensions": torch.zeros(4, 1),
    "bool, one number": torch.ones(1, 1, 1, 1, dtype=torch.bool),
    "bool, one a row": torch.ones(1, 1, 4, 1, dtype=torch.bool),
}


@pytest.mark.parametrize("name", ONE_COLUMN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_mask_of_one_column_holds_for_all_keys(name: str, dtype: torch.dtype) -> None:
    """It is not read past its end: over keys of 0 to 19 the mean is 9.5."""
    q, k, v = (tensor.to(dtype) for tensor in zeros_and_steps(4, 20))
    mask = ONE_COLUMN[name]
    mask = mask.to(dtype) if mask.is_floating_point() else mask
    for _ in range(3):
        out = orchard_ops.flash_attention(q, k, v, mask)
        # Some processors round a twentieth of each key the other way.
        torch.testing.assert_close(out, torch.full_like(out, 9.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bias", ["lowest", -1e30, -3e5, 1e30])
@pytest.mark.parametrize("rows", [1, 3])
def test_rows_of_far_biases_share_their_gradient(
    rows: int, bias: Any, dtype: torch.dtype
) -> None:
    """Biases that are all the same change no weight, however low or high.

    With three rows the others are normal ones.
    """
    q, k, v = (tensor.to(dtype) for tensor in zeros_and_steps(rows, 4))
    v.requires_grad_()
    mask = torch.zeros(rows, 4, dtype=dtype)
    mask[rows // 2] = torch.finfo(dtype).min if bias == "lowest" else bias
    out = orchard_ops.flash_attention(q, k, v, mask)
    assert torch.equal(out, torch.full_like(out, 1.5))
    (dv,) = torch.autograd.grad(out.sum(), v)
    assert torch.equal(dv, torch.full_like(dv, 0.25 * rows))


@pytest.mark.parametrize("scale", [-1.0, -0.3, 0.0, -0.0, 1e-50])
def test_causal_with_a_scale_that_is_not_positive(scale: float) -> None:
    """A hidden score stays hidden when the scale turns it over, or makes it 0."""
    torch.manual_seed(0)
    leaves: Any = [torch.randn(1, 1, 4, 8, requires_grad=True) for _ in range(3)]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    out = orchard_ops.flash_attention(*leaves, is_causal=True, scale=scale)
    scores = scale * exact[0] @ exact[1].transpose(-1, -2)
    hidden = torch.ones(4, 4).triu(1).bool()
    want = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ exact[2]
    grad = torch.randn(1, 1, 4, 8)
    got = torch.autograd.grad(out, leaves, grad)
    wanted = torch.autograd.grad(want, exact, grad.double())
    for ours, theirs in zip((out, *got), (want, *wanted)):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)


FAST: dict[str, dict[str, Any]] = {
    "no option": {},
    "causal": {"is_causal": True},
    "a mask": {"attn_mask": torch.ones(6, 6, dtype=torch.bool)},
    "a bias": {"attn_mask": torch.zeros(2, 1, 6, 6)},
    "shared keys": {"heads_kv": 1},
    "three dimensions": {"heads": 0},
    "packed": {"is_packed": True},
}


@pytest.mark.parametrize("name", FAST)
def test_what_pytorch_does_well_is_left_to_it(name: str) -> None:
    """Its own function, which does not keep the scores, serves the usual calls."""
    options = dict(FAST[name])
    heads, heads_kv = options.pop("heads", 2), options.pop("heads_kv", 2)
    q, k = (torch.randn(2, n, 6, 8) for n in (heads or 1, heads_kv if heads else 1))
    is_packed = options.pop("is_packed", False)
    ends = torch.tensor([0, 4, 12], dtype=torch.int32)
    rows = q.transpose(1, 2).flatten(0, 1)
    if heads == 0:
        q, k = q[:, 0], k[:, 0]
    with Operators() as seen:
        if is_packed:
            orchard_ops.flash_attention_varlen(rows, rows, rows, ends, ends, 8, 8)
        else:
            orchard_ops.flash_attention(q, k, k, **options)
    # By its definition attention numbers the keys.
    assert seen.names
    assert not [name for name in seen.names if name.startswith("aten.arange")]
    with Operators() as seen:
        orchard_ops.flash_attention(q, k, k, return_lse=True, **options)
    assert [name for name in seen.names if name.startswith("aten.arange")]


def test_forward_mode_has_a_derivative() -> None:
    """Plain operators serve where PyTorch's function has no forward derivative."""
    torch.manual_seed(0)
    x, direction = (torch.randn(1, 2, 5, 8, dtype=torch.float64) for _ in range(2))

    def attend(x: Tensor) -> Tensor:
        return orchard_ops.flash_attention(x, x, x, is_causal=True)

    step = 1e-6 * direction
    want = (attend(x + step) - attend(x - step)) / 2e-6
    got = torch.func.jvp(attend, (x,), (direction,))[1]
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, direction)
        got = torch.autograd.forward_ad.unpack_dual(attend(dual)).tangent
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)


def test_transforms_have_second_derivatives() -> None:
    """A Hessian by torch.func is that of the definition."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 3, 2, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        return orchard_ops.flash_attention(x, x, x, scale=0.7).square().sum()

    def by_definition(x: Tensor) -> Tensor:
        weights = (0.7 * x @ x.transpose(-1, -2)).softmax(-1)
        return (weights @ x).square().sum()

    want = torch.func.hessian(by_definition)(x)
    torch.testing.assert_close(torch.func.hessian(loss)(x), want)


@pytest.mark.parametrize("ndim", [3, 4])
def test_second_derivatives_say_what_to_do(ndim: int) -> None:
    """Where PyTorch's function served, a double backward is an error of ours."""
    q = torch.randn((2, 1, 5, 8)[4 - ndim :]).requires_grad_()
    out = orchard_ops.flash_attention(q, q, q)
    (first,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    plain = orchard_ops.flash_attention(q, q, q)
    (want,) = torch.autograd.grad(plain.sum(), q)
    assert torch.equal(first, want)  # the first one is there, whatever is asked later
    with pytest.raises(NotImplementedError, match=r"double backward.*create_graph"):
        first.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_single_key_has_no_gradient_in_its_score(dtype: torch.dtype) -> None:
    """Its weight is 1 whatever the score: what makes dq and dk cancels."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, n, 64).to(dtype).requires_grad_() for n in (9, 1, 1))
    out = orchard_ops.flash_attention(q, k, v)
    dq, dk = torch.autograd.grad(out, (q, k), torch.randn(2, 2, 9, 64).to(dtype))
    assert dq.abs().max() <= 1e-5
    assert dk.abs().max() <= 1e-5


def test_float64_masks_are_exact() -> None:
    """A bias that float32 has no number for is added, and hides nothing."""
    q, k, v = (torch.randn(1, 2, 5, 8) for _ in range(3))
    least = torch.finfo(torch.float64).min
    mask = torch.full((5, 5), least, dtype=torch.float64).requires_grad_()
    out, lse = orchard_ops.flash_attention(q, k, v, mask, return_lse=True)
    assert torch.allclose(out, v.mean(2, keepdim=True).expand_as(out), atol=1e-6)
    out.sum().backward()
    assert (mask.grad.dtype, out.dtype, lse.dtype) == (
        torch.float64,
        torch.float32,
        torch.float32,
    )
