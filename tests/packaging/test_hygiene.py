"""What docs/threat-model.md promises of the sources: no pickle, and no shell."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

PYTHON = sorted((ROOT / "orchard_ops").rglob("*.py"))
NATIVE = sorted(
    path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".cpp", ".h")
)
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
# Modules that run what they read, or whatever a shell makes of it.
UNSAFE = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "shelve",
    "marshal",
    "code",
    "pty",
}
# Calls that do, by their whole names: `sim.compile` takes Metal's text.
CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen",
    "subprocess.getoutput", "subprocess.getstatusoutput", "torch.load", "yaml.load",
}  # fmt: skip


def names(path: Path) -> Iterator[tuple[int, str]]:
    """Yield what a file calls, with its line; NumPy may read pickles unless told."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        words = [ast.unparse(word) for word in node.keywords]
        if name in ("np.load", "numpy.load") and "allow_pickle=False" not in words:
            name = "eval"
        yield node.lineno, name


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_is_run(path: Path) -> None:
    """No pickle, no eval, no shell: neither by import nor by call."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not {each.name for each in node.names} & UNSAFE
        elif isinstance(node, ast.ImportFrom):
            assert node.module not in UNSAFE
        elif isinstance(node, ast.keyword) and node.arg == "shell":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False
    assert [(line, name) for line, name in names(path) if name in CALLS] == []


@pytest.mark.parametrize("path", NATIVE, ids=lambda path: str(path.relative_to(ROOT)))
def test_native_code_starts_no_shell(path: Path) -> None:
    """Programs are started with their words as they are."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b(system|popen|execl|execlp|wordexp)\s*\(", text)
    assert not re.search(r"\b(tmpnam|tempnam|mktemp|strcpy|sprintf|gets)\s*\(", text)


def test_each_variable_is_on_the_page() -> None:
    """What the package reads from the environment stands there, and nothing else."""
    text = "".join(path.read_text(encoding="utf-8") for path in (*PYTHON, *NATIVE))
    read = set(re.findall(r'"(ORCHARD_[A-Z_]+)"', text))
    rows = set(re.findall(r"^\| `(ORCHARD_[A-Z_]+)`", PAGE, re.M))
    assert rows == read


def test_a_shell_would_be_found(tmp_path: Path) -> None:
    """The search is not blind."""
    path = tmp_path / "module.py"
    path.write_text("import os\nos.system('ls')\nprint(eval('1'))\n")
    assert [name for _, name in names(path) if name in CALLS] == ["os.system", "eval"]
