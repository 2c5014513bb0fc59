"""The operator of calls without further options, which runs what forward runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from harness import bits, count_calls
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import orchard_ops
from orchard_ops import flash_attention

SHAPE = (1, 2, 9, 8)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "one head each": {"enable_gqa": False},
    "window": {"window": (False, 2, 1)},
    "bottom right": {"is_causal": True, "window": (True, -1, -1)},
    "bool mask": {"attn_mask": torch.arange(9) % 4 < 3},
    "bias": {"attn_mask": torch.linspace(-2, 2, 81).view(9, 9).requires_grad_()},
}


def attention(*arguments: Any) -> Tensor:
    """Call the short operator, by the overload that takes as many arguments."""
    short = torch.ops.orchard_ops.attention
    out: Tensor = (short.default if len(arguments) <= 8 else short.window)(*arguments)
    return out


def forward(*arguments: Any) -> Tensor:
    """Call the long one, and drop all results but the first."""
    out: Tensor = torch.ops.orchard_ops.forward(*arguments)[0]
    return out


def draw(where: str | torch.device, shape: tuple[int, ...] = SHAPE) -> list[Tensor]:
    """Return q, k and v, which require gradients."""
    torch.manual_seed(0)
    return [torch.randn(shape).to(where).requires_grad_() for _ in range(3)]


def arguments_of(
    name: str, where: str | torch.device, shape: tuple[int, ...] = SHAPE
) -> list[Any]:
    """Return what both operators are called with."""
    given: dict[str, Any] = {
        "attn_mask": None,
        "is_causal": False,
        "scale": None,
        "enable_gqa": True,
    }
    given |= OPTIONS[name]
    mask = given["attn_mask"]
    if mask is not None:
        mask = mask.detach().to(where).requires_grad_(mask.requires_grad)
    return [
        *draw(where, shape), mask, 0.0, given["is_causal"], given["scale"],
        given["enable_gqa"], *given.get("window", ()),
    ]  # fmt: skip


@pytest.mark.parametrize("shape", [SHAPE, SHAPE[1:], (1, 2, 0, 8)])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("place", ["device", "cpu"])
def test_same_bits_as_forward(
    place: str, name: str, shape: tuple[int, ...], device: torch.device
) -> None:
    """Output and gradients are those of the long operator."""
    if 0 in shape and OPTIONS[name].get("attn_mask") is not None:
        shape = SHAPE
    found = []
    for call in (attention, forward):
        given = arguments_of(name, device if place == "device" else "cpu", shape)
        leaves = [x for x in given if isinstance(x, Tensor) and x.requires_grad]
        out = call(*given)
        found.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for ours, theirs in zip(*found):
        assert torch.equal(bits(ours), bits(theirs))


class Watch(TorchDispatchMode):
    """Collects the operators that reach a device."""

    def __init__(self, names: list[str]) -> None:
        """Collect into a list."""
        super().__init__()
        self.names = names

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Note the name and go on."""
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def ours_among(names: Iterator[str]) -> list[str]:
    """Return the names of this package's operators."""
    return [name for name in names if name.startswith("orchard_ops")]


@pytest.mark.parametrize("name", ["causal", "window"])
@pytest.mark.parametrize("how", ["mode", "fx", "fx, functionalized", "fake"])
def test_who_looks_on_meets_forward(how: str, name: str, device: torch.device) -> None:
    """Modes and tracers see the operator of all arguments, and the same numbers."""
    given = arguments_of(name, device)
    want = attention(*given)
    names: list[str] = []
    if how.startswith("fx"):

        def attend(q: Tensor) -> Tensor:
            return attention(q, *given[1:])

        function = torch.func.functionalize(attend) if "," in how else attend
        graph = make_fx(function)(given[0])
        names = [str(node.target) for node in graph.graph.nodes]
        assert torch.equal(bits(graph(given[0])), bits(want))
    else:
        mode: AbstractContextManager[Any] = (
            FakeTensorMode(allow_non_fake_inputs=True)
            if how == "fake"
            else nullcontext()
        )
        with count_calls() as calls, mode, Watch(names):
            out = attention(*given)
        assert out.shape == want.shape
        assert out.requires_grad
        assert calls.fwd == (how == "mode")
    assert ours_among(iter(names)) == ["orchard_ops.forward.default"]


@pytest.mark.parametrize("window", [None, (2, 0)])
def test_recorded_by_torchscript(
    window: tuple[int, int] | None, device: torch.device
) -> None:
    """A trace keeps the short operator, and what it was called with."""
    q, *_ = draw(device)

    def attend(q: Tensor) -> Tensor:
        return flash_attention(q, q, q, is_causal=window is None, window=window)

    traced = torch.jit.trace(attend, (q.detach(),))
    kinds = [node.kind() for node in traced.graph.nodes()]
    assert ours_among(iter(kinds)) == ["orchard_ops::attention"]
    out, want = traced(q), attend(q)
    assert torch.equal(bits(out), bits(want))
    (got,) = torch.autograd.grad(out.sum(), q)
    (exact,) = torch.autograd.grad(want.sum(), q)
    assert torch.equal(bits(got), bits(exact))


def test_vmap_of_the_operator(device: torch.device) -> None:
    """A batch more than the operator knows is a loop."""
    q, k, v = (x.detach() for x in draw(device, (3, *SHAPE)))
    got = torch.func.vmap(attention)(q, k, v)
    want = torch.stack([attention(*each) for each in zip(q, k, v)])
    assert torch.equal(bits(got), bits(want))


def nested(q: Tensor) -> list[Tensor]:
    """Return a nested q."""
    return [torch.nested.nested_tensor([q[0], q[0]]), q, q]


def test_nested_tensors_are_refused_without_a_gradient_too() -> None:
    """No key of theirs is left to PyTorch's own words."""
    q = torch.randn(SHAPE)
    with pytest.raises(orchard_ops.UnsupportedError, match="got a nested one"):
        flash_attention(*nested(q))


WRONG: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "nested": nested,
    "sparse": lambda q: [q.to_sparse(), q, q],
    "devices": lambda q: [q, q.to("meta"), q],
    "dtypes": lambda q: [q, q.half(), q],
    "shapes": lambda q: [q, q[..., :4], q],
    "ranks": lambda q: [q, q[0, 0, 0], q],
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("place", ["device", "cpu"])
def test_same_errors_as_forward(place: str, name: str, device: torch.device) -> None:
    """What is refused is refused in the same words."""
    q = torch.randn(SHAPE)
    wrong = WRONG[name](q)
    if place == "device" and name not in ("nested", "sparse"):
        wrong = [x if x.is_meta else x.to(device) for x in wrong]
    texts = []
    for call in (attention, forward):
        with pytest.raises(RuntimeError, match="expected") as caught:
            call(*wrong)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


def test_the_node_is_as_others_are(device: torch.device) -> None:
    """Saved tensors pass hooks, are watched for changes, and are freed once used."""
    q, k, v = draw(device)
    seen: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    with saved_tensors_hooks(keep, lambda x: x):
        out = flash_attention(q, k, v)
    assert isinstance(out, Tensor)
    for tensor in (out, q, k, v):
        assert any(x.data_ptr() == tensor.data_ptr() for x in seen)
    out.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        out.sum().backward()

    changed = flash_attention(q, k, v)
    with torch.no_grad():
        k.mul_(2)
    assert isinstance(changed, Tensor)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        changed.sum().backward()


def test_forward_mode_is_refused(device: torch.device) -> None:
    """A tangent on an input is an error, not silence."""
    q, k, v = (x.detach() for x in draw(device))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(q, torch.ones_like(q))
        with pytest.raises(orchard_ops.UnsupportedError, match="forward-mode"):
            flash_attention(dual, k, v)
        with torch.no_grad(), pytest.raises(NotImplementedError, match="jvp"):
            attention(dual, k, v)


@pytest.mark.parametrize(
    "option",
    [
        {"softcap": 1.0},
        {"scale": 1.0},
        {"window": (1, 1)},
        {"causal_alignment": "bottom-right", "is_causal": True},
        {"enable_gqa": True},
    ],
    ids=lambda option: next(iter(option)),
)
def test_no_option_is_lost_on_the_short_way(
    option: dict[str, Any], device: torch.device
) -> None:
    """A call with one option says the same as one that also asks for lse."""
    q, k, v = (x.detach() for x in draw(device))
    out = flash_attention(q, k, v, **option)
    longer, _ = flash_attention(q, k, v, **option, return_lse=True)
    assert torch.equal(bits(out), bits(longer))
    plain = flash_attention(q, k, v)
    assert torch.equal(bits(out), bits(plain)) == ("enable_gqa" in option)
