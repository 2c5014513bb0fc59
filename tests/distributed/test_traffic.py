"""What ranks send, when, and what they keep: as docs/distributed.md says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from needs import needs_metalsim
from ranks import Fleet, group_of

import orchard_ops
from orchard_ops import distributed
from orchard_ops.distributed import _cost, _problem, _transport

BATCH, HEADS_Q, HEADS_KV, DIM, DIM_V, LENGTH = 2, 8, 4, 16, 24, 203
DTYPES = {"float32": torch.float32, "float16": torch.float16}


def attend(
    method: str, dtype: str = "float32", ranks: int = 4, length: int = LENGTH,
    device: str = "cpu", return_lse: bool = False,
) -> tuple[dict[str, int], int]:  # fmt: skip
    """Attend and differentiate; return the bytes sent and the peak that was held."""
    group = group_of(range(ranks))
    if dist.get_rank() >= ranks:
        return {}, 0
    shapes = ((HEADS_Q, DIM), (HEADS_KV, DIM), (HEADS_KV, DIM_V))
    tensors = [
        distributed.shard(torch.randn(BATCH, heads, length, dim), group)
        for heads, dim in shapes
    ]
    tensors = [x.to(DTYPES[dtype]).to(device).requires_grad_() for x in tensors]
    sinks = torch.zeros(HEADS_Q, device=device).requires_grad_()
    distributed.reset_traffic()
    if device == "metalsim":
        orchard_ops.sim.reset_peak_memory()
    found = distributed.context_parallel_attention(
        *tensors, is_causal=True, group=group, method=method, sinks=sinks,
        return_lse=return_lse,
    )  # fmt: skip
    out = found[0] if return_lse else found
    out.sum().backward()
    peak = orchard_ops.sim.memory().peak_bytes if device == "metalsim" else 0
    return distributed.traffic(), peak


def formulas(
    method: str, rank: int, ranks: int, size: int, lse: bool
) -> dict[str, int]:
    """Return the bytes that a rank sends, as docs/distributed.md has them."""
    rows = [
        sum(end - begin for begin, end in distributed.pieces(LENGTH, ranks, each))
        for each in range(ranks)
    ]
    own, others = rows[rank], ranks - 1
    keys, queries = BATCH * HEADS_KV * (DIM + DIM_V), BATCH * HEADS_Q * (DIM + DIM_V)
    following = LENGTH - rows[(rank + 1) % ranks]  # the rows of all but the next rank
    elsewhere = LENGTH - own
    if method == "ring":
        # Sums of a block leave every rank but its own.
        found = {
            "ring.forward": keys * following * size,
            "ring.backward": keys * (following * size + elsewhere * 4),
        }
    elif method == "all_gather":
        found = {
            "all_gather.forward": others * keys * own * size,
            "all_gather.backward": keys * elsewhere * 4,
        }
    else:
        outs = BATCH * HEADS_Q * DIM_V
        given = (queries - outs + keys) * others * own  # q, k and v
        sums = (queries - outs + keys) * elsewhere
        logs = BATCH * HEADS_Q * 4 * lse
        found = {
            "heads.forward": (given + outs * elsewhere) * size + logs * elsewhere,
            "heads.backward": (outs * others * own + sums) * size + logs * others * own,
        }
        found = {name: total // ranks for name, total in found.items()}
    sinks = HEADS_Q // (ranks if method == "heads" else 1)
    return {"check": others * 32 * 8, **found, "sinks": others * sinks * 4}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("method", ["ring", "all_gather", "heads"])
def test_bytes_are_those_of_the_formulas(
    fleet: Fleet, method: str, ranks: int, dtype: str
) -> None:
    """To the byte, with shares of unequal lengths."""
    size = DTYPES[dtype].itemsize
    for lse in (False, True):
        replies = fleet.asked(attend, method, dtype, ranks, LENGTH, "cpu", lse)
        for rank in range(ranks):
            expected = formulas(method, rank, ranks, size, lse)
            sent = {name: count for name, count in expected.items() if count}
            assert replies[rank][0] == sent


SIZES = _cost.Sizes(
    ranks=4, batch=1, length=2**20, heads_q=32, heads_kv=32, head_dim=128,
    head_dim_v=128, element_bytes=2,
)  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "method"),
    [
        (SIZES, "heads"),  # two exchanges, where three other ranks want all keys
        (replace(SIZES, ranks=3), "ring"),  # which divides no heads
        (replace(SIZES, ranks=3, length=1024), "all_gather"),  # as little as 64 MiB
        (replace(SIZES, ranks=3, heads_q=33, heads_kv=11), "all_gather"),
        (replace(SIZES, ranks=8, heads_kv=1), "all_gather"),
        (replace(SIZES, ranks=8, heads_kv=8), "heads"),
    ],
)
def test_auto_sends_the_fewest_bytes(sizes: _cost.Sizes, method: str) -> None:
    """Of those methods that heads and memory allow."""
    assert _cost.cheapest(sizes) == method


@contextmanager
def noted(events: list[str]) -> Iterator[None]:
    """Note when transfers start and end, and when parts are computed."""
    names = ("flash_attention_partial", "flash_attention_partial_backward")
    places: dict[tuple[Any, str], str] = {(_problem, name): "compute" for name in names}
    places[_transport.Link, "start"] = "start"
    places[_transport.Transfer, "wait"] = "wait"
    before = {place: getattr(*place) for place in places}

    def watched(event: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            events.append(event)
            return function(*arguments, **options)

        return call

    for place, event in places.items():
        setattr(*place, watched(event, before[place]))
    try:
        yield
    finally:
        for place, function in before.items():
            setattr(*place, function)


def order() -> tuple[list[str], list[str]]:
    """Return what happened in a ring's forward, and in its backward."""
    x = distributed.shard(torch.randn(1, 1, 96, 16), layout="contiguous")
    x.requires_grad_()
    forward: list[str] = []
    with noted(forward):
        out = distributed.context_parallel_attention(
            x, x, x, method="ring", layout="contiguous", length=96, check=False
        )
    backward: list[str] = []
    with noted(backward):
        out.sum().backward()
    return forward, backward


def test_blocks_travel_while_one_is_computed_with(fleet: Fleet) -> None:
    """Each transfer starts before a block is computed with, and is awaited after."""
    block = ["start", "compute", "wait"]
    # From the second block on sums set out too, and are awaited one block later.
    sums = ["start", "compute", "start", "wait"]
    later = ["start", "compute", "wait", "start", "wait"]
    last = ["compute", "wait", "start", "wait"]
    for forward, backward in fleet.asked(order):
        assert forward == [*block * 3, "compute"]
        assert backward == [*block, *sums, *later, *last]


@needs_metalsim("counters")
def test_memory_is_that_of_the_share(fleet: Fleet) -> None:
    """With as many rows for each rank, twice the ranks hold no more."""
    device = "metalsim"
    two = fleet.asked(attend, "ring", "float32", 2, 256, device)
    four = fleet.asked(attend, "ring", "float32", 4, 512, device)
    assert max(peak for _, peak in four) <= 1.1 * max(peak for _, peak in two)


@pytest.mark.parametrize(
    ("backends", "device", "place"),
    [
        ({"cpu": "gloo", "cuda": "gloo"}, "mps", "cpu"),
        ({"cpu": "gloo", "cuda": "gloo", "mps": "gloo"}, "mps", "cpu"),
        ({"cpu": "gloo", "mps": "mccl"}, "mps", "mps"),
        ({"cpu": "gloo", "cuda": "nccl"}, "cuda", "cuda"),
        ({"cuda": "nccl"}, "cuda", "cuda"),
        ({"cpu": "gloo"}, "cpu", "cpu"),
    ],
)
def test_tensors_go_as_their_backend_takes_them(
    monkeypatch: pytest.MonkeyPatch, backends: dict[str, str], device: str, place: str
) -> None:
    """Through the CPU where it refuses their device, else as they are."""
    monkeypatch.setattr(_transport, "_backends", lambda _: backends)
    link = _transport.Link("test")
    link.size = 2
    assert link.place(torch.device(device)).type == place
    control = "cpu" if "cpu" in backends else device
    assert link.control_place(torch.device(device)).type == control
