"""What is installed is locked: broken copies of the locks and of programs are named."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from edits import replace
from paths import ROOT

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="the tools run on Python 3.11 or newer"
)
pytest.importorskip("packaging.requirements")

READ = (
    *("pyproject.toml", "versions.toml", "noxfile.py", ".ci/run", "nix/wheels.json"),
    *(".github/workflows/mac-gpu.yml", ".github/workflows/tests.yml"),
    ".github/workflows/release.yml",
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a copy of what says what is installed."""
    for name in READ:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("locks", "tools", "packaging", "recipe"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    return tmp_path


def test_this_tree_is_locked(tree: Path) -> None:
    """Nothing is wrong as it stands."""
    from check_locks import problems

    assert problems(tree) == []


LOCK = "locks/environment.txt"
WHEELS = "locks/wheels.txt"


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("pyproject.toml", '"rich>=13"', '"rich>=999"', "is not rich>=999"),
        ("pyproject.toml", '"rich>=13"', '"rich>=13", "attic"', "has no attic"),
        ("versions.toml", '"5.23.0"', '"5.23.1"', "is not transformers==5.23.1"),
        ("versions.toml", '"2.13.0"', '"2.13.1"', "wheels.txt has no torch"),
        (
            LOCK,
            "\nruff==",
            "\nruff @ http://example.org/",
            "ruff @ http://example.org/0",
        ),
        (LOCK, "\nrich==", "\n# http://example.org\nrich==", "names an address"),
        (LOCK, "--hash=sha256:", "--hash=md5:", "has no hash"),
        (WHEELS, "--hash=sha256:", "--hash=sha256:0", "has no hash"),
        ("nix/wheels.json", "sha256-", "sha256-AAAA", "no lock has its hash"),
        ("noxfile.py", 'install(session, "uv")', 'session.install("uv")', '"uv")'),
        (".ci/run", 'python" tools/locked.py nox', 'pip" install nox', "pip"),
        ("tools/locked.py", '*OPTIONS, "--quiet"', "", "tools/locked.py"),
    ],
)
def test_a_broken_copy_is_named(
    tree: Path, name: str, old: str, new: str, words: str
) -> None:
    """What is not locked, or locked otherwise than required, is named."""
    from check_locks import problems

    replace(tree / name, old, new, count=-1)
    assert words in "\n".join(problems(tree))


def test_only_what_is_needed_is_installed() -> None:
    """A few requirements bring what they need, in another version where asked for."""
    import locked

    names = {pin.name for pin in locked.chosen(["nox"])}
    assert {"nox", "virtualenv", "platformdirs"} <= names
    assert not {"numpy", "pytest", "mkdocs"} & names
    found = locked.chosen(["matplotlib>=3.7", "numpy<2"])
    assert {pin.version for pin in found if pin.name == "numpy"} == {"1.26.4"}
    assert "pillow" in {pin.name for pin in found}
    with pytest.raises(locked.NotLockedError, match="has no attic"):
        locked.chosen(["attic"])
    with pytest.raises(locked.NotLockedError, match=r"has no torch==9\.9\.9"):
        locked.wheel("torch==9.9.9")


def test_a_wrong_hash_is_refused(tmp_path: Path) -> None:
    """Pip installs no file that has another hash than the lock."""
    import archives
    import locked
    from project import digest

    wheel = tmp_path / "iniconfig-1.0-py3-none-any.whl"
    info = "iniconfig-1.0.dist-info"
    head = b"Metadata-Version: 2.1\nName: iniconfig\nVersion: 1.0\n"
    tags = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {f"{info}/METADATA": (head, False), f"{info}/WHEEL": (tags, False)}
    archives.write_wheel(wheel, files, 1_700_000_000)
    into = ("--no-index", "--find-links", tmp_path, "--target", tmp_path / "site")
    right = f"sha256:{digest(wheel)}"
    pin = locked.Pin("iniconfig", "1.0", "", (right,), frozenset())
    locked.pip(sys.executable, "install", [pin], *into)
    wrong = locked.Pin("iniconfig", "1.0", "", (f"sha256:{'0' * 64}",), frozenset())
    with pytest.raises(subprocess.CalledProcessError):
        locked.pip(sys.executable, "install", [wrong], *into, "--upgrade")
