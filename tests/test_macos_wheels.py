"""The proofs of the macOS build accept what is right and name what is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"
TARGET = "13.0"
SOURCE = """
extern "C" int present(); extern "C" int missing();
extern "C" int first() { return present(); }
#ifdef WRONG
extern "C" int second() { return missing(); }
#endif
"""


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))


def library(folder: Path, *flags: str) -> Path:
    """Cross-build a library that looks up its symbols when it is loaded."""
    source, out = folder / "part.cpp", folder / "libpart.dylib"
    source.write_text(SOURCE)
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", f"aarch64-macos.{TARGET}"]
    zig += ["-shared", "-undefined", "dynamic_lookup", "-s", "-x", "c++", str(source)]
    zig += ["-nostdinc++", "-o", str(out), "-Wl,-install_name,@rpath/libpart.dylib"]
    subprocess.run([*zig, *flags], check=True, capture_output=True)
    return out


def test_reads_a_binary(tmp_path: Path) -> None:
    """The reader finds names, target, exports and imports."""
    import macho

    found = macho.read(library(tmp_path))
    assert found.install_name == "@rpath/libpart.dylib"
    assert found.minimum_os == TARGET
    assert found.is_signed
    assert "_first" in found.exports
    assert "_present" in found.imports


def test_accepts_an_owned_symbol_and_names_a_wrong_one(tmp_path: Path) -> None:
    """A symbol that its library exports passes; any other is named."""
    import macho
    import macos_checks as checks

    found = macho.read(library(tmp_path, "-DWRONG"))
    found.imports = {
        "_present": "@rpath/libthem.dylib",
        "_missing": "@rpath/libthem.dylib",
    }
    owners = checks.Owners({"@rpath/libthem.dylib": {"_present"}})
    assert checks.unowned(found, owners) == [
        "_missing is not known to be in @rpath/libthem.dylib"
    ]


def test_refuses_a_symbol_without_a_library(tmp_path: Path) -> None:
    """A symbol looked up wherever it may be found is not proved."""
    import macho
    import macos_checks as checks

    problems = checks.unowned(macho.read(library(tmp_path)), checks.Owners())
    assert "_present is looked up in no library by name" in problems


def test_refuses_a_symbol_newer_than_the_target() -> None:
    """libc++'s stream tables came with 12.3: a build for 11.0 may not use them."""
    import macos_checks as checks

    owners = checks.Owners()
    owners.add_known("11.0")
    assert not any("ostringstream" in s for s in owners.exports[checks.CXX])
    owners.add_known(TARGET)
    assert any("ostringstream" in s for s in owners.exports[checks.CXX])


@pytest.mark.parametrize(
    ("used", "tables", "words"),
    [
        ("commit", {"commit": "commit"}, ""),
        ("commit", {}, "none of metal-cpp's tables"),
        ("explode", {"explode": "explode"}, "is new"),
        ("setMathMode_", {"setMathMode_": "setMathMode:"}, ""),
    ],
)
def test_checks_messages(used: str, tables: dict[str, str], words: str) -> None:
    """A message must be in metal-cpp's tables and old enough, or guarded."""
    import macos_checks as checks

    problems = checks.unfit_messages({used}, tables, TARGET)
    assert (words in problems[0]) if words else not problems


def test_refuses_an_unguarded_new_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message newer than the target must be guarded."""
    import macos_checks as checks

    monkeypatch.setattr(checks, "GUARDED", set())
    tables = {"setMathMode_": "setMathMode:"}
    assert (
        "needs macOS 15.0" in checks.unfit_messages({"setMathMode_"}, tables, TARGET)[0]
    )


def test_refuses_what_would_not_travel(tmp_path: Path) -> None:
    """Absolute paths, a wrong target and a wrong name are each named."""
    import macho
    import macos_checks as checks

    path = library(tmp_path, "-Wl,-rpath,/opt/mine")
    found = macho.read(path)
    assert not checks.misbuilt(macho.read(library(tmp_path)), TARGET, b"", ["/build"])
    problems = " ".join(checks.misbuilt(found, "14.0", b"in /build/x", ["/build"]))
    for words in ("minimum macOS is 13.0", "/opt/mine is absolute", "holds the path"):
        assert words in problems


def test_refuses_a_private_runtime(tmp_path: Path) -> None:
    """A binary that exports the C++ runtime's symbols brought its own."""
    import macho
    import macos_checks as checks

    found = macho.read(library(tmp_path))
    found.exports.add("___cxa_throw")
    assert "C++ runtime" in checks.misbuilt(found, TARGET, b"", [])[0]
