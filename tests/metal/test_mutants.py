"""The program that breaks the kernels: each mutant fits, and a whole kernel passes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import mutants
import pytest
from needs import needs_metalsim
from paths import TESTS


def test_every_mutant_fits_in_its_text() -> None:
    """One line changes, and the text keeps its length: comments give way."""
    files = set()
    for file, text in mutants.texts().items():
        for mutant in mutants.mutants_of(file, text):
            changed = mutants.mutated(text, mutant)
            assert len(changed) == len(text)
            pairs = zip(text.split("\n"), changed.split("\n"))
            different = [i for i, (old, new) in enumerate(pairs) if old != new]
            assert mutant.line in different
            assert all(i == mutant.line or text.split("\n")[i].startswith("// ")
                       for i in different)  # fmt: skip
            files.add(file)
    assert {"forward.metal", "backward_dkdv.metal", "tile/window.h"} <= files


def test_the_sample_names_lines_and_tests_that_exist() -> None:
    """A line that was edited away, or a test, would make the sample say nothing."""
    for mutant, tests in mutants.sample():
        assert mutant.old != mutant.new
        for test in tests:
            file, _, function = test.partition("::")
            text = (TESTS / "attention" / file).read_text("utf-8")
            assert f"def {function.partition('[')[0]}(" in text
    with pytest.raises(SystemExit, match="no such line"):
        mutants.sample([("forward.metal", "no such line", "", "test_spill.py")])


@needs_metalsim("simulator")
def test_a_whole_kernel_passes(tmp_path: Path) -> None:
    """What kills a mutant is its mistake, not that the libraries were copied."""
    text = mutants.texts()["forward.metal"]
    lines = text.split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("// "))
    same = mutants.Mutant("forward.metal", at, lines[at], "//")
    tests = ("test_attention.py::test_matches_float64[f32-d1]",)
    (tmp_path / "whole").mkdir()
    changed = mutants.mutated(text, same)
    mutants.write_libraries(tmp_path / "whole", text, changed)
    assert mutants.killers(tmp_path / "whole", tests, 1) == []
    (at,) = (i for i, line in enumerate(lines) if line == "  float factor = inverse;")
    broken = dataclasses.replace(
        same, line=at, old=lines[at], new="  float factor = 2;"
    )
    (tmp_path / "broken").mkdir()
    changed = mutants.mutated(text, broken)
    mutants.write_libraries(tmp_path / "broken", text, changed)
    assert len(mutants.killers(tmp_path / "broken", tests, 1) or []) == 1
    with pytest.raises(SystemExit, match="build it again"):
        mutants.write_libraries(tmp_path, text + " ", changed)
