"""The model is fitted to times; here the times are the model's own, at a hidden point.

No GPU was measured: this says that a fit finds what times can tell, and no more.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import tune
from needs import needs_metalsim

import orchard_ops
from orchard_ops import sim
from orchard_ops._perf import mac, search
from orchard_ops._perf.assumptions import NOMINAL, RANGES, Assumptions
from orchard_ops._perf.fit import Fit, Measured, fit, measured_in
from orchard_ops._perf.work import Shape

# No line of L1 is shared, L2 is slow: what favours tiles of more rows on class A.
SLOW = replace(NOMINAL, line_sharing=1, l2_bytes=24, row_cycles=8, barrier_cycles=4)
FACTOR = 1.1  # of all times: a clock that is not what the model has
TOLD = ("line_sharing", "l2_bytes", "row_cycles", "barrier_cycles", "exposed")


def times_at(point: Assumptions) -> list[Measured]:
    """Return what three tiles of each of some problems would take on an M1 Max."""
    return [
        replace(one, seconds=FACTOR * one.predicted(point))
        for kernel, dim, size in itertools.product(
            ("forward", "backward_dkdv"), (64, 128), (2, 4)
        )
        for found in search.candidates(kernel, "A", dim, size, most=4)
        for one in [Measured(kernel, "M1 Max", found.tile, dim, size, 4096, 8, 1.0)]
    ]


@pytest.fixture(scope="module")
def found() -> Fit:
    """Fit the times at the hidden point."""
    return fit(times_at(SLOW))


def test_a_fit_finds_what_the_times_tell(found: Fit) -> None:
    """It explains the times, its ranges hold the hidden point, and some are narrow."""
    assert found.before > 0.05
    assert found.after < 0.002
    assert found.factors == pytest.approx({2: FACTOR, 4: FACTOR}, rel=0.01)
    for name, row in found.ranges.items():
        step = (RANGES[name].high - RANGES[name].low) / 8
        assert row.low - step <= getattr(SLOW, name) <= row.high + step, name
    for name in TOLD:
        whole = RANGES[name].high - RANGES[name].low
        assert found.ranges[name].high - found.ranges[name].low < whole, name
        assert getattr(found.point, name) == pytest.approx(
            getattr(SLOW, name), abs=whole / 10
        )
    # Nothing here depends on DRAM or spills a register, so nothing is said of them.
    for name in ("dram_share", "spill_cycles"):
        assert getattr(found.point, name) == getattr(NOMINAL, name)
        assert found.ranges[name].low == RANGES[name].low
        assert found.ranges[name].high == RANGES[name].high


def test_a_fit_changes_the_tables(found: Fit) -> None:
    """What is known to be slow makes the tiles that avoid it win by more."""
    problem = ("forward", "A", 128, 2)
    eight_rows = search.best(*problem).tile
    assert eight_rows.rows == 1
    lost = search.losses(*problem, found.points)
    assert search.choose(*problem, found.points).tile.rows > 1
    assert lost[eight_rows]["nominal"] > search.losses(*problem)[eight_rows]["nominal"]
    assert any("->" in line for line in tune.changes(found, "A"))


def test_times_at_the_nominal_point_leave_it() -> None:
    """A fit to what was assumed is what was assumed."""
    same = fit(times_at(NOMINAL)[::4])
    assert same.point == NOMINAL


def test_a_report_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rows of a Mac's report come back as times; other chips' are left out."""
    times = times_at(SLOW)[::4]
    rows: list[dict[str, Any]] = [
        {
            **{name: getattr(one, name) for name in ("kernel", "chip", "head_dim")},
            **{name: getattr(one, name) for name in ("element_bytes", "length")},
            "heads": one.heads,
            "tile": list(vars(one.tile).values()),
            "measured_ms": 1e3 * one.seconds,
        }
        for one in times
    ]
    rows += [{**rows[0], "chip": "M9"}, *mac.fit_rows(fit(times))]
    report = {"suites": {"kernels": rows}}
    assert measured_in(report) == [
        replace(one, seconds=pytest.approx(one.seconds)) for one in times
    ]
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report), encoding="utf-8")
    tune.print_fit(path)
    assert f"{len(times)} times" in capsys.readouterr().out
    with pytest.raises(ValueError, match="one class"):
        fit([])


@pytest.mark.parametrize("chip", ["M1 Max", "M9"])
def test_the_suite_compares_and_fits(
    chip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A known chip's times come beside predictions and a fit, another's alone."""
    monkeypatch.setattr(mac, "_this_chip", lambda: f"Apple {chip}")
    monkeypatch.setattr(mac, "kernel_call", lambda *_: None)
    monkeypatch.setattr(mac, "_call_ms", lambda *_: 10.0)
    rows = [*mac.kernels(False)]
    times = [row for row in rows if "measured_ms" in row]
    assert len(times) == 3 * 3 * 2
    assert {row["chip"] for row in times} == {chip}
    if chip == "M9":
        assert rows == times
        return
    for row in times:
        assert row["measured_of_predicted"] * row["predicted_ms"] == pytest.approx(10)
    assert [row["unknown"] for row in rows if "unknown" in row] == [*RANGES]
    assert rows[-1]["left_by_the_fit"] <= rows[-1]["left_by_the_nominal_point"]


@needs_metalsim("simulator")
@pytest.mark.parametrize("kernel", mac.ALONE)
def test_a_kernel_is_timed_alone(kernel: str) -> None:
    """Besides it, a call launches only what takes no product."""
    sim.enable()
    call = mac.kernel_call(kernel, Shape(64, heads=1), torch.device(sim.DEVICE))
    sim.reset_counters()
    call()
    orchard_ops.synchronize()
    multiply = {
        name
        for name, counters in sim.kernel_counters().items()
        if counters["matrix_multiplies"]
    }
    assert multiply == {kernel}
