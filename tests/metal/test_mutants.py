"""The program that breaks the sources: each mutant fits, and whole ones pass."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mutant_equivalents
import mutant_parts
import mutant_rules
import mutants
import pytest
from mutant_parts import PARTS, RefusedError
from mutant_rules import Mutant
from needs import needs_metalsim
from paths import TESTS

from orchard_ops._child import python

FORWARD = "kernels/forward.metal"


def mutant_of(file: str, old: str, new: str) -> Mutant:
    """Return a mutant of the only line of a file that reads so."""
    ((mutant, _),) = mutants.sample([(file, old, new, "")])
    return mutant


@pytest.mark.parametrize("name", PARTS)
def test_every_mutant_changes_its_line_alone(name: str) -> None:
    """Each part has hundreds; a kernel's text keeps its length: comments give way."""
    part, count = PARTS[name], 0
    for file, text in part.texts().items():
        assert mutant_parts.part_of(file) == name
        for mutant in mutant_rules.mutants_of(file, text, part.rules):
            assert mutant.old != mutant.new
            assert "\n" not in mutant.new
            if name == "kernels":
                changed = mutant_rules.of_same_length(text, mutant)
                pairs = zip(text.split("\n"), changed.split("\n"))
                assert all(old == new or i == mutant.line or old.startswith("// ")
                           for i, (old, new) in enumerate(pairs))  # fmt: skip
            count += 1
    assert count > 900


def test_rules_leave_alone_what_is_no_code() -> None:
    """Comments, strings, docstrings and a Mac's lines stay; other code breaks."""
    python = 'def f(a: int) -> str:\n    """A < B."""\n    x = a < 1  # 0 < 1\n'
    found = mutant_rules.mutants_of("f.py", python, mutant_rules.PYTHON)
    assert {at.new for at in found} == {
        "    x = a <= 1  # 0 < 1",
        "    x = a < 2  # 0 < 1",
    }
    host = (
        '#ifdef ORCHARD_WITH_METAL\nx = a < b;\n#endif\ny = f("a < b") < c;  // d < e'
    )
    found = mutant_rules.mutants_of("f.cpp", host, mutant_rules.HOST)
    assert [at.new for at in found] == ['y = f("a < b") <= c;  // d < e']


def test_a_file_of_every_part_has_tests_of_its_own_folder() -> None:
    """The tests that a mutant meets exist, those of the nearest name first."""
    for part in PARTS.values():
        for file in part.texts():
            tests = part.tests_of(file)
            assert tests
            assert all((TESTS / test.partition("::")[0]).exists() for test in tests)
    tests = PARTS["python"].tests_of("orchard_ops/_arguments/philox.py")
    assert tests[0] == "attention/test_philox.py"
    assert tests.index("attention/test_kvcache.py") < tests.index("api/test_errors.py")


def test_the_sample_names_lines_and_tests_that_exist() -> None:
    """A line that was edited away, or a test, would make the sample say nothing."""
    for mutant, tests in mutants.sample():
        assert mutant.old != mutant.new
        for test in tests:
            file, _, function = test.partition("::")
            text = (TESTS / file).read_text("utf-8")
            assert f"def {function.partition('[')[0]}(" in text
    with pytest.raises(SystemExit, match="no such line"):
        mutants.sample([(FORWARD, "no such line", "", "test_spill.py")])


def test_draws_repeat_and_a_table_goes_on(tmp_path: Path) -> None:
    """A seed's mutants are the same each time, and those of a table are not drawn."""
    words = ["--part", "torch", "--count", "5", "--seed", "2"]
    first = mutants.choose(mutants.parse(words))
    assert first == mutants.choose(mutants.parse(words))
    assert first != mutants.choose(mutants.parse([*words[:-1], "3"]))
    table = tmp_path / "table"
    verdicts = [
        mutants.Verdict(first[0][0], "survived"),
        mutants.Verdict(first[1][0], "killed", ("a", "b")),
        mutants.Verdict(first[2][0], "refused"),
    ]
    table.write_text("".join(verdict.line() for verdict in verdicts))
    assert mutants.read_table(table) == verdicts
    rest = mutants.choose(mutants.parse([*words, "--table", str(table)]))
    assert rest == first[3:]
    again = mutants.choose(mutants.parse(["--again", str(table)]))
    assert again == first[:1]
    moved = replace(first[0][0], line=0)
    assert mutants.as_it_is_now(moved) == first[0][0]
    assert mutants.as_it_is_now(replace(moved, old="no such line")) is None
    row, _, survivor = mutants.summary(verdicts).rpartition("\n\n")
    assert row.endswith("| torch | 3 | 1 | 1 | 0 | 0 | 1 |")
    assert re.match(r"csrc/torch/.*\n +SURVIVED$", survivor)
    assert json.loads(verdicts[1].line())["killers"] == ["a", "b"]


def test_a_mutant_that_is_called_equivalent_can_be_made() -> None:
    """Its line is still there; it counts as no survivor, and its reason is shown."""
    for (file, old, new), reason in mutant_equivalents.REASONS.items():
        part = PARTS[mutant_parts.part_of(file)]
        made = mutant_rules.mutants_of(file, part.texts()[file], part.rules)
        found = [at for at in made if (at.old.strip(), at.new.strip()) == (old, new)]
        verdict = mutants.Verdict(found[0], "survived")
        text = mutants.summary([verdict])
        assert "| 1 | 0 | 0 | 0 | 1 | 0 |" in text
        assert text.endswith(f"equivalent: {reason}")


# In a process of its own, which has imported nothing of the package yet.
FAILING = """
import json, mutant_tests
environment, test = json.loads(sys.argv[1])
print(json.dumps(mutant_tests.failing(environment, [test], 1, [])[0]))
"""


def failing(mutant: Mutant, folder: Path, test: str) -> list[str]:
    """Return which tests fail on a mutant."""
    folder.mkdir()
    environment = mutant_parts.write_broken(mutant, folder)
    command = python(FAILING, json.dumps([environment, test]))
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: list[str] = json.loads(done.stdout)
    return found


@needs_metalsim("simulator")
def test_a_whole_kernel_passes(tmp_path: Path) -> None:
    """What kills a mutant is its mistake, not that the libraries were copied."""
    text = PARTS["kernels"].texts()[FORWARD]
    lines = text.split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("// "))
    test = "attention/test_attention.py::test_matches_float64[f32-d1]"
    whole = Mutant(FORWARD, at, lines[at], "//")
    assert failing(whole, tmp_path / "whole", test) == []
    broken = mutant_of(FORWARD, "  float factor = inverse;", "  float factor = 2;")
    assert failing(broken, tmp_path / "broken", test) == [f"tests/{test}"]
    with pytest.raises(SystemExit, match="build it again"):
        mutant_parts.write_libraries(tmp_path, text + " ", text)


@pytest.mark.skipif(sys.platform == "darwin", reason="forks with PyTorch imported")
def test_a_module_is_broken_in_a_copy(tmp_path: Path) -> None:
    """The package that tests import is the copy; what is no program is refused."""
    file, line = "orchard_ops/__init__.py", '    "KernelCompileError",'
    test = "api/test_api.py::test_public_names"
    whole = mutant_of(file, line, f"{line}  # the same")
    assert failing(whole, tmp_path / "whole", test) == []
    broken = mutant_of(file, line, "")
    assert failing(broken, tmp_path / "broken", test) == [f"tests/{test}"]
    with pytest.raises(RefusedError):
        failing(mutant_of(file, line, "else:"), tmp_path / "no program", test)
    with pytest.raises(subprocess.CalledProcessError):  # nor does no test kill it
        failing(broken, tmp_path / "no test", f"{test}_of_nothing")
