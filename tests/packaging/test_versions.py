"""Every place that names a version is checked: breaking one is noticed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from edits import replace
from paths import ROOT

READ = (
    *("versions.toml", "pyproject.toml", "README.md", "CHANGELOG.md", ".ci/run"),
    "CITATION.cff",
    *("cmake/find_torch.py", "docs/packaging.md", "docs/transformers.md"),
    *("docs/nix.md", "nix/package.nix", "nix/wheels.json"),
    *("recipe/recipe.yaml", "orchard_ops/sim/_compiler.py", "CONTRIBUTING.md"),
    *("recipe/variants-linux-64.yaml", "recipe/variants-osx-arm64.yaml"),
    *(".github/workflows/mac-gpu.yml", ".github/workflows/tests.yml"),
)
NEW_TORCH = """
[torch.torch216]
version = "2.16.0"
python = "3.11"
pythons = ["3.11"]
numpy = "numpy"

[macos]"""

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="the tools run on Python 3.11 or newer"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a copy of the files that name versions."""
    for name in READ:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_this_tree_agrees(tree: Path) -> None:
    """Nothing disagrees as it stands."""
    from check_versions import disagreements

    assert disagreements(tree) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        (
            "versions.toml",
            'version = "2.4.1"',
            'version = "2.4.2"',
            "no oldest macOS for 2.4.2",
        ),
        ("versions.toml", '"15.0"]', '"15.0", "16.0"]', "no SDK for macOS 16.0"),
        (
            "versions.toml",
            "[torch.torch24]",
            "[torch.torch25]",
            "torch25 is not torch24",
        ),
        ("versions.toml", "\n[macos]", NEW_TORCH, "no oldest macOS for 2.16.0"),
        ("versions.toml", '"13.3"', '"13.1"', "run python packaging conda.variants"),
        ("versions.toml", '"0.14.1"', '"0.15.1"', "recipe.yaml: wrong zig"),
        ("pyproject.toml", '">=3.9"', '">=3.8"', "recipe.yaml: wrong Pythons"),
        ("pyproject.toml", "rich>=13", "rich>=14", "recipe.yaml: no rich >=14"),
        ("pyproject.toml", 'version = "0.1.0"', 'version = "9.0.0"', "wrong version"),
        (
            "versions.toml",
            '"0.14.1"',
            '"0.15.1"',
            "sim/_compiler.py: no zig 0.15.1",
        ),
        ("versions.toml", '"2.4.1"', '"2.4.9"', "wheels.json: run nox -s nix-wheels"),
        ("nix/package.nix", "        matplotlib\n", "", "package.nix: test is not"),
        ("CITATION.cff", "0.1.0", "0.1", "CITATION.cff: no version 0.1.0"),
        ("docs/nix.md", "torch22`", "torch`", "docs/nix.md: no 2.2.2"),
        (".github/workflows/tests.yml", "torch==2.4.*", "torch", "another PyTorch"),
        ("recipe/recipe.yaml", "cli:app", "cli:main", "recipe.yaml: wrong command"),
        ("recipe/variants-linux-64.yaml", '"2.13"', '"2.12"', "variants-linux-64.yaml"),
        ("docs/packaging.md", "| 2.2 |", "| two |", "docs/packaging.md: no 2.2.2"),
        ("README.md", "2.3.1", "2.3", "README.md: no 2.3.1"),
        ("docs/transformers.md", "4.48.0", "4.48", "transformers.md: no 4.48.0"),
        ("pyproject.toml", "rmers>=4.48", "rmers>=4.51", "no transformers>=4.48"),
        ("versions.toml", '"2.7.1" = "13.0"\n', "", "has a gap"),
        ("versions.toml", 'version = "2.7.1"', 'version = "2.7.0"', "for 2.7.0"),
        ("versions.toml", '"2.15.0" = "15.0"\n', "", "are not 2.1 to 2.14"),
        ("cmake/find_torch.py", "MACOS = 13", "MACOS = 14", "wrong OLDEST_MACOS"),
        (".ci/run", "nox", "nox -s test-torch24", "belong into versions.toml"),
        ("cmake/find_torch.py", "(2, 1)", "(2, 0)", "wrong OLDEST"),
        (".github/workflows/mac-gpu.yml", "torch21, ", "", "mac-gpu.yml: torch is not"),
        (".github/workflows/tests.yml", "torch24,", "torch25,", "['test-torch25']"),
    ],
)
def test_a_broken_copy_is_named(
    tree: Path, name: str, old: str, new: str, words: str
) -> None:
    """A place that says something else is named."""
    from check_versions import disagreements

    replace(tree / name, old, new, count=-1)
    assert words in "\n".join(disagreements(tree))


def test_what_a_session_runs_is_there() -> None:
    """An entry names a list of tests, and a list names files and folders that exist."""
    from project import versions

    matrix = versions()
    entries = (*matrix["torch"].values(), *matrix["between"].values())
    chosen = {name for entry in entries for name in entry["tests"]}
    assert chosen == set(matrix["tests"])
    for words in matrix["tests"].values():
        for word in words:
            assert (ROOT / word.removeprefix("--ignore=")).exists(), word
