"""The type stubs say what the compiled libraries have."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest
import stubs
from needs import skip_without_metalsim

from orchard_ops import _native

FOLDER = Path(stubs.FOLDER)


@pytest.mark.parametrize("library", stubs.NAMESPACES)
def test_operators(library: str) -> None:
    """Every operator is in its stub as its schema says: tools/stubs.py wrote it."""
    if library == "_metalsim":
        skip_without_metalsim("device")
    written = (FOLDER / f"{library}.pyi").read_text()
    assert written == stubs.stub(library), "run python tools/stubs.py"


def parameters_of_stub(function: ast.FunctionDef) -> list[str]:
    """Return the names, with ``=`` where there is a default."""
    arguments = function.args.args
    first = len(arguments) - len(function.args.defaults)
    return [a.arg + "=" * (i >= first) for i, a in enumerate(arguments)]


def parameters_of(function: object) -> list[str]:
    """Return the same of a function of pybind11, by its signature's text."""
    signature = str(function.__doc__).splitlines()[0]
    text = signature[signature.index("(") + 1 : signature.rindex(") -> ")]
    names = re.findall(r"(?:^|, )(\w+): [^=]*?(?=, \w+: |( = )|$)", text)
    return [name + ("=" if default else "") for name, default in names]


def members_of_stub(body: list[ast.stmt]) -> dict[str, object]:
    """Return name → members of a class, parameters of a function, or None."""
    found: dict[str, object] = {}
    for node in body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = members_of_stub(node.body)
        elif isinstance(node, ast.FunctionDef):
            found[node.name] = None if node.decorator_list else parameters_of_stub(node)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = None
    return found


def members_of(owner: ModuleType | type) -> dict[str, object]:
    """Return the same of a compiled module or class."""
    found: dict[str, object] = {}
    for name, member in vars(owner).items():
        if name.startswith("_"):
            continue
        if isinstance(member, type):
            found[name] = members_of(member)
        else:
            found[name] = parameters_of(member) if callable(member) else None
    return found


def test_simulator() -> None:
    """The stub of _sim has its classes, functions and parameters, and no others."""
    skip_without_metalsim("simulator")
    _native.load_sim()
    module = importlib.import_module("orchard_ops._sim")
    stub = ast.parse((FOLDER / "_sim.pyi").read_text())
    assert members_of_stub(stub.body) == members_of(module)
