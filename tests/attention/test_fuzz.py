"""Random problems through the calls that users make, against float64.

``pytest tests/attention/test_fuzz.py --fuzz 2000`` runs as many, ``--fuzz
SEED:INDEX`` one, and ``--problem TEXT`` the one that `nox -s fuzz` has shrunk.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fuzz import Problem, draw_problem, parse
from solved import check

COUNT = 100


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each problem."""
    if "problem" not in metafunc.fixturenames:
        return
    text = metafunc.config.getoption("--problem")
    asked = metafunc.config.getoption("--fuzz")
    seed, _, index = asked.rpartition(":")
    indices = [int(index)] if seed else range(int(asked or COUNT))
    drawn = {f"{seed or 0}:{each}": draw_problem(int(seed or 0), each)
             for each in indices}  # fmt: skip
    if text:
        drawn = {text: parse(text)}
    metafunc.parametrize("problem", drawn.values(), ids=drawn)


def test_matches_float64(problem: Problem, device: torch.device) -> None:
    """Output and every gradient are as near to float64 as the tolerances ask."""
    print(f"pytest tests/attention/test_fuzz.py --problem '{problem}'")
    check(problem, device)


def test_a_text_is_its_own_reproduction() -> None:
    """What a failure prints is the same problem again, whatever it has."""
    for index in range(COUNT):
        problem = draw_problem(0, index)
        again = parse(str(problem))
        assert again.case == replace(problem.case, name=str(problem))
        assert again.call == problem.call


def test_every_call_is_drawn() -> None:
    """The fixed slice has each call, and each way of masking, several times."""
    problems = [draw_problem(0, index) for index in range(COUNT)]
    calls = [problem.call for problem in problems]
    assert min(map(calls.count, set(calls))) >= 3
    assert len(set(calls)) == 6
    masks = [p.case.mask for p in problems if p.case.mask and p.call == "plain"]
    assert any("k" not in mask.dims for mask in masks)
    assert any(mask.hidden == "lowest" for mask in masks)
    assert any((p.case.scale or 1) < 0 and p.case.causal != "none" for p in problems)
