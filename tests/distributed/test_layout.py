"""Which rows a rank has, and tensors cut and put together by that."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import Fleet, group_of

import orchard_ops
from orchard_ops import InvalidProblemError, distributed
from orchard_ops.distributed import pieces
from orchard_ops.distributed._layout import Piece
from orchard_ops.distributed._problem import Options

LAYOUTS = ("contiguous", "zigzag")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 5000), st.integers(1, 9), st.sampled_from(LAYOUTS))
def test_every_row_has_one_rank(length: int, ranks: int, layout: str) -> None:
    """Pieces cover the sequence once, rise, and touch nowhere within a rank."""
    held = [pieces(length, ranks, rank, layout) for rank in range(ranks)]
    every = sorted(itertools.chain(*held))
    assert [0, *(end for _, end in every)] == [*(b for b, _ in every), length]
    for one in held:
        assert all(begin < end for begin, end in one)
        assert all(first[1] < second[0] for first, second in zip(one, one[1:]))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 5000), st.integers(1, 9), st.sampled_from(LAYOUTS))
def test_shares_differ_by_two_units_at_most(
    length: int, ranks: int, layout: str
) -> None:
    """One unit of 32 for each chunk, of which zigzag has two; less if short."""
    chunks = ranks if layout == "contiguous" else 2 * ranks
    unit = max(u for u in (1, 2, 4, 8, 16, 32) if u == 1 or 8 * u * chunks <= length)
    sizes = [
        sum(end - begin for begin, end in pieces(length, ranks, rank, layout))
        for rank in range(ranks)
    ]
    assert max(sizes) - min(sizes) <= unit * chunks // ranks
    for rank in range(ranks):
        assert all(b % unit == 0 for b, _ in pieces(length, ranks, rank, layout))


def test_pieces_by_hand() -> None:
    """Zigzag folds the sequence; chunks that touch are one piece."""
    assert pieces(256, 2, 0) == ((0, 64), (192, 256))
    assert pieces(256, 2, 1) == ((64, 192),)
    assert pieces(256, 2, 1, "contiguous") == ((128, 256),)
    assert pieces(3, 2, 0) == ((2, 3),)
    assert pieces(2056, 2, 0, "contiguous") == ((0, 1024),)
    assert pieces(0, 3, 1) == ()


@pytest.mark.parametrize("arguments", [(8, 2, 2), (8, 2, -1), (-1, 2, 0), (8, 0, 0)])
def test_pieces_refuse_what_is_no_share(arguments: tuple[int, int, int]) -> None:
    """A rank beyond the group, no rank at all, a negative length."""
    with pytest.raises(InvalidProblemError, match=r"distributed\.pieces"):
        pieces(*arguments)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
def test_zigzag_shares_a_causal_mask_evenly(ranks: int) -> None:
    """Each rank has as many entries of the scores, where the length divides."""
    length = 64 * ranks
    work = [
        sum(end * (end + 1) - begin * (begin + 1) for begin, end in held) // 2
        for held in (pieces(length, ranks, rank) for rank in range(ranks))
    ]
    assert len(set(work)) == 1


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        (Options(), [True, True, True]),
        (Options(is_causal=True), [True, True, False]),
        (Options(window=(-1, 0)), [True, True, False]),
        (Options(window=(0, -1)), [False, True, True]),
        (Options(window=(8, 2)), [True, True, True]),
        (Options(ends=(0, 8, 16, 24)), [False, True, False]),
        (Options(ends=(0, 12, 24), window=(0, -1)), [False, True, True]),
        (Options(ends=(0, 9), is_causal=True), [True, True, False]),
    ],
)
def test_pairs_that_see_nothing_are_left_out(
    options: Options, seen: list[bool]
) -> None:
    """Rows 8 to 15, and keys 0 to 7, 8 to 15 and 17 to 24."""
    rows = Piece(8, 16, 0)
    keys = [Piece(0, 8, 0), Piece(8, 16, 0), Piece(17, 25, 0)]
    assert [options.is_seen(rows, each) for each in keys] == seen


def cut_and_join(layout: str, length: int, dim: int) -> None:
    """Cut a tensor over three ranks, join it, and differentiate both."""
    group = group_of((0, 1, 3))
    if dist.get_rank() == 2:
        return
    shape = [2, 3, 5]
    shape[dim] = length
    whole = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    whole.requires_grad_()
    own = distributed.shard(whole, group, dim, layout)
    place = distributed.positions(length, group, layout)
    assert place.dtype == torch.int64
    assert torch.equal(own, whole.index_select(dim, place))
    joined = distributed.unshard(own, length, group, dim, layout)
    assert torch.equal(joined, whole)
    weights = torch.arange(float(joined.numel())).view(joined.shape)
    (weights * joined * (group.rank() + 1)).sum().backward()
    # Of each rank's loss the rows take their part: 1 + 2 + 3 times the weights.
    expected = torch.zeros_like(weights)
    expected.index_copy_(dim, place, 6 * weights.index_select(dim, place))
    assert torch.equal(whole.grad, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("length", "dim"), [(101, 1), (7, -1), (2, 0)])
def test_what_is_cut_is_joined_again(
    fleet: Fleet, layout: str, length: int, dim: int
) -> None:
    """With gradients, along any dimension, also where a rank has no row."""
    fleet.asked(cut_and_join, layout, length, dim)


def refuse_wrong_rows() -> None:
    """Join what was not cut by the same layout."""
    with pytest.raises(InvalidProblemError, match="expected 2 rows in dimension 0"):
        distributed.unshard(torch.zeros(3), 8, None, 0)
    with pytest.raises(InvalidProblemError, match="expected a dimension of a tensor"):
        distributed.shard(torch.zeros(8), None, 1)


def test_wrong_rows_are_refused(fleet: Fleet) -> None:
    """Before any rank waits."""
    fleet.asked(refuse_wrong_rows)


def call_as_stranger() -> None:
    """Call with a group of others."""
    group = group_of((0, 1))
    if dist.get_rank() > 1:
        x = torch.zeros(1, 1, 4, 8)
        with pytest.raises(InvalidProblemError, match="this process belongs to"):
            distributed.context_parallel_attention(x, x, x, group=group)


def test_a_stranger_to_the_group_is_told(fleet: Fleet) -> None:
    """A process that the group does not have."""
    fleet.asked(call_as_stranger)


@pytest.mark.parametrize("method", ["auto", "ring", "all_gather", "heads"])
def test_one_process_needs_no_group(method: str) -> None:
    """Without torch.distributed all is local, with gradients."""
    assert not dist.is_initialized()
    x = torch.randn(1, 2, 9, 16, requires_grad=True)
    assert distributed.shard(x) is not None
    assert torch.equal(distributed.unshard(distributed.shard(x), 9), x)
    out = distributed.context_parallel_attention(x, x, x, is_causal=True, method=method)
    expected = orchard_ops.flash_attention(x, x, x, is_causal=True)
    torch.testing.assert_close(out, expected)
    (grad,) = torch.autograd.grad(out.square().sum(), x)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-5)
    mask = torch.randn(1, 1, 9, 1)
    out = distributed.context_parallel_attention(x, x, x, mask, method=method)
    torch.testing.assert_close(out, orchard_ops.flash_attention(x, x, x, mask))
