"""Packed sequences: beyond the numbers, which test_attention.py compares."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from harness import bits
from torch import Tensor

import orchard_ops
from orchard_ops import InvalidProblemError

LENGTHS = (9, 21, 1)


def ends(*lengths: int) -> Tensor:
    """Return cu_seqlens."""
    return torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)


def arguments(device: torch.device, **changes: Any) -> dict[str, Any]:
    """Return a valid call's arguments with some replaced; tensors on the device."""
    total = sum(LENGTHS)
    generator = torch.Generator().manual_seed(0)
    valid: dict[str, Any] = {
        name: torch.randn(total, 2, 64, generator=generator) for name in "qkv"
    }
    valid.update(cu_seqlens_q=ends(*LENGTHS), cu_seqlens_k=ends(*LENGTHS))
    valid.update(max_seqlen_q=21, max_seqlen_k=21)
    valid.update(changes)
    return {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in valid.items()
    }


# name: changes, words of the message
BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "dense q": (dict(q=torch.zeros(1, 2, 31, 64)), ["tokens", "[1, 2, 31, 64]"]),
    "ends of 64 bits": (dict(cu_seqlens_q=ends(31).long()), ["cu_seqlens_q", "int64"]),
    "ends of rank 2": (dict(cu_seqlens_k=ends(31)[None]), ["cu_seqlens_k", "[1, 2]"]),
    "no sequence": (dict(cu_seqlens_q=ends()), ["cu_seqlens_q", "[1]"]),
    "ends not a tensor": (dict(cu_seqlens_q=[0, 31]), ["cu_seqlens_q", "list"]),
    "other sequences": (dict(cu_seqlens_k=ends(31)), ["4", "2"]),
    "longest negative": (dict(max_seqlen_k=-1), ["max_seqlen_k", "-1"]),
    "slopes of a batch": (dict(alibi_slopes=torch.ones(1, 2)), ["[3, 2]", "[1, 2]"]),
    "dropout": (dict(dropout_p=1.0), ["dropout_p", "1.0"]),
    "head sizes": (dict(k=torch.zeros(31, 2, 32)), ["64", "32"]),
}
# Only where reading them waits for nothing.
BAD_ON_CPU: dict[str, tuple[dict[str, Any], list[str]]] = {
    "does not begin at 0": (dict(cu_seqlens_q=ends(9, 21, 1) + 1), ["[1, 10, 31, 32]"]),
    "falls": (dict(cu_seqlens_k=ends(21, -9, 19)), ["cu_seqlens_k", "[0, 21, 12, 31]"]),
    "too many tokens": (dict(cu_seqlens_k=ends(9, 21, 2)), ["31", "32"]),
    "longest too short": (dict(max_seqlen_q=20), ["max_seqlen_q", "21", "20"]),
}


def check(changes: dict[str, Any], words: list[str], device: torch.device) -> None:
    """Assert the error and its words."""
    with pytest.raises(InvalidProblemError) as caught:
        orchard_ops.flash_attention_varlen(**arguments(device, **changes))
    for word in ("[flash_attention_varlen]", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_on_the_device(name: str, device: torch.device) -> None:
    """Each bad call is refused with its values."""
    check(*BAD[name], device)


@pytest.mark.parametrize("name", [*BAD, *BAD_ON_CPU])
def test_bad_input_on_the_cpu(name: str) -> None:
    """On the CPU the ends themselves are checked too."""
    check(*{**BAD, **BAD_ON_CPU}[name], torch.device("cpu"))


def test_a_sequence_does_not_see_its_neighbors(device: torch.device) -> None:
    """Changing one sequence leaves every bit of the others' results alone."""
    given = arguments(device)
    first = orchard_ops.flash_attention_varlen(**given, is_causal=True)
    for name in "qkv":
        tensor = given[name].cpu()
        tensor[9:30] = torch.nan
        given[name] = tensor.to(device)
    second = orchard_ops.flash_attention_varlen(**given, is_causal=True)
    for rows in (slice(0, 9), slice(30, 31)):
        assert torch.equal(bits(first)[rows], bits(second)[rows])
    assert second.cpu()[9:30].isnan().all()


def test_packing_changes_no_bit(device: torch.device) -> None:
    """A sequence gives the same bits packed with others as alone in a batch."""
    given = arguments(device)
    packed, lse = orchard_ops.flash_attention_varlen(**given, return_lse=True)
    assert (packed.shape, lse.shape) == ((31, 2, 64), (2, 31))
    for start, length in zip((0, 9, 30), LENGTHS):
        rows = slice(start, start + length)
        q, k, v = (given[name][rows].transpose(0, 1).unsqueeze(0) for name in "qkv")
        alone, alone_lse = orchard_ops.flash_attention(q, k, v, return_lse=True)
        assert torch.equal(bits(alone[0].transpose(0, 1)), bits(packed[rows]))
        assert torch.equal(bits(alone_lse[0]), bits(lse[:, rows]))


def test_dropout_does_not_depend_on_the_packing(device: torch.device) -> None:
    """The batch entries of a dense call lose the same weights when they are packed."""
    dense: Any = [torch.randn(3, 2, 17, 64).to(device) for _ in "qkv"]
    packed: Any = [t.transpose(1, 2).reshape(51, 2, 64) for t in dense]
    torch.manual_seed(1)
    expected = orchard_ops.flash_attention(*dense, dropout_p=0.4)
    torch.manual_seed(1)
    three = ends(17, 17, 17).to(device)
    actual = orchard_ops.flash_attention_varlen(
        *packed, three, three, 17, 17, dropout_p=0.4
    )
    actual = actual.view(3, 17, 2, 64).transpose(1, 2)
    assert torch.equal(bits(actual), bits(expected))


@pytest.mark.parametrize("where", ["device", "cpu"])
def test_no_keys_but_sinks(where: str, device: torch.device) -> None:
    """Without any key a token's lse is its sink, and -inf if it has no sequence."""
    place = device if where == "device" else torch.device("cpu")
    q, k = (torch.randn(n, 2, 16).to(place) for n in (7, 0))
    sinks = torch.tensor([0.5, -1.0]).to(place).requires_grad_()
    three_two, none = ends(3, 2).to(place), ends(0, 0).to(place)
    out, lse = orchard_ops.flash_attention_varlen(
        q, k, k, three_two, none, 3, 0, sinks=sinks, return_lse=True
    )
    assert not out.cpu().any()
    expected = torch.tensor([[0.5], [-1.0]]).expand(2, 7).clone()
    expected[:, 5:] = -torch.inf
    assert torch.equal(lse.detach().cpu(), expected)
    (gradient,) = torch.autograd.grad(lse, sinks, torch.ones(2, 7).to(place))
    assert gradient.tolist() == [5.0, 5.0]


def test_a_larger_bound_on_lengths_changes_nothing(device: torch.device) -> None:
    """max_seqlen_* may be any upper bound."""
    given = arguments(device)
    exact = orchard_ops.flash_attention_varlen(**given)
    given.update(max_seqlen_q=100, max_seqlen_k=77)
    assert torch.equal(bits(orchard_ops.flash_attention_varlen(**given)), bits(exact))
