"""The tables of docs/features.md name tests, and the tests exist."""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatchcase

from cases import CASES
from feature_cases import FEATURE_CASES
from paths import ROOT, TESTS

FILES = {path.name: path for path in TESTS.rglob("test_*.py")}
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)(?:\[([^`]+)\])?`")
CASE_NAMES = [case.name for case in (*CASES, *FEATURE_CASES)]


def rows() -> list[str]:
    """Return the rows of the tables of features and properties."""
    lines = (ROOT / "docs" / "features.md").read_text(encoding="utf-8").splitlines()
    starts = [i for i, line in enumerate(lines) if line.endswith("| proved by |")]
    found = []
    for start in starts:
        for line in lines[start + 2 :]:
            if not line.startswith("|"):
                break
            found.append(line)
    return found


def test_every_row_names_its_tests() -> None:
    """Each row of the tables names at least one test."""
    assert len(rows()) > 30
    for row in rows():
        assert NAMED.search(row.rpartition("|")[0].rpartition("|")[2]), row


def test_the_named_tests_exist() -> None:
    """Every test named in a table is a function of that file; a pattern has cases."""
    for row in rows():
        for file, function, pattern in NAMED.findall(row):
            tree = ast.parse(FILES[file].read_text(encoding="utf-8"))
            functions = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
            assert function in functions, (file, function)
            if pattern:
                assert file == "test_attention.py"
                assert any(fnmatchcase(name, pattern) for name in CASE_NAMES), pattern


def test_every_feature_case_is_in_a_row() -> None:
    """No kind of feature case is missing from the table."""
    patterns = [p for row in rows() for *_, p in NAMED.findall(row)]
    for case in FEATURE_CASES:
        assert any(p and fnmatchcase(case.name, p) for p in patterns), case.name
