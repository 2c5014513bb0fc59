"""What the kernels do, counted by the simulator: bounds on their work, not on time."""

from __future__ import annotations

import itertools
import math
from typing import Any

import budget
import pytest
import specialisations
import torch
import tune
from needs import needs_metalsim, skip_without_metalsim

import orchard_ops
from orchard_ops import sim
from orchard_ops._perf import calibration, chips, model, search
from orchard_ops._perf import work as counting
from orchard_ops._perf.work import Shape

LENGTH = 1024
CLASSES = ("A", "B")
# How far from its published time the model may put a kernel of the peer's, and if its
# head_dim is left out of the fit: shares, by class and element size.
RESIDUALS = {
    ("A", 2): (0.05, 0.05),
    ("A", 4): (0.12, 0.14),
    ("B", 2): (0.07, 0.08),
    ("B", 4): (0.16, 0.22),
}


def multiplies(family: str, length: int = LENGTH, dim: int = 64, **more: Any) -> float:
    """Return how many 8x8x8 multiplies one head's forward takes."""
    sim.enable()
    q = torch.zeros(1, 1, length, dim).half().to(sim.DEVICE)
    with sim.family(family):
        sim.reset_counters()
        orchard_ops.flash_attention(q, q, q, **more)
    return sim.counters()["matrix_multiplies"]


@needs_metalsim("simulator")
@pytest.mark.parametrize("family", CLASSES)
def test_forward_multiplies_only_what_is_visible(family: str) -> None:
    """Dense at most 2 percent more than the definition, causal 10, a window its part.

    The ideal of a causal mask has the tiles that the diagonal cuts.
    """
    every = counting.ideal_multiplies(Shape(LENGTH, heads=1), 2)
    assert multiplies(family) <= 1.02 * every
    tiles = LENGTH // 8
    triangle = every * (tiles + 1) / (2 * tiles)
    assert multiplies(family, is_causal=True) <= 1.10 * triangle
    # 128 keys and, at each end of a tile of 16 rows, what a block of 64 overlaps.
    narrow = multiplies(family, window=(127, 0))
    assert narrow <= every * (128 + 16 + 128) / LENGTH
    longer = multiplies(family, length=2 * LENGTH, window=(127, 0))
    assert longer <= 2.2 * narrow


@pytest.fixture(
    scope="module", params=itertools.product(CLASSES, ("recompute", "spill"))
)
def counted(request: pytest.FixtureRequest) -> tuple[str, Shape, counting.Counts]:
    """Count forward and backward of one small dense head, every access."""
    shape = Shape(2 * counting.SHORT, heads=1)
    family, backward = request.param
    skip_without_metalsim("simulator")
    sim.enable()
    with sim.family(family):
        counts = counting.run(shape, backward=backward)
    assert ("backward_dq_spilled" in counts) == (backward == "spill")
    assert ("backward_dq" in counts) == (backward == "recompute")
    return family, shape, counts


def products(counts: counting.Counts) -> dict[str, int]:
    """Return the products of each kernel that multiplies."""
    return {
        name: row.products for name, row in search.KERNELS.items() if name in counts
    }


def test_each_product_is_done_once(counted: tuple[str, Shape, counting.Counts]) -> None:
    """A score costs 2 products forward, 7 or 5 backward, and one exp where it is made.

    Dq has one product where the gradients of the scores were kept, else 3.
    """
    _, shape, counts = counted
    for kernel, count in products(counts).items():
        ideal = counting.ideal_multiplies(shape, count)
        assert counts[kernel]["matrix_multiplies"] == ideal, kernel
        if kernel == "backward_dq_spilled":
            assert counts[kernel]["exponentials"] == 0
            continue
        # Besides: in the forward, for a row and block whose maximum grew, as it does
        # in most of the few blocks of this length.
        assert shape.scores <= counts[kernel]["exponentials"] < 1.2 * shape.scores


def test_loads_and_barriers(counted: tuple[str, Shape, counting.Counts]) -> None:
    """At most 20 load instructions for 8 rows and 64 keys, and no barrier."""
    _, shape, counts = counted
    pieces = shape.scores / 512
    forward = counts["forward"]
    # What is not a 16-byte load is a row's statistics and parameters.
    assert forward["device_loads_of_16"] == forward["device_loads"]
    q_alone = shape.length * shape.head_dim / 8
    assert (forward["device_loads"] - q_alone) / 32 / pieces <= 20
    for kernel in products(counts):
        assert counts[kernel]["threadgroup_barriers"] == 0, kernel
        assert counts[kernel]["reductions"] == 0, kernel


def test_the_search_counts_what_the_simulator_counts(
    counted: tuple[str, Shape, counting.Counts],
) -> None:
    """The counts that tiles are chosen by are those of the kernels."""
    family, shape, counts = counted
    spills = "backward_dq_spilled" in counts
    for kernel in products(counts):
        tile = search.shipped(kernel, family, 64, 2)
        expected = search.tile_work(
            kernel,
            tile,
            64,
            2,
            shape.length,
            spills=spills and kernel == "backward_dkdv",
        )
        actual = counting.work_of(kernel, counts[kernel], shape)
        assert actual.multiplies == expected.multiplies
        assert actual.threadgroups == expected.threadgroups
        assert actual.threads == expected.threads
        # Within what each row or column costs once: under a tenth at this length.
        assert expected.loads <= actual.loads <= 1.25 * expected.loads, kernel
        assert actual.exponentials == pytest.approx(expected.exponentials, rel=0.2)
        assert actual.shuffles == pytest.approx(expected.shuffles, rel=0.15)
        assert actual.alu == pytest.approx(expected.alu, rel=0.25)
        assert actual.dram_bytes >= expected.dram_bytes


@needs_metalsim("simulator")
@pytest.mark.parametrize("family", CLASSES)
def test_the_search_counts_what_slices_exchange(family: str) -> None:
    """Barriers and bytes of threadgroup memory are those of the kernels, at 128."""
    shape = Shape(2 * counting.SHORT, head_dim=128, heads=1)
    sim.enable()
    with sim.family(family):
        counts = counting.run(shape)
    exchanged = 0.0
    for kernel in products(counts):
        tile = search.shipped(kernel, family, 128, 2)
        expected = search.tile_work(kernel, tile, 128, 2, shape.length)
        actual = counting.work_of(kernel, counts[kernel], shape)
        for name in ("multiplies", "barriers", "threadgroup_bytes", "threads"):
            assert getattr(actual, name) == getattr(expected, name), (kernel, name)
        exchanged += actual.threadgroup_bytes
    assert exchanged


def test_lengths_are_multiples_of_every_threadgroup() -> None:
    """No tile of the search hangs over at the lengths that are extrapolated from."""
    kinds = itertools.product(search.KERNELS, CLASSES, search.HEAD_DIMS, (2, 4))
    for kernel, family, dim, size in kinds:
        tile = search.shipped(kernel, family, dim, size)
        walked = tile.cols if kernel == "backward_dkdv" else tile.rows
        for unit in (8 * walked * tile.simdgroups // tile.slices, 8 * tile.rows):
            assert counting.SHORT % unit == 0
            assert counting.LONG % unit == 0
        assert counting.SHORT % (8 * tile.cols) == 0


@needs_metalsim("simulator")
@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize("head_dim", [128, 192, 256, 576])
def test_the_exchange_has_no_bank_conflict(family: str, head_dim: int) -> None:
    """Simdgroups that share a tile pass partial sums without an extra pass."""
    with sim.family(family):
        counts = counting.run(Shape(64, head_dim=head_dim, heads=1))
    split = {name for name, found in counts.items() if found["threadgroup_stores"]}
    assert split or (family, head_dim) == ("B", 128)
    assert {name: found["bank_conflicts"] for name, found in counts.items()} == (
        dict.fromkeys(counts, 0)
    )


@needs_metalsim("simulator")
def test_counts_extrapolate() -> None:
    """Two short runs give a longer one's counts."""
    shape = Shape(counting.LONG + counting.SHORT, heads=2, is_causal=True)
    sim.enable()
    with sim.family("A"):
        assert shape.length == 512
        expected, actual = counting.count(shape), counting.run(shape, strict=False)
    for kernel, counters in actual.items():
        for name in ("matrix_multiplies", "shuffles", "votes", "threadgroups"):
            assert counters[name] == pytest.approx(expected[kernel][name]), name


def test_tiles_are_what_the_search_finds() -> None:
    """The files hold the search's tables, and it counts registers as we do."""
    assert tune.generated() in tune.TABLE.read_text(encoding="utf-8")
    assert tune.generated_page() in tune.PAGE.read_text(encoding="utf-8")
    for s in specialisations.golden():
        dims = s["HEAD_DIM"], s["HEAD_DIM_V"]
        if s.kernel not in search.KERNELS or dims[0] != dims[1]:
            continue
        tile = search.Tile(s["TILE_ROWS"], s["TILE_COLS"], s["SIMDGROUPS"], s["SLICES"])
        held = search.registers(s.kernel, tile, dims[0], s["OPERAND_BYTES"])
        assert held >= budget.tile_registers(s), s.line


@pytest.mark.parametrize(("family", "element_bytes"), RESIDUALS)
def test_the_model_gives_the_peers_published_times(
    family: str, element_bytes: int
) -> None:
    """One efficiency each gives all nine times within a bound, and times not fitted.

    An efficiency above 1 would be a kernel that is faster than what it does.
    """
    fitted, unseen = RESIDUALS[family, element_bytes]
    assert calibration.efficiency(family, element_bytes) < 1.01
    rows = [
        row
        for row in chips.PUBLISHED
        if chips.chip_named(row.chip).family == family
        and row.element_bytes == element_bytes
    ]
    assert len(rows) == 9
    for row in rows:
        for without, bound in ((None, fitted), (row.head_dim, unseen)):
            predicted = calibration.peer_ps_per_score(row, without)
            assert abs(math.log(predicted / row.ps_per_score)) < bound, row


def test_kept_gradients_are_read_by_tiles_that_divide_those_that_wrote_them() -> None:
    """Rows and columns of dq's tile divide dk and dv's at every head_dim."""
    for family, size, dim in itertools.product(CLASSES, (2, 4), search.HEAD_DIMS):
        written = search.shipped("backward_dkdv", family, dim, size)
        read = search.shipped("backward_dq_spilled", family, dim, size)
        assert written.rows % read.rows == 0
        assert written.cols % read.cols == 0


@pytest.mark.parametrize(
    ("family", "forward", "backward"), [("A", 0.88, 0.75), ("B", 0.85, 0.75)]
)
def test_predicted_utilisation(family: str, forward: float, backward: float) -> None:
    """By useful products, in float16, at head_dim 64 and 128; B's forward is capped.

    No kernel is predicted to reach more than the peer's efficiency, 0.85 on class B.
    """
    chip = chips.chip_named(search.SCORED_ON[family])
    eta = calibration.efficiency(family, 2)

    def seconds(kernel: str, dim: int, spills: bool = False) -> float:
        tile = search.shipped(kernel, family, dim, 2)
        assert search.registers(kernel, tile, dim, 2) <= search.REGISTERS[family]
        work = search.tile_work(kernel, tile, dim, 2, search.LENGTH, spills)
        return model.predict(work, chip, eta, 2).steady_seconds

    for dim in (64, 128):
        shape = Shape(search.LENGTH, dim, heads=1)
        product = model.multiply_cycles(2) * counting.ideal_multiplies(shape, 1)
        product /= 4e9 * chip.cores * chip.ghz
        assert 2 * product / seconds("forward", dim) >= forward
        spilled = seconds("backward_dkdv", dim, spills=True)
        spilled += seconds("backward_dq_spilled", dim)
        assert 5 * product / spilled >= backward


def test_a_prediction_is_bound_by_its_largest_term() -> None:
    """Work of one kind only is bound by it, and takes its share of the rate."""
    chip = chips.chip_named("M1")
    many = model.Work(multiplies=1e9, threadgroups=1e6)
    found = model.predict(many, chip, 0.9, 2)
    assert found.binding == "issue"
    assert found.utilisation == pytest.approx(0.9, rel=0.01)
    moved = model.Work(dram_bytes=68e9 * 0.8, threadgroups=1e6)
    found = model.predict(moved, chip, 0.9, 2)
    assert found.binding == "DRAM"
    assert found.seconds == pytest.approx(1.0, rel=0.01)


@needs_metalsim("simulator")
def test_bfloat_costs_more_on_class_a() -> None:
    """It is multiplied as float32 there, and each element is put in its place."""
    work = model.Work(multiplies=1e6, alu=3.0, device_bytes=64e5)
    cycles = [
        model.issue_cycles(each, "A", 2) for each in (work, model.as_floats(work))
    ]
    assert cycles[1] - cycles[0] == 1e6 * (18 - 17) + 1e5
    counts = counting.count(Shape(512, 64, torch.bfloat16, heads=1))
    seconds = {
        (name, dtype): counting.predict_pass(
            counts, Shape(512, 64, dtype, heads=1), chips.chip_named(name), "forward"
        )["kernels"]["forward"]["seconds"]
        for name in ("M1 Max", "M4")
        for dtype in (torch.bfloat16, torch.float16)
    }
    assert seconds["M1 Max", torch.bfloat16] > 1.05 * seconds["M1 Max", torch.float16]
    assert seconds["M4", torch.bfloat16] == seconds["M4", torch.float16]
