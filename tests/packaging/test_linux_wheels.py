"""The Linux wheel: what its tag promises, and what it takes from the builds."""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from orchard_ops import _native

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads ELF files"
)
# Two policies as auditwheel's table writes them, the most portable first.
OLD, NEW = "manylinux_2_28", "manylinux_2_34"
POLICIES: list[dict[str, Any]] = [
    {
        "name": name,
        "symbol_versions": {"x86_64": {"GLIBC": glibc, "GLIBCXX": ["3.4.24"]}},
        "lib_whitelist": ["libc.so.6", "libstdc++.so.6"],
    }
    for name, glibc in ((OLD, ["2.28"]), (NEW, ["2.28", "2.34"]))
]


@pytest.mark.parametrize(
    ("symbols", "sonames", "expected"),
    [
        ({"GLIBC": {"2.28"}}, {"libc.so.6", "libtorch_cpu.so"}, f"{OLD}_x86_64"),
        ({}, {"ld-linux-x86-64.so.2"}, f"{OLD}_x86_64"),
        ({"GLIBC": {"2.28", "2.34"}}, {"liborchard_device.so"}, f"{NEW}_x86_64"),
        ({"GLIBC": {"2.38"}}, {"libc.so.6"}, "no manylinux has GLIBC_2.38"),
        ({"GLIBCXX": {"3.4.30"}}, set(), "no manylinux has GLIBCXX_3.4.30"),
        ({}, {"libcuda.so.1"}, "no manylinux has libcuda.so.1"),
    ],
)
def test_the_tag_is_the_most_portable_that_suffices(
    monkeypatch: pytest.MonkeyPatch,
    symbols: dict[str, set[str]],
    sonames: set[str],
    expected: str,
) -> None:
    """By versions of symbols and by libraries; PyTorch's own and ours are there."""
    from linux import wheels

    monkeypatch.setattr(wheels, "policies", lambda: POLICIES)
    monkeypatch.setattr(wheels, "needs", lambda _: (symbols, sonames))
    if not expected.startswith("no "):
        assert wheels.platform_tag([]) == expected
        return
    with pytest.raises(SystemExit, match=re.escape(expected)):
        wheels.platform_tag([])


def test_what_a_library_needs_is_read_from_it() -> None:
    """Versions of symbols by their owner, and the libraries beside the system's."""
    from linux import wheels

    (library,) = _native.built_libraries().values()
    symbols, sonames = wheels.needs([library])
    assert {"GLIBC", "GLIBCXX"} <= symbols.keys()
    assert all(re.fullmatch(r"[\d.]+", version) for version in symbols["GLIBC"])
    ours = {name for name in sonames if re.match("lib(torch|c10|orchard)", name)}
    assert ours == {"libtorch_cpu.so", "libc10.so", "liborchard_device.so"}


def test_a_python_is_asked_what_it_is() -> None:
    """Its tag, and the names of its extension modules."""
    from linux import wheels

    found = wheels.interpreter(sys.executable)
    assert found.tag == f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert found.suffix == sysconfig.get_config_var("EXT_SUFFIX")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('echo \'["/usr/bin/python3.8", "3.8", ".so"]\'', "came 3.8"),
        ("echo no such command >&2; exit 127", "no such command"),
    ],
)
def test_a_python_that_no_wheel_is_for(
    tmp_path: Path, answer: str, reason: str
) -> None:
    """One too old, and a version manager's placeholder, are named."""
    from linux import wheels

    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{answer}\n")
    python.chmod(0o755)
    with pytest.raises(SystemExit, match=f"(?s)expected a Python.*3.13.*{reason}"):
        wheels.interpreter(str(python))
    with pytest.raises(SystemExit, match="No such file"):
        wheels.interpreter(str(tmp_path / "absent"))


def test_each_string_gets_a_simulator_of_the_python(tmp_path: Path) -> None:
    """And the libraries of its PyTorches, in a folder of their own."""
    from linux import wheels

    suffix = ".cpython-312-x86_64-linux-gnu.so"
    assert wheels.gathered(tmp_path, ["2.4"], 0, suffix).keys() == {
        "abi0/liborchard_device.so",
        f"abi0/_sim{suffix}",
        "abi0/_C.torch2.4.so",
        "abi0/_metalsim.torch2.4.so",
    }


def test_smoke_asks_for_the_wheel_of_this_python(tmp_path: Path) -> None:
    """Another Python's does not count, and the message says what makes it."""
    from linux import smoke

    (tmp_path / "orchard_ops-0.1.0-cp38-cp38-manylinux_2_34_x86_64.whl").touch()
    with pytest.raises(SystemExit, match="found 0: run nox -s wheels-linux"):
        smoke.wheel_for_this_python(tmp_path)
