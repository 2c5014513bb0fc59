"""For pytest: Metal kernels in tests, strict, in several orders, with their source.

Not loaded unless it is asked for, in the root ``conftest.py``::

    pytest_plugins = ["orchard_ops.sim.plugin"]

or on the command line, ``pytest -p orchard_ops.sim.plugin``.  A test that takes the
fixture `metal` runs once for each seed of ``--metal-seeds``::

    def test_scale(metal):
        kernel = metal.library("scale.metal").kernel("scale")
        kernel.dispatch({0: x, 1: y}, grid=4, group=64)

Within it every launch is checked access by access, takes the order of threads that the
seed says, and ends after ``--metal-timeout`` seconds, unless `sim.Kernel.dispatch` is
told otherwise.  When a kernel is caught at a mistake, or does not compile, the report
shows the lines of Metal.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from types import ModuleType
from typing import Any

import pytest

from .. import sim
from .._errors import FaultError, KernelCompileError
from ._compiler import load

__all__ = ["metal"]

_SECTION = "Metal source"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what the command line can choose."""
    group = parser.getgroup("metal", "Metal kernels on the simulator")
    group.addoption(
        "--metal-seeds",
        type=int,
        default=1,
        metavar="N",
        help="run tests of the fixture metal in N orders of the threads",
    )
    group.addoption(
        "--metal-timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="end a launch after so many seconds (default: 60)",
    )
    group.addoption(
        "--no-metal-strict",
        action="store_true",
        help="do not check every access: faster",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let a test that takes `metal` run once for each seed."""
    if "metal" not in metafunc.fixturenames:
        return
    count = metafunc.config.getoption("--metal-seeds")
    metafunc.parametrize(
        "metal", range(max(count, 1)), indirect=True, ids=lambda n: f"seed{n}"
    )


@pytest.fixture
def metal(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """Return `orchard_ops.sim`, whose launches are strict and ordered by a seed."""
    load()
    from .. import _sim

    options = _sim.options()
    before = (options.seed, options.strict, options.timeout)
    options.seed = request.param
    options.strict = not request.config.getoption("--no-metal-strict")
    options.timeout = request.config.getoption("--metal-timeout")
    yield sim
    options.seed, options.strict, options.timeout = before


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[Any]) -> Generator[None, Any, None]:
    """Add the lines of Metal to the report of a test that a kernel failed."""
    outcome = yield
    error = call.excinfo.value if call.excinfo is not None else None
    if isinstance(error, (FaultError, KernelCompileError)) and error.source:
        title = f"{_SECTION} ({error.file}:{error.line})"
        outcome.get_result().sections.append((title, error.source))
