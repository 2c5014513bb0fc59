"""Launches are cut by their work: none is predicted to keep a slow GPU for long."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby

import pytest
import specialisations
import torch
from cases import BF16, F16, F32, Case, Mask
from harness import run_case
from reference import Results, make_inputs

import orchard_ops
from orchard_ops import sim
from orchard_ops._perf import calibration, chips, model, search

LONGEST = 0.5  # seconds
SLOWEST = replace(chips.chip_named("M1"), cores=7)
LONG = 128 * 1024
NO_MASK = (0, 0, 0, 0)
# The gradient of a mask takes a product with q and one with grad_out of each score, as
# the forward takes two; the tile is the forward's or not.
MODEL_OF = {"backward_dbias": "forward", "decode": "forward"}


@dataclass(frozen=True)
class Problem:
    """What the planner is given (specialisations/launches.h)."""

    kind: str = "backward"
    dtype: str = "float16"
    head_dim: int = 64
    heads_q: int = 1
    heads_kv: int = 1
    len_q: int = LONG
    len_kv: int = LONG
    window: int = -1
    scratch: int = -1
    mask: tuple[int, int, int, int] = NO_MASK
    batch: int = 1

    @property
    def line(self) -> str:
        """The planner's line."""
        sizes = (self.batch, self.heads_q, self.heads_kv, self.len_q, self.len_kv)
        numbers = (self.head_dim, *sizes, self.window, self.scratch, *self.mask)
        return " ".join(map(str, (self.kind, self.dtype, *numbers)))

    @property
    def element_bytes(self) -> int:
        """Bytes of an element."""
        return 4 if self.dtype == "float32" else 2


@dataclass(frozen=True)
class Launch:
    """A line of the planner's answer."""

    kernel: str
    tile: search.Tile
    grid: tuple[int, ...]
    origin: tuple[int, ...]
    heads: tuple[int, ...]
    rows: tuple[int, ...]
    is_last: bool
    columns: int
    seconds: float

    @property
    def groups(self) -> int:
        """Threadgroups."""
        return math.prod(self.grid)


def launch_of(words: list[str]) -> Launch:
    """Read a line."""
    numbers = [int(word) for word in words[1:-1]]
    tile = search.Tile(*numbers[:4])
    grid, origin, heads, rows = (
        tuple(numbers[a:b]) for a, b in ((4, 7), (7, 10), (10, 12), (12, 14))
    )
    is_last, columns = bool(numbers[14]), numbers[15]
    seconds = float(words[-1])
    return Launch(words[0], tile, grid, origin, heads, rows, is_last, columns, seconds)


def plans(problems: list[Problem]) -> list[list[Launch]]:
    """Return the launches of each problem, without running any."""
    found = specialisations.launches([problem.line for problem in problems])
    return [[launch_of(words) for words in plan] for plan in found]


def group_work(problem: Problem, launch: Launch) -> model.Work:
    """Return the model's work of a threadgroup that goes through all it meets."""
    kernel = MODEL_OF.get(launch.kernel, launch.kernel)
    spills = kernel == "backward_dkdv" and problem.scratch != 0
    size, length = problem.element_bytes, problem.len_kv
    work = search.tile_work(kernel, launch.tile, problem.head_dim, size, length, spills)
    if problem.dtype == "bfloat16":
        work = model.as_floats(work)
    return work.times(1 / work.threadgroups)


def predicted(problem: Problem, launch: Launch, share: float) -> float:
    """Return the model's seconds of a launch that does a share of each walk."""
    work = group_work(problem, launch).times(share * launch.groups)
    work = replace(work, threadgroups=float(launch.groups))
    eta = calibration.efficiency("A", problem.element_bytes)
    return model.predict(work, SLOWEST, eta, problem.element_bytes).seconds


def walk_of(problem: Problem, launch: Launch) -> tuple[int, int]:
    """Return how many heads, and rows of each, a launch's threadgroups add up."""
    batches, heads, rows, _ = problem.mask
    all_heads, all_rows = problem.heads_q // problem.heads_kv, problem.len_q
    if launch.kernel == "backward_dbias":
        all_heads = (problem.batch if batches == 1 else 1) * (
            problem.heads_q if heads == 1 else 1
        )
    if launch.heads != (0, 0):  # else nothing is cut
        all_heads, all_rows = (b - a for a, b in (launch.heads, launch.rows))
    if launch.kernel == "backward_dbias" and rows > 1:
        all_rows = 8 * launch.tile.rows
    return all_heads, all_rows


def share_of(problem: Problem, launch: Launch) -> float:
    """Return what a threadgroup does, by what one of the model's does."""
    heads, rows = walk_of(problem, launch)
    if launch.kernel == "backward_dkdv":
        return heads * rows / problem.len_q
    if launch.kernel == "backward_dbias":
        tile = launch.tile
        across = problem.len_kv if problem.mask[3] == 1 else 8 * tile.cols
        # The model's has its tiles one below the other, and walks all columns.
        return heads * rows * across / (8 * tile.rows * problem.len_kv)
    return launch.columns / problem.len_kv


PROBLEMS = [
    *(Problem("forward", dtype, dim, heads_q=8) for dtype in ("float16", "float32")
      for dim in (64, 128, 256)),
    *(Problem("backward", dtype, dim, 32, 8, scratch=0)
      for dtype in ("float16", "float32", "bfloat16") for dim in (64, 256)),
    Problem("backward", heads_q=32, heads_kv=8),
    Problem("backward", scratch=1 << 34),
    Problem("backward", head_dim=128, heads_q=64, scratch=0),
    Problem("backward", "float32", 256, heads_q=71, scratch=0),
    *(Problem(kind, dtype, dim, 8, 2, scratch=0) for kind in ("forward", "backward")
      for dtype in ("float16", "float32", "bfloat16") for dim in (512, 576)),
    Problem("backward", heads_q=8, window=4096, batch=4),
    Problem("decode", heads_q=32, heads_kv=8, len_q=512),
    # Masks that were added to everything, to all rows, to all columns, to all heads.
    *(Problem("backward", dtype, 64, 8, 8, scratch=scratch, mask=mask, batch=2)
      for dtype in ("float16", "float32") for scratch in (0, -1)
      for mask in ((1, 1, 1, 1), (1, 1, 1, LONG), (1, 8, LONG, 1), (2, 1, 1, LONG))),
    Problem("backward", mask=(1, 1, LONG, LONG), heads_q=4, heads_kv=4, batch=16),
]  # fmt: skip


def short(problem: Problem) -> str:
    """Name a problem."""
    return problem.line.replace(" ", "-")


@pytest.fixture(scope="module")
def planned() -> dict[Problem, list[Launch]]:
    """Return the launches of every problem."""
    return dict(zip(PROBLEMS, plans(PROBLEMS)))


@pytest.mark.parametrize("problem", PROBLEMS, ids=short)
def test_no_launch_is_predicted_to_take_half_a_second_on_an_m1(
    problem: Problem, planned: dict[Problem, list[Launch]]
) -> None:
    """At 128k tokens, by the bound that cuts them and by the model of the benchmark."""
    for launch in planned[problem]:
        assert launch.seconds <= LONGEST
        if launch.kernel in ("backward_prepare", "backward_dbias_spilled", "combine"):
            continue
        if launch.kernel == "decode" or problem.window >= 0:
            continue  # which the model does not know
        assert predicted(problem, launch, share_of(problem, launch)) <= LONGEST, launch


@pytest.mark.parametrize("problem", PROBLEMS, ids=short)
def test_the_pieces_are_the_whole(
    problem: Problem, planned: dict[Problem, list[Launch]]
) -> None:
    """Every threadgroup goes through all it must, once and in order."""
    for kernel, group in groupby(planned[problem], lambda launch: launch.kernel):
        launches = list(group)
        boxes: dict[tuple[int, ...], list[Launch]] = {}
        for launch in launches:
            boxes.setdefault((*launch.origin, *launch.grid), []).append(launch)
        chunks = sum(origin[:3] == (0, 0, 0) for origin in boxes)
        assert chunks == 1
        ends = [max(box[axis] + box[axis + 3] for box in boxes) for axis in range(3)]
        assert sum(math.prod(box[3:]) for box in boxes) == math.prod(ends)
        for parts in boxes.values():
            assert [part.is_last for part in parts].count(True) == len(parts) or (
                parts[-1].is_last and not any(part.is_last for part in parts[:-1])
            ), kernel
            for before, after in zip(parts, parts[1:]):
                if before.is_last:  # of another chunk
                    continue
                is_next_head = after.heads[0] == before.heads[1]
                assert is_next_head or after.heads == before.heads
                if not is_next_head or after.rows[0] > 0:
                    assert after.rows[0] == before.rows[1]


def test_what_is_cut_at_128k(planned: dict[Problem, list[Launch]]) -> None:
    """The grid, and where one wave of threadgroups walks too far, the walk."""
    forward, *_ = (p for p in PROBLEMS if p.kind == "forward")
    assert 10 < len(planned[forward]) < 100
    everything = Problem(
        "backward", heads_q=8, heads_kv=8, scratch=0, mask=(1, 1, 1, 1), batch=2
    )
    walks = [x for x in planned[everything] if x.kernel == "backward_dbias"]
    assert len(walks) > 100
    assert all(x.heads[1] == x.heads[0] + 1 for x in walks)


def test_the_bound_is_near_the_model() -> None:
    """Of each tile and head size it is above the model's time, and not far above."""
    problems = [
        Problem(kind, dtype, dim, len_q=4096, len_kv=4096, scratch=scratch)
        for dtype in ("float16", "bfloat16", "float32")
        for dim in (*range(8, 257, 8), *range(272, 577, 16))
        for kind, scratch in (("forward", 0), ("backward", 0), ("backward", 1 << 30))
    ]
    ratios = [
        launch.seconds / predicted(problem, launch, 1.0)
        for problem, launches in zip(problems, plans(problems))
        for launch in launches
        if launch.kernel != "backward_prepare"
    ]
    assert len(ratios) == 5 * len(problems) // 3
    assert min(ratios) >= 1.0
    assert max(ratios) < 2.9
    assert sum(ratios) / len(ratios) < 1.6


# The gradient of a mask can be added up from kept scores, of many heads.
SUMMED = Problem("backward", head_dim=8, heads_q=64, heads_kv=64, len_q=1024,
                 len_kv=1024, scratch=1 << 44, batch=16)  # fmt: skip


def test_a_sum_that_is_too_long_for_kept_scores_computes_them_again() -> None:
    """A mask of one number has all scores in a walk, which only one kernel cuts."""
    masks = {
        (1, 1, 1, 1): "backward_dbias",
        (1, 1, 1024, 1024): "backward_dbias_spilled",
    }
    planned = plans([replace(SUMMED, mask=mask) for mask in masks])
    for launches, last in zip(planned, masks.values()):
        kernels = ("backward_prepare", "backward_dkdv", "backward_dq_spilled", last)
        assert {launch.kernel for launch in launches} == set(kernels)


def test_a_kept_score_is_added_in_four_cycles() -> None:
    """By csrc/attention/cut.cpp, on each of the four schedulers of a core."""
    (found,) = plans([replace(SUMMED, mask=(1, 1, 1024, 1024))])
    seconds = found[-1].seconds
    scores = SUMMED.batch * SUMMED.heads_q * SUMMED.len_q * SUMMED.len_kv
    rate = SLOWEST.cores * 4 * SLOWEST.ghz * 1e9
    assert seconds == pytest.approx(4.0 * scores / rate, rel=0.03)


def test_the_least_scratch_keeps_1024_columns() -> None:
    """With a byte less nothing is kept: the sums of dq would be most of the traffic."""

    def columns(scratch: int) -> set[int]:
        asked = Problem("backward", len_q=4096, len_kv=4096, scratch=scratch)
        (found,) = plans([asked])
        return {x.columns for x in found if x.kernel == "backward_dq_spilled"}

    least, enough = 0, 1 << 30
    while enough - least > 1:
        middle = (least + enough) // 2
        least, enough = (least, middle) if columns(middle) else (middle, enough)
    assert columns(enough) == {1024}
    assert columns(least) == set()
    scores = 1024 * 4096
    assert enough == 2 * scores + 4 * scores // 64  # and a float32 for each fragment


@contextmanager
def longest(seconds: float) -> Iterator[None]:
    """Cut launches by another bound."""
    operators = torch.ops.orchard_ops
    before = operators.longest_launch()
    operators.set_longest_launch(seconds)
    try:
        yield
    finally:
        operators.set_longest_launch(before)


def run(case: Case, device: torch.device, seconds: float, scratch: int) -> Results:
    """Run a case with launches cut so."""
    with longest(seconds), orchard_ops.backward_scratch(scratch):
        return run_case(case, make_inputs(case), device)


# A wave of threadgroups, 21 of 128 threads, is the least that a launch does of a grid:
# more heads than that, or as many row tiles (of 8 or 16 rows at the largest head size).
# Rows beyond the 256 and 512 after which float32 sums go to memory (tile/parts.h).
ROWS = Case("rows", F16, 1, 1, 1, 340, 60, head_dim=256, causal="bottom-right")
HEADS = Case("heads", F16, 3, 8, 8, 34, 40, head_dim=16, dropout=0.2, alibi="heads")
GROUPS = Case("groups", BF16, 2, 12, 2, 40, 40, head_dim=16, window=(30, 5))
MASKED = Case("mask", F16, 2, 2, 2, 70, 70, head_dim=16, softcap=8.0)
PARTS = Case("parts", F32, 1, 2, 1, 530, 40, head_dim=16, sinks="normal")
BIASES = [("", F16), ("k", F16), ("q", F16), ("bhqk", F16), ("hk", F32), ("bq", F32)]
CUT = [
    *(ROWS, HEADS, GROUPS, PARTS),
    replace(GROUPS, name="packed", batch=1, sequences=((40, 40), (9, 30), (0, 4))),
    *(
        replace(MASKED, name=f"{dims}-{dtype}", dtype=dtype, mask=Mask("float", dims))
        for dims, dtype in BIASES
    ),
    replace(PARTS, name="parts-one", mask=Mask("float", "")),
    replace(PARTS, name="parts-columns", mask=Mask("float", "k")),
]


def launches_of(device: torch.device) -> dict[str, int]:
    """Return how often each kernel was launched; only the simulator counts."""
    if device.type != "metalsim":
        return {}
    counters = sim.kernel_counters()
    return {kernel: counters[kernel]["launches"] for kernel in counters}


@pytest.mark.parametrize("case", CUT, ids=lambda case: case.name)
def test_cut_launches_give_the_same_bits(case: Case, device: torch.device) -> None:
    """Forward and backward, cut as often as they can be."""
    whole = run(case, device, LONGEST, 0)
    if device.type == "metalsim":
        sim.reset_counters()
    parts = run(case, device, 1e-12, 0)
    for (name, expected), (_, actual) in zip(whole.items(), parts.items()):
        assert torch.equal(expected, actual), name
    counts = launches_of(device)
    if counts:
        assert counts["backward_dkdv"] > 1
        assert counts.get("backward_dbias", 2) > 1
        is_wide = case.batch * case.heads_q > 21 or case.name.startswith("rows")
        assert not is_wide or min(counts["forward"], counts["backward_dq"]) > 1


def test_a_cut_spill_gives_the_same_bits(device: torch.device) -> None:
    """Where ds is kept, the grids are cut; a walk that would be takes no scratch."""
    mask = Mask("float", "hqk")
    case = Case("spill", F16, 5, 8, 8, 70, 40, head_dim=16, mask=mask)
    whole = run(case, device, LONGEST, 1 << 30)
    for seconds in (1e-5, 1e-12):
        if device.type == "metalsim":
            sim.reset_counters()
        parts = run(case, device, seconds, 1 << 30)
        counts = launches_of(device)
        if seconds > 1e-6:
            for (name, expected), (_, actual) in zip(whole.items(), parts.items()):
                assert torch.equal(expected, actual), name
            for kernel in ("dkdv", "dq_spilled", "dbias_spilled") if counts else ():
                assert counts[f"backward_{kernel}"] > 1
        else:
            assert "backward_dq_spilled" not in counts


def test_cut_decoding_gives_the_same_bits(device: torch.device) -> None:
    """Parts, heads and batch entries of a decoding step in several launches."""
    generator = torch.Generator().manual_seed(3)
    q = torch.randn(3, 2, 8, 64, generator=generator).half().to(device)
    cache = torch.randn(3, 96, 4, 64, generator=generator).half().to(device)
    found = []
    for seconds in (LONGEST, 1e-12):
        if device.type == "metalsim":
            sim.reset_counters()
        with longest(seconds):
            found.append(
                orchard_ops.flash_attention_with_kvcache(
                    q, cache, cache, cache_seqlens=90, num_splits=16
                ).cpu()
            )
    assert torch.equal(*found)
    counts = launches_of(device)
    assert not counts or counts["decode"] > 1
