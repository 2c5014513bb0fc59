"""Values that an argument may be given instead of a good one, each with a name.

A problem is a text: ``FUNCTION|LABEL=VALUE|LABEL=VALUE``.  It says all, so that it is
its own reproduction: ``pytest tests/api/test_wrong_arguments.py --wrong TEXT``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
import torch
from calls import CALLS, HAS_JAGGED, moved, settings_kept
from harness import count_calls
from hypothesis import strategies as st
from torch import Tensor

from orchard_ops import OrchardError

Value = Callable[[Any], Any]
IS_FINE, IS_REFUSED = "fine", "refused"
# Arguments that PyTorch itself takes, and refuses in its own words.
THEIRS = {"group", "device"}
# How many rows a result has, and numbers that no memory holds as many of.
ROWS = {"length", "batch", "seqlen", "first_axis_dim"}
UNBEARABLE = {"2**31", "2**63-1", "int64-beyond-int32"}


class Strange:
    """Nothing that any function knows."""

    def __repr__(self) -> str:
        """Be the same in every message."""
        return "Strange()"


class Angry:
    """Refuses to become a number or a flag, in its own words."""

    def __index__(self) -> int:
        """Refuse."""
        raise ValueError("no index")

    def __float__(self) -> float:
        """Refuse."""
        raise ValueError("no float")

    def __bool__(self) -> bool:
        """Refuse."""
        raise ValueError("no bool")

    def __repr__(self) -> str:
        """Be the same in every message."""
        return "Angry()"


def _as_number(make: Callable[[Tensor], Tensor]) -> Value:
    """Return a value that changes a tensor; others become one first."""

    def change(before: Any) -> Any:
        if isinstance(before, Tensor):
            return make(before)
        is_number = isinstance(before, (bool, int, float))
        return make(torch.tensor(before) if is_number else torch.zeros(2, 3))

    return change


def _longer(dim: int) -> Callable[[Tensor], Tensor]:
    def make(tensor: Tensor) -> Tensor:
        at = dim % tensor.dim() if tensor.dim() else 0
        if not tensor.dim():
            return tensor.expand(2)
        return torch.cat([tensor, tensor.narrow(at, 0, min(1, tensor.size(at)))], at)

    return make


def _cut(dim: int, keep: int | None) -> Callable[[Tensor], Tensor]:
    """Keep some of a dimension: all but one for None."""

    def make(tensor: Tensor) -> Tensor:
        if not tensor.dim():
            return tensor.expand(2)[:0]
        at = dim % tensor.dim()
        size = tensor.size(at)
        return tensor.narrow(at, 0, max(size - 1, 0) if keep is None else keep)

    return make


def _plus(number: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor + number


def _filled(number: float) -> Callable[[Tensor], Tensor]:
    return lambda tensor: torch.full_like(tensor, number)


def _nested(tensor: Tensor) -> Tensor:
    parts = [tensor.float()] if tensor.dim() < 2 else list(tensor.float())
    return torch.nested.nested_tensor(parts)


def _jagged(tensor: Tensor) -> Tensor:
    if not HAS_JAGGED:
        return _nested(tensor)
    parts = [tensor.float()] if tensor.dim() < 2 else list(tensor.float())
    return torch.nested.nested_tensor(parts, layout=torch.jagged)


_PLAIN: dict[str, Any] = {
    "None": None, "True": True, "False": False, "text": "text", "empty-text": "",
    "digits": "3", "bytes": b"3", "list": [1.0], "empty-list": [],
    "tuple-of-3": (1, 2, 3),
    "pair": (2, 3), "pair-of-None": (None, None), "pair-of-floats": (1.5, 0.0),
    "pair-below": (-2, -3), "pair-beyond": (2**70, 2**70), "dict": {"a": 1},
    "set": {1}, "object": Strange(), "angry": Angry(), "class": int, "ellipsis": ...,
    "complex": 1j, "0": 0, "1": 1, "2": 2, "-1": -1, "-7": -7, "1000": 1000,
    "2**31": 2**31, "2**63-1": 2**63 - 1, "2**63": 2**63, "2**64": 2**64,
    "-2**63": -(2**63), "-2**63-1": -(2**63) - 1,
    "10**400": 10**400, "0.0": 0.0, "-0.0": -0.0, "0.5": 0.5, "1.0": 1.0, "-0.5": -0.5,
    "1e-320": 1e-320, "1e300": 1e300, "nan": float("nan"), "inf": float("inf"),
    "-inf": float("-inf"), "np-float": np.float64(0.5), "np-int": np.int64(2),
    "np-bool": np.bool_(True), "np-nan": np.float32("nan"),
    "np-array": np.zeros((2, 3)), "np-text": np.str_("x"), "dtype": torch.float32,
    "device": torch.device("cpu"),
}  # fmt: skip
_TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "tensor": lambda tensor: tensor,
    "number": lambda tensor: tensor.new_ones(()),
    "one-number": lambda tensor: tensor.new_ones(1),
    "two-numbers": lambda tensor: tensor.new_ones(2),
    "no-numbers": lambda tensor: tensor.new_ones(0),
    "half": lambda tensor: tensor.half(),
    "bfloat16": lambda tensor: tensor.bfloat16(),
    "double": lambda tensor: tensor.double(),
    "float": lambda tensor: tensor.float(),
    "int32": lambda tensor: tensor.int(),
    "int64": lambda tensor: tensor.long(),
    "uint8": lambda tensor: tensor.to(torch.uint8),
    "bool": lambda tensor: tensor.bool(),
    "cfloat": lambda tensor: tensor.to(torch.complex64),
    "meta": lambda tensor: tensor.to("meta"),
    "sparse": lambda tensor: tensor.to_sparse(),
    "nested": _nested,
    "jagged": _jagged,
    "quantized": lambda tensor: torch.quantize_per_tensor(
        tensor.float(), 0.1, 0, torch.qint8
    ),
    "more-dims": lambda tensor: tensor.unsqueeze(0),
    "more-dims-behind": lambda tensor: tensor.unsqueeze(-1),
    "fewer-dims": lambda tensor: tensor.flatten()[0] if tensor.dim() < 2 else tensor[0],
    "flat": lambda tensor: tensor.flatten(),
    "six-dims": lambda tensor: tensor[None, None, None, None, None, None],
    "transposed": lambda tensor: tensor.transpose(0, -1) if tensor.dim() else tensor,
    "strided": lambda tensor: torch.stack([tensor, tensor], -1)[..., 0],
    "stride-0": lambda tensor: tensor.flatten()[:1].sum().expand(tensor.shape),
    "wants-gradient": lambda tensor: tensor.float().requires_grad_(),
    "parameter": lambda tensor: torch.nn.Parameter(tensor.float()),
    "conjugate": lambda tensor: tensor.to(torch.complex64).conj(),
    "negated-view": lambda tensor: torch._neg_view(tensor.float()),
    "all-nan": lambda tensor: torch.full_like(tensor.float(), torch.nan),
    "all-inf": lambda tensor: torch.full_like(tensor.float(), torch.inf),
    "all--1": lambda tensor: _filled(-1)(tensor.float()).to(tensor.dtype),
    "all-1000": lambda tensor: _filled(100)(tensor.float()).to(tensor.dtype),
    "plus-1": _plus(1),
    "minus-1": _plus(-1),
    "reversed": lambda tensor: tensor.flip(0) if tensor.dim() else tensor,
    "int64-beyond-int32": lambda tensor: tensor.long() + 2**40,
    **{f"longer-{dim}": _longer(dim) for dim in (0, 1, 2, -1)},
    **{f"shorter-{dim}": _cut(dim, None) for dim in (0, 1, 2, -1)},
    **{f"one-{dim}": _cut(dim, 1) for dim in (0, 1, 2, -1)},
    **{f"none-{dim}": _cut(dim, 0) for dim in (0, 1, 2, -1)},
}
VALUES: dict[str, Value] = {
    **{name: (lambda _, given=given: given) for name, given in _PLAIN.items()},
    **{name: _as_number(make) for name, make in _TENSORS.items()},
    "left-out": lambda before: before,
}


@dataclass(frozen=True)
class Wrong:
    """A call with some of its arguments changed."""

    name: str
    changes: tuple[tuple[str, str], ...]  # an argument's label, a value's name

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return "|".join([self.name, *("=".join(change) for change in self.changes)])


def parse(text: str) -> Wrong:
    """Return the problem that a text says."""
    name, *changes = text.split("|")
    return Wrong(name, tuple(tuple(each.split("=", 1)) for each in changes))


def singles(name: str) -> list[Wrong]:
    """Return each argument of a call with each value, one at a time."""
    return [
        Wrong(name, ((label, value),))
        for label in CALLS[name].whole
        if label not in THEIRS
        for value in VALUES
        if value not in UNBEARABLE or label not in ROWS
    ]


def several(draw: Any) -> Wrong:
    """Draw a function, and values for one to three of its arguments."""
    name = draw(st.sampled_from(sorted(CALLS)))
    labels = sorted(set(CALLS[name].whole) - THEIRS)
    chosen = draw(
        st.lists(st.sampled_from(labels), min_size=1, max_size=3, unique=True)
    )
    values = st.sampled_from(sorted(VALUES))
    bearable = st.sampled_from(sorted(set(VALUES) - UNBEARABLE))
    return Wrong(name, tuple(
        (label, draw(bearable if label in ROWS else values)) for label in chosen
    ))  # fmt: skip


problems = st.composite(several)


def outcome(wrong: Wrong, place: torch.device) -> str:
    """Make the call: say whether it is fine or refused, fail if it is neither.

    Refused is refused by one of our errors, which names a function and what to do,
    before anything is launched or written.
    """
    call = CALLS[wrong.name]
    given = {label: moved(value, place) for label, value in call.whole.items()}
    if all(label in call.given for label, _ in wrong.changes):
        given = {label: given[label] for label in call.given}
    try:
        for label, value in wrong.changes:
            given[label] = VALUES[value](given[label])
    except (RuntimeError, NotImplementedError, TypeError):
        return IS_FINE  # there is no such tensor
    before = [each.detach().clone() for each in given.values() if _is_plain(each)]
    with count_calls() as counts, settings_kept():
        try:
            call.function(**given)
        except OrchardError as error:
            refusal = str(error)
        else:
            return IS_FINE
    assert refusal.startswith("["), f"{wrong}: {refusal!r} names no function"
    assert "expected" in refusal, f"{wrong}: {refusal!r} expects nothing"
    assert (counts.fwd, counts.bwd) == (0, 0), f"{wrong}: launched, then {refusal}"
    after = [each for each in given.values() if _is_plain(each)]
    assert all(
        torch.equal(old.cpu().nan_to_num(7.0), new.detach().cpu().nan_to_num(7.0))
        for old, new in zip(before, after)
    ), f"{wrong}: written, then {refusal}"
    return IS_REFUSED


def _is_plain(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_nested
        and not value.is_quantized
        and not value.is_complex()
        and value.device.type != "meta"
    )
