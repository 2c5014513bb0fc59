"""What a call costs on the host, counted in steps: times vary, these do not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from harness import Operators
from torch import Tensor

import orchard_ops
from orchard_ops import flash_attn

PACKAGE = orchard_ops.__name__


@contextmanager
def frames() -> Iterator[list[str]]:
    """Collect the Python functions that are entered, by module and name."""
    entered: list[str] = []

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            entered.append(f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}")

    sys.setprofile(watch)
    try:
        yield entered
    finally:
        sys.setprofile(None)


def inputs(device: str | torch.device) -> list[Tensor]:
    """Return q, k and v."""
    return [torch.randn(1, 2, 8, 16).to(device) for _ in range(3)]


@pytest.mark.parametrize("mask", [None, "bool", "float"])
@pytest.mark.parametrize("place", ["device", "cpu"])
def test_a_plain_call_enters_few_python_functions(
    place: str, mask: str | None, device: torch.device
) -> None:
    """A warm call runs its own function, and asks what compiles or casts."""
    where = device if place == "device" else "cpu"
    q, k, v = inputs(where)
    keep = torch.ones(8, 8, dtype=torch.bool)
    given = None if mask is None else (keep if mask == "bool" else keep.float())
    given = None if given is None else given.to(where)
    orchard_ops.flash_attention(q, k, v, given)
    with frames() as entered:
        orchard_ops.flash_attention(q, k, v, given)
    ours = [name for name in entered if name.startswith(PACKAGE)]
    assert ours[:1] == ["orchard_ops._functions.dense.flash_attention"]
    assert not any("_arguments" in name for name in ours)
    # PyTorch's is_compiling takes two, and this context's own exit is one more.
    assert len(entered) <= 6, entered


def routed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend through PyTorch's function."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


# Calls, and how many Python functions one of them enters at most.
CALLS: dict[str, tuple[Callable[..., Any], int]] = {
    "causal": (partial(orchard_ops.flash_attention, is_causal=True), 5),
    "dropout": (partial(orchard_ops.flash_attention, dropout_p=0.5), 33),
    "window": (partial(orchard_ops.flash_attention, window=(2, 0)), 11),
    "sdpa.enable()": (routed, 13),
    "flash_attn_func": (partial(flash_attn.flash_attn_func, causal=True), 15),
}


@pytest.mark.parametrize("is_recorded", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_other_calls_enter_few_python_functions_too(
    name: str, is_recorded: bool, device: torch.device
) -> None:
    """Drop-ins and options ask once: what was checked is not checked again."""
    call, most = CALLS[name]
    q, k, v = (tensor.requires_grad_(is_recorded) for tensor in inputs(device))
    with orchard_ops.sdpa.enabled():
        call(q, k, v)
        with frames() as entered:
            call(q, k, v)
    assert len(entered) <= most, entered
    checks = [name for name in entered if name.endswith(("_arguments", "supports"))]
    assert len(checks) <= 1, entered


@pytest.mark.parametrize("is_recorded", [False, True])
def test_a_plain_call_is_one_operator(is_recorded: bool, device: torch.device) -> None:
    """Whoever watches operators sees forward alone, as in the long way."""
    q, k, v = inputs(device)
    q.requires_grad_(is_recorded)
    with Operators() as seen:
        out = orchard_ops.flash_attention(q, k, v)
    assert isinstance(out, Tensor)
    calls = [name for name in seen.names if name.startswith("orchard_ops")]
    assert calls == ["orchard_ops.forward.default"]
    assert out.requires_grad == is_recorded


def no_grad(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend with nothing recorded."""
    with torch.no_grad():
        return orchard_ops.flash_attention(q, k, v)


def inference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend in inference mode."""
    with torch.inference_mode():
        return orchard_ops.flash_attention(q, k, v)


@pytest.mark.parametrize("call", [no_grad, inference])
def test_no_node_where_nothing_is_recorded(
    call: Callable[..., Tensor], device: torch.device
) -> None:
    """An output that no gradient can reach has no node, and the same numbers."""
    q, k, v = inputs(device)
    q.requires_grad_()
    recorded = orchard_ops.flash_attention(q, k, v)
    assert isinstance(recorded, Tensor)
    out = call(q, k, v)
    assert not out.requires_grad
    assert torch.equal(out.cpu(), recorded.detach().cpu())


MASKS = {
    "a row without a key": torch.tensor([[True, True], [False, False]]),
    "a row of -inf": torch.tensor([[0.0, 0.0], [-torch.inf, -torch.inf]]),
    "an expanded column": torch.tensor([[True], [False]]).expand(2, 2),
    "a late key": torch.tensor([[False, True], [True, False]]),
    "one row for all": torch.tensor([[True, False]]),
    "NaN, which is no -inf": torch.tensor([[torch.nan, 0.0], [0.0, 0.0]]),
}


@pytest.mark.parametrize("name", MASKS)
def test_short_and_long_way_agree(name: str, device: torch.device) -> None:
    """A mask gives the same on the CPU and the device, and with lse asked for."""
    q, k, v = (torch.randn(1, 2, 2, 8) for _ in range(3))
    mask = MASKS[name]
    short = orchard_ops.flash_attention(q, k, v, mask)
    long, _ = orchard_ops.flash_attention(q, k, v, mask, return_lse=True)
    there: Any = [tensor.to(device) for tensor in (q, k, v, mask)]
    on_device = orchard_ops.flash_attention(*there)
    assert isinstance(short, Tensor)
    assert isinstance(on_device, Tensor)
    same: Any = {"rtol": 1e-5, "atol": 1e-5, "equal_nan": True}
    torch.testing.assert_close(short, long, **same)
    torch.testing.assert_close(on_device.cpu(), long, **same)


def test_vmap_takes_a_cpu_mask() -> None:
    """A mask inside vmap, which nobody can look into, goes the long way."""
    q, k, v = (torch.randn(3, 1, 2, 4, 8) for _ in range(3))
    bias = torch.randn(3, 4, 4)
    got = torch.func.vmap(orchard_ops.flash_attention)(q, k, v, bias)
    want = torch.stack(list(map(orchard_ops.flash_attention, q, k, v, bias)))
    torch.testing.assert_close(got, want)
