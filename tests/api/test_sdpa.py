"""F.scaled_dot_product_attention through the kernels, and what is left to PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from harness import bits, count_calls
from needs import TORCH, skip_without
from torch import Tensor, nn

import orchard_ops
from orchard_ops import OrchardError, sdpa

PYTORCH: Any = F.scaled_dot_product_attention
HAS_GQA = TORCH >= (2, 5)


@pytest.fixture(autouse=True)
def switched_off() -> Iterator[None]:
    """Begin with no counts, and leave PyTorch's own function behind."""
    sdpa.reset_fallbacks()
    yield
    if sdpa.is_enabled():
        sdpa.disable()
    F.scaled_dot_product_attention = PYTORCH


def draw(device: torch.device, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Return tensors of random numbers, the same ones in every test."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device) for shape in shapes]


SHAPE = (2, 4, 17, 64)


def test_enable_and_disable() -> None:
    """enable() replaces the function, disable() puts PyTorch's own back."""
    assert not sdpa.is_enabled()
    sdpa.enable()
    sdpa.enable()  # twice is once
    assert sdpa.is_enabled()
    assert F.scaled_dot_product_attention is not PYTORCH
    sdpa.disable()
    sdpa.disable()
    assert F.scaled_dot_product_attention is PYTORCH


def test_context_manager() -> None:
    """enabled() lasts as long as its block, also within another and past an error."""
    with sdpa.enabled():
        with sdpa.enabled():
            pass
        assert sdpa.is_enabled()
    assert F.scaled_dot_product_attention is PYTORCH
    with pytest.raises(KeyError), sdpa.enabled():
        raise KeyError
    assert F.scaled_dot_product_attention is PYTORCH


def test_blocks_that_overlap() -> None:
    """The first to end leaves routing to the other; switching off ends no outer one."""
    first, second = sdpa.enabled(), sdpa.enabled()
    with first:
        second.__enter__()
    assert sdpa.is_enabled()
    second.__exit__(None, None, None)
    assert F.scaled_dot_product_attention is PYTORCH
    sdpa.enable()
    with sdpa.enabled():
        sdpa.disable()
    assert sdpa.is_enabled()


def test_a_replacement_that_calls_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enabling again on top of it would make a circle: it is refused."""
    sdpa.enable()
    inner = F.scaled_dot_product_attention
    (q,) = draw(torch.device("cpu"), SHAPE)
    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: inner(*a, **k))
        with pytest.raises(OrchardError, match="undo that replacement first"):
            sdpa.enable()
        with pytest.raises(OrchardError, match="undo"), sdpa.enabled():
            pass
        assert F.scaled_dot_product_attention(q, q, q).shape == q.shape
    sdpa.disable()
    assert F.scaled_dot_product_attention is PYTORCH


def test_a_replacement_on_top_is_not_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """disable() refuses to undo what somebody else did after enable()."""
    sdpa.enable()
    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", lambda *_: None)
        with pytest.raises(OrchardError, match="undo that replacement first"):
            sdpa.disable()
    sdpa.disable()
    assert F.scaled_dot_product_attention is PYTORCH


def test_a_replacement_underneath_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody else put there before enable() serves the calls left over."""
    calls = []

    def other(*arguments: Any, **more: Any) -> Tensor:
        calls.append(1)
        return PYTORCH(*arguments, **more)

    monkeypatch.setattr(F, "scaled_dot_product_attention", other)
    with sdpa.enabled():
        q = torch.randn(1, 2, 3, 8)
        F.scaled_dot_product_attention(q, q, q)
    assert calls == [1]
    assert F.scaled_dot_product_attention is other


def float_mask(device: torch.device) -> Tensor:
    """Return a finite bias, some of it far below any threshold for "masked"."""
    (mask,) = draw(device, (2, 1, 17, 17))
    low = torch.zeros(2, 1, 17, 17)
    low[..., ::3] = -2e4
    return mask + low.to(device)


def bool_mask(device: torch.device) -> Tensor:
    """Return a mask in which every query sees some key."""
    return (torch.arange(17) % 3 < 2).expand(17, 17).to(device)


ROUTED: dict[str, Callable[[torch.device], dict[str, Any]]] = {
    "plain": lambda _: {},
    "causal": lambda _: {"is_causal": True},
    "scale": lambda _: {"scale": 0.3},
    "bool mask": lambda device: {"attn_mask": bool_mask(device)},
    "finite float mask": lambda device: {"attn_mask": float_mask(device)},
}


@pytest.mark.parametrize("name", ROUTED)
def test_routed_calls_equal_pytorch(name: str, device: torch.device) -> None:
    """Routed calls run the kernels, and equal PyTorch's own on the CPU."""
    options = ROUTED[name](device)
    q, k, v, grad = draw(device, SHAPE, SHAPE, SHAPE, SHAPE)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    decision = sdpa.explain(q, k, v, **options)
    assert (decision.is_routed, decision.reason) == (True, "")
    with sdpa.enabled(), count_calls() as calls:
        out = F.scaled_dot_product_attention(q, k, v, **options)
        grads = torch.autograd.grad(out, leaves, grad)
    assert (calls.fwd, calls.bwd) == (1, 1)
    assert sdpa.fallbacks() == {}
    there = [t.detach().cpu().double().requires_grad_() for t in leaves]
    mask = options.get("attn_mask")
    if mask is not None:
        mask = mask.cpu() if mask.dtype == torch.bool else mask.cpu().double()
        options["attn_mask"] = mask
    want = PYTORCH(*there, **options)
    wanted = torch.autograd.grad(want, there, grad.cpu().double())
    for got, exact in zip((out, *grads), (want, *wanted)):
        assert torch.allclose(got.detach().cpu().double(), exact, atol=2e-5)


def test_a_float_mask_gets_its_gradient(device: torch.device) -> None:
    """A learned bias trains through the routed function."""
    q, bias, grad = draw(device, SHAPE, (1, 4, 17, 17), SHAPE)
    bias.requires_grad_()
    with sdpa.enabled():
        F.scaled_dot_product_attention(q, q, q, bias).backward(grad)
    exact, there = bias.detach().cpu().double().requires_grad_(), q.cpu().double()
    PYTORCH(there, there, there, exact).backward(grad.cpu().double())
    assert torch.allclose(bias.grad.cpu().double(), exact.grad, atol=2e-5)
    assert exact.grad.abs().max() > 1e-3


def test_dropout_is_not_ignored(device: torch.device) -> None:
    """dropout_p drops weights: with values of one, rows no longer sum to one."""
    q, _ = draw(device, SHAPE, SHAPE)
    ones = torch.ones(SHAPE).to(device)
    with sdpa.enabled():
        torch.manual_seed(0)
        first, second = (
            F.scaled_dot_product_attention(q, q, ones, dropout_p=0.5) for _ in range(2)
        )
        torch.manual_seed(0)
        again = F.scaled_dot_product_attention(q, q, ones, dropout_p=0.5)
    assert (first.cpu() - 1).abs().max() > 0.1
    assert not torch.equal(first.cpu(), second.cpu())
    assert torch.equal(bits(first), bits(again))


def test_rows_without_keys_are_zero(device: torch.device) -> None:
    """A row whose mask is all False gives zeros and no NaN in any gradient."""
    q, k, v = (t.requires_grad_() for t in draw(device, SHAPE, SHAPE, SHAPE))
    mask = torch.ones(17, 17, dtype=torch.bool)
    mask[5] = False
    with sdpa.enabled():
        out = F.scaled_dot_product_attention(q, k, v, mask.to(device))
        out.sum().backward()
    assert not out[:, :, 5].cpu().any()
    assert all(torch.isfinite(t.grad.cpu()).all() for t in (q, k, v))


def test_causal_is_top_left(device: torch.device) -> None:
    """With more keys than queries the first query sees the first key alone."""
    q, k = draw(device, (1, 2, 3, 64), (1, 2, 9, 64))
    with sdpa.enabled():
        out = F.scaled_dot_product_attention(q, k, k, is_causal=True)
    assert torch.allclose(out[:, :, 0].cpu(), k[:, :, 0].cpu(), atol=1e-6)


def test_grouped_heads(device: torch.device) -> None:
    """enable_gqa shares key heads where this PyTorch has it; else it is refused."""
    q, k = draw(device, (2, 4, 9, 64), (2, 2, 9, 64))
    assert sdpa.explain(q, k, k, enable_gqa=True).is_routed
    with sdpa.enabled(), count_calls() as calls:
        if not HAS_GQA:
            with pytest.raises(TypeError, match="enable_gqa"):
                F.scaled_dot_product_attention(q, k, k, enable_gqa=True)
            return
        out = F.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    assert calls.fwd == 1
    want = PYTORCH(q.cpu(), k.cpu(), k.cpu(), enable_gqa=True)
    assert torch.allclose(out.cpu(), want, atol=2e-5)


class Overriding(Tensor):
    """A tensor whose library answers for PyTorch's functions."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        """Answer for the attention function alone."""
        if function is PYTORCH:
            return "its own"
        return super().__torch_function__(function, types, args, kwargs or {})


FALLBACKS: dict[str, tuple[Callable[[torch.device], tuple[Any, ...]], str]] = {
    "on the CPU": (lambda _: ([torch.ones(1, 2, 3, 8)] * 3, {}), "device cpu"),
    "wide heads": (
        lambda device: ([torch.ones(1, 1, 3, 600).to(device)] * 3, {}),
        "expected head_dim from 1 to 576",
    ),
}


@pytest.mark.parametrize("name", FALLBACKS)
def test_fallbacks_are_explained_and_counted(name: str, device: torch.device) -> None:
    """What the kernels do not take goes to PyTorch, with a reason and a count."""
    make, words = FALLBACKS[name]
    tensors, options = make(device)
    decision = sdpa.explain(*tensors, **options)
    assert not decision.is_routed
    assert words in decision.reason
    with sdpa.enabled(), count_calls() as calls:
        for _ in range(2):
            out = F.scaled_dot_product_attention(*tensors, **options)
    assert calls.fwd == 0
    assert torch.allclose(out.cpu(), PYTORCH(*(t.cpu() for t in tensors), **options))
    ((reason, count),) = sdpa.fallbacks().items()
    assert (words in reason, count) == (True, 2)
    sdpa.reset_fallbacks()
    assert sdpa.fallbacks() == {}


@pytest.mark.parametrize(("head_dim", "head_dim_v"), [(512, 512), (576, 512)])
def test_wide_heads_are_served(
    head_dim: int, head_dim_v: int, device: torch.device
) -> None:
    """Those of Stable Diffusion's VAE and of latent attention go to our kernels."""
    q, k = (torch.randn(1, 1, 9, head_dim).to(device) for _ in range(2))
    v = torch.randn(1, 1, 9, head_dim_v).to(device)
    assert sdpa.explain(q, k, v).is_routed
    with sdpa.enabled(), count_calls() as calls:
        out = F.scaled_dot_product_attention(q, k, v)
    assert calls.fwd == 1
    assert torch.allclose(out.cpu(), PYTORCH(q.cpu(), k.cpu(), v.cpu()), atol=2e-5)


def test_a_decision_is_a_value() -> None:
    """It can be compared, collected, and not changed."""
    q = torch.zeros(1, 1, 2, 8)
    decision = sdpa.explain(q, q, q)
    assert {decision} == {sdpa.explain(q, q, q)}
    with pytest.raises(AttributeError):
        decision.reason = ""


def test_counts_do_not_grow_with_lengths(device: torch.device) -> None:
    """Calls refused by one rule share an entry, whatever their sizes."""
    with sdpa.enabled():
        for size in (577, 600, 610):
            q = torch.ones(1, 1, 3, size).to(device)
            F.scaled_dot_product_attention(q, q, q)
    assert list(sdpa.fallbacks().values()) == [3]


def test_pytorchs_errors_stay_pytorchs(device: torch.device) -> None:
    """A call that PyTorch refuses is refused by PyTorch, in its own words."""
    q, k = draw(device, (1, 4, 5, 8), (1, 2, 5, 8))
    assert "enable_gqa=False" in sdpa.explain(q, k, k).reason
    with sdpa.enabled():
        with pytest.raises(RuntimeError, match="must match"):
            F.scaled_dot_product_attention(q, k, k)
        with pytest.raises(TypeError):
            F.scaled_dot_product_attention(q, q, q, no_such_argument=1)


def test_a_mask_and_causal_mean_both(device: torch.device) -> None:
    """A key must pass both, bool or float; explain says so, gradients are right."""
    torch.manual_seed(0)
    mask = torch.rand(17, 17) > 0.3
    mask[:, 0] = True  # PyTorch may give NaN to rows without a key
    both = mask & torch.ones(17, 17).tril().bool()
    tensors = draw(torch.device("cpu"), SHAPE, SHAPE, SHAPE)
    there = [t.clone().requires_grad_() for t in tensors]
    want = PYTORCH(*there, both)
    wanted = torch.autograd.grad(want.square().sum(), there)
    for given in (mask, torch.zeros(17, 17).masked_fill(~mask, -torch.inf)):
        here: Any = [t.to(device).requires_grad_() for t in tensors]
        decision = sdpa.explain(*here, given.to(device), is_causal=True)
        assert decision.is_routed
        assert "must pass both" in decision.note
        with sdpa.enabled(), count_calls() as calls:
            out = F.scaled_dot_product_attention(
                *here, given.to(device), is_causal=True
            )
        assert calls.fwd == 1
        assert torch.allclose(out.detach().cpu(), want.detach(), atol=1e-5)
        found = torch.autograd.grad(out.square().sum(), here)
        for got, expected in zip(found, wanted):
            assert torch.allclose(got.cpu(), expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_mask_of_another_dtype_is_exact(
    dtype: torch.dtype, device: torch.device
) -> None:
    """A float mask is cast up, never to q's dtype and never to a bool."""
    skip_without(dtype, device)
    q, mask = draw(device, SHAPE)[0], torch.randn(17, 17).to(dtype).to(device)
    decision = sdpa.explain(q, q, q, mask)
    assert decision.is_routed
    assert f"copied from {dtype} into torch.float32" in decision.note
    with sdpa.enabled():
        out = F.scaled_dot_product_attention(q, q, q, mask)
    want = PYTORCH(*[q.cpu()] * 3, mask.cpu().float())
    assert torch.allclose(out.cpu(), want, atol=1e-5)


LEADING = {
    "five": ((2, 3, 4, 9, 16), (2, 3, 4, 5, 16), (2, 3, 4, 5, 8)),
    "two": ((9, 16), (5, 16), (5, 8)),
    "six": ((1, 2, 1, 3, 9, 16), (2, 1, 2, 3, 5, 16), (2, 2, 1, 3, 5, 8)),
    "one batch of keys": ((3, 2, 9, 16), (1, 2, 5, 16), (1, 2, 5, 8)),
    "one key head": ((3, 2, 9, 16), (3, 1, 5, 16), (3, 1, 5, 8)),
    "one query head": ((3, 1, 9, 16), (3, 4, 5, 16), (3, 4, 5, 8)),
    "other ranks": ((2, 3, 9, 16), (3, 5, 16), (5, 8)),
    "three, one of keys": ((3, 9, 16), (1, 5, 16), (3, 5, 8)),
    "empty": ((0, 3, 4, 9, 16), (1, 3, 4, 5, 16), (1, 3, 4, 5, 8)),
}


@pytest.mark.parametrize("name", LEADING)
def test_leading_dimensions_broadcast(name: str, device: torch.device) -> None:
    """Any number of them, as PyTorch has them on the CPU; gradients in each shape."""
    tensors = draw(torch.device("cpu"), *LEADING[name])
    exact = [t.double().requires_grad_() for t in tensors]
    want = PYTORCH(*exact)
    grad = draw(torch.device("cpu"), want.shape)[0]
    wanted = torch.autograd.grad(want, exact, grad.double())
    for place in (torch.device("cpu"), device):
        leaves: Any = [t.to(place).requires_grad_() for t in tensors]
        with count_calls() as calls:
            out = orchard_ops.flash_attention(*leaves, enable_gqa=False)
        assert calls.fwd == (place is device and out.numel() > 0)
        found = torch.autograd.grad(out, leaves, grad.to(place))
        for got, expected in zip((out, *found), (want, *wanted)):
            assert got.shape == expected.shape
            assert torch.allclose(got.cpu().double(), expected, atol=2e-5)
    assert sdpa.explain(*leaves).is_routed


def test_errors_of_the_kernels_are_not_swallowed(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception from flash_attention reaches the caller; nothing falls back."""

    def fail(*_: object, **__: Any) -> Tensor:
        raise orchard_ops.DeviceError("lost")

    monkeypatch.setattr(orchard_ops._sdpa_call, "flash_attention", fail)
    q, _ = draw(device, SHAPE, SHAPE)
    with sdpa.enabled(), pytest.raises(orchard_ops.DeviceError, match="lost"):
        F.scaled_dot_product_attention(q, q, q)
    assert sdpa.fallbacks() == {}


def test_sdpa_kernel_is_obeyed(device: torch.device) -> None:
    """Where the user switches flash attention off, PyTorch serves: twice derivable."""
    q, _ = draw(device, (1, 2, 5, 8), SHAPE)
    q.requires_grad_()
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        assert "sdpa_kernel" in sdpa.explain(q, q, q).reason
        with sdpa.enabled():
            out = F.scaled_dot_product_attention(q, q, q)
            (first,) = torch.autograd.grad(out.sum(), q, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), q)
    finally:
        torch.backends.cuda.enable_flash_sdp(True)
    assert second.cpu().abs().max() > 0


def test_transforms_are_left_to_pytorch(device: torch.device) -> None:
    """torch.func.grad and forward-mode derivatives work, by PyTorch's function."""
    q = torch.randn(1, 2, 5, 8)

    def loss(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x).sum()

    want = torch.func.grad(loss)(q)
    with sdpa.enabled():
        got = torch.func.grad(loss)(q.to(device))
    assert torch.allclose(got.cpu(), want, atol=1e-5)
    assert sdpa.fallbacks() == {"inside a torch.func transform": 1}


def test_subclasses_answer_for_themselves(device: torch.device) -> None:
    """A subclass that overrides PyTorch's functions is asked, as PyTorch asks it."""
    q = torch.ones(1, 1, 2, 8).to(device)
    other = q.as_subclass(Overriding)
    assert "subclass" in sdpa.explain(other, q, q).reason
    with sdpa.enabled():
        assert F.scaled_dot_product_attention(other, q, q) == "its own"
        parameter = nn.Parameter(q)
        assert sdpa.explain(parameter, q, q).is_routed


@pytest.mark.parametrize("training", [True, False])
def test_multihead_attention(training: bool, device: torch.device) -> None:
    """nn.MultiheadAttention trains through the kernels without a change."""
    torch.manual_seed(0)
    there = nn.MultiheadAttention(32, 4, batch_first=True).train(training)
    here = copy.deepcopy(there).to(device)
    x = torch.randn(2, 9, 32)
    want = there(x, x, x, need_weights=False)[0]
    want.square().sum().backward()
    with sdpa.enabled(), count_calls() as calls:
        got = here(x.to(device), *[x.to(device)] * 2, need_weights=False)[0]
        got.square().sum().backward()
    assert (calls.fwd, calls.bwd) == (1, 1)
    assert torch.allclose(got.detach().cpu(), want, atol=1e-5)
    for ours, theirs in zip(here.parameters(), there.parameters()):
        assert torch.allclose(ours.grad.cpu(), theirs.grad, atol=1e-4)
