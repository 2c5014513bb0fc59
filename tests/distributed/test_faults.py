"""A rank that ends, hangs or disagrees: every other one is told, and nobody waits."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import Fleet, RankError, group_of
from torch import Tensor

from orchard_ops import PeerError, distributed
from orchard_ops.distributed import _problem, context_parallel_attention

TIMEOUT_S = 3.0
LENGTH = 48


def shares() -> list[Tensor]:
    """Return this rank's q, k and v, which need gradients."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(1, 2, LENGTH, 16, generator=generator)
    return [distributed.shard(whole).clone().requires_grad_() for _ in range(3)]


def end_in(step: str) -> tuple[str, float]:
    """Attend and differentiate; the last rank ends at its second part of a step."""
    calls = []
    function = getattr(_problem, step)

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(step)
        if len(calls) == 2 and dist.get_rank() == dist.get_world_size() - 1:
            os._exit(3)
        return function(*arguments, **options)

    setattr(_problem, step, counted)
    return timed(method="ring", length=LENGTH, check=False)


def stay_away(method: str, check: bool) -> tuple[str, float]:
    """Attend, but for the last rank, which does something else."""
    if dist.get_rank() == dist.get_world_size() - 1:
        time.sleep(1.5 * TIMEOUT_S)
        return "", 0.0
    return timed(method=method, length=LENGTH, check=check)


def timed(**options: Any) -> tuple[str, float]:
    """Return the text of the PeerError of a call and its backward, and the seconds."""
    start = time.monotonic()
    try:
        context_parallel_attention(*shares(), **options).sum().backward()
    except PeerError as error:
        return str(error), time.monotonic() - start
    return "no error", time.monotonic() - start


def require_told(replies: list[Any], fleet: Fleet) -> None:
    """Fail unless each rank but the last has raised in time, and ends when told to."""
    for rank, reply in enumerate(replies[:-1]):
        text, seconds = reply
        assert f"on rank {rank} of {len(replies)}" in text
        assert "start all ranks again" in text
        # The timeout counts from when a rank waits, and ranks may wait in turn.
        assert seconds < 2 * TIMEOUT_S + 2
    for process in fleet.processes[:-1]:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=20) == 0


@pytest.mark.parametrize(
    "step", ["flash_attention_partial", "flash_attention_partial_backward"]
)
def test_a_rank_that_ends_is_noticed(tmp_path: Path, step: str) -> None:
    """In forward and in backward, with blocks on their way."""
    with Fleet(3, tmp_path, TIMEOUT_S) as fleet:
        replies = fleet.ask(end_in, step)
        assert isinstance(replies[-1], RankError)
        require_told(replies, fleet)


@pytest.mark.parametrize(("method", "check"), [("ring", False), ("heads", True)])
def test_a_rank_that_never_comes_is_noticed(
    tmp_path: Path, method: str, check: bool
) -> None:
    """Within the group's timeout, at the check or without one."""
    with Fleet(2, tmp_path, TIMEOUT_S) as fleet:
        require_told(fleet.ask(stay_away, method, check), fleet)


DISAGREEMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "dtype": ({"dtype": torch.float16}, "dtype: torch.float32 on ranks 0, 2"),
    "heads": ({"heads": 4}, "heads_q: 2 on ranks 0, 2, 4 on rank 1"),
    "batch": ({"batch": 2}, "batch: 1 on ranks 0, 2, 2 on rank 1"),
    "dim": ({"dim": 8}, "head_dim: 16 on ranks 0, 2, 8 on rank 1"),
    "layout": ({"layout": "contiguous"}, "layout: zigzag on ranks 0, 2, contiguous on"),
    "method": ({"method": "ring"}, "method: auto on ranks 0, 2, ring on rank 1"),
    "causal": ({"is_causal": True}, "is_causal: False on ranks 0, 2, True on rank 1"),
    "window": ({"window": (5, 0)}, "left side of window: -1 on ranks 0, 2, 5 on"),
    "scale": ({"scale": 0.5}, "scale: none on ranks 0, 2, 0.5 on rank 1"),
    "dropout": ({"dropout_p": 0.5}, "dropout_p: 0.0 on ranks 0, 2, 0.5 on rank 1"),
    "softcap": ({"softcap": 2.0}, "softcap: 0.0 on ranks 0, 2, 2.0 on rank 1"),
    "mask": ({"attn_mask": LENGTH}, "columns of attn_mask: -1 on ranks 0, 2, 48 on"),
    "sinks": ({"sinks": torch.zeros(2)}, "sinks: False on ranks 0, 2, True on rank 1"),
    "packed": (
        {"cu_seqlens": torch.tensor([0, 9, 48], dtype=torch.int32)},
        "cu_seqlens: none on ranks 0, 2, those of checksum",
    ),
    "length": ({"length": LENGTH}, "length: -1 on ranks 0, 2, 48 on rank 1"),
    "lse": ({"return_lse": True}, "return_lse: False on ranks 0, 2, True on rank 1"),
    "gradient": ({"grad": False}, "any gradient needed: True on ranks 0, 2, False on"),
    "learned": ({"learned": True}, "gradient of sinks needed: False on ranks 0, 2, Tr"),
    "rows": ({"rows": 96}, "expected [21, 22, 21] rows on ranks [0, 1, 2], as zig"),
    "argument": ({"window": (1, 2, 3)}, "but rank 1 refused its own"),
}  # fmt: skip


def differ(changes: dict[str, Any]) -> str | None:
    """Attend with changed arguments on the second rank of three."""
    group = group_of((0, 1, 2))
    if dist.get_rank() == 3:
        return None
    has_sinks, is_second = "learned" in changes, dist.get_rank() == 1
    changes = dict(changes) if is_second else {}
    if has_sinks:
        changes = {"sinks": torch.zeros(2, requires_grad=is_second)}
    dtype, grad = changes.pop("dtype", torch.float32), changes.pop("grad", True)
    length = changes.pop("rows", LENGTH)
    batch, heads = changes.pop("batch", 1), changes.pop("heads", 2)
    whole = torch.zeros(batch, heads, length, changes.pop("dim", 16))
    x = distributed.shard(whole, group).to(dtype).requires_grad_(grad)
    if "attn_mask" in changes:
        changes["attn_mask"] = torch.ones(x.size(2), LENGTH, dtype=torch.bool)
    try:
        context_parallel_attention(x, x, x, group=group, **changes)
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_ranks_that_disagree_are_told_on_what(fleet: Fleet, name: str) -> None:
    """Each rank raises the same error, before anything is computed."""
    changes, words = DISAGREEMENTS[name]
    texts = fleet.asked(differ, changes)[:3]
    assert all(text.startswith("InvalidProblemError: [context_par") for text in texts)
    if name == "argument":  # the rank itself has its own words
        assert "two integers" in texts.pop(1)
    assert all(words in text for text in texts), texts
    assert len(set(texts)) == 1


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "cross": ({"k": 7}, "UnsupportedError", "cross-attention"),
    "three-dims": ({"dims": 3}, "InvalidProblemError", "expected q, k and v of shape"),
    "heads": ({"method": "heads"}, "InvalidProblemError", "that 4 ranks divide"),
    "method": ({"method": "star"}, "InvalidProblemError", "method to be one of auto"),
    "layout": ({"layout": "stripe"}, "InvalidProblemError", "layout to be one of cont"),
    "columns": ({"mask": 40}, "InvalidProblemError", "a column for each of the whole"),
    "packed": ({"ends": [0, 99]}, "InvalidProblemError", "to end at the whole length"),
    "falling": ({"ends": [0, 9, 4]}, "InvalidProblemError", "which rise from 0 on"),
    "length": ({"length": 50}, "InvalidProblemError", "as zigzag cuts 50 for 4 ranks"),
}  # fmt: skip


def refused(changes: dict[str, Any]) -> tuple[str, str]:
    """Attend with arguments that no rank may have."""
    changes = dict(changes)
    q, k, v = shares()
    if "k" in changes:
        k = v = torch.zeros(1, 2, changes.pop("k"), 16)
    if changes.pop("dims", 4) == 3:
        q, k, v = q[0], k[0], v[0]
    if "mask" in changes:
        changes["attn_mask"] = torch.ones(1, changes.pop("mask"), dtype=torch.bool)
    if "ends" in changes:
        changes["cu_seqlens"] = torch.tensor(changes.pop("ends"), dtype=torch.int32)
    try:
        context_parallel_attention(q, k, v, **changes)
    except (ValueError, NotImplementedError) as error:
        return type(error).__name__, str(error)
    return "", "no error"


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_rank_may_ask_is_refused(fleet: Fleet, name: str) -> None:
    """By the right type of error, which says what to do."""
    changes, kind, words = REFUSED[name]
    for found, text in fleet.asked(refused, changes):
        assert found == kind
        assert words in text
