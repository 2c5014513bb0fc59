"""The proofs of the macOS build accept what is right and name what is not."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import project
import pytest
import torch
from paths import ROOT

TARGET = "13.0"
SOURCE = """
extern "C" int present(); extern "C" int missing();
extern "C" int first() { return present(); }
#ifdef WRONG
extern "C" int second() { return missing(); }
#endif
"""


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
    from macos import macho

    found = macho.read(library(tmp_path))
    assert found.install_name == "@rpath/libpart.dylib"
    assert found.minimum_os == TARGET
    assert found.is_signed
    assert "_first" in found.exports
    assert "_present" in found.imports


def test_accepts_an_owned_symbol_and_names_a_wrong_one(tmp_path: Path) -> None:
    """A symbol that its library exports passes; any other is named."""
    from macos import checks, macho

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
    from macos import checks, macho

    problems = checks.unowned(macho.read(library(tmp_path)), checks.Owners())
    assert "_present is looked up in no library by name" in problems


def test_refuses_a_symbol_newer_than_the_target() -> None:
    """libc++'s stream tables came with 12.3: a build for 11.0 may not use them."""
    from macos import checks

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
    from macos import checks

    problems = checks.unfit_messages({used}, tables, TARGET)
    assert (words in problems[0]) if words else not problems


def test_refuses_an_unguarded_new_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message newer than the target must be guarded."""
    from macos import checks

    monkeypatch.setattr(checks, "GUARDED", set())
    tables = {"setMathMode_": "setMathMode:"}
    assert (
        "needs macOS 15.0" in checks.unfit_messages({"setMathMode_"}, tables, TARGET)[0]
    )


def test_refuses_what_would_not_travel(tmp_path: Path) -> None:
    """Absolute paths, a wrong target and a wrong name are each named."""
    from macos import checks, macho

    path = library(tmp_path, "-Wl,-rpath,/opt/mine")
    found = macho.read(path)
    assert not checks.misbuilt(macho.read(library(tmp_path)), TARGET, b"", ["/build"])
    problems = " ".join(checks.misbuilt(found, "14.0", b"in /build/x", ["/build"]))
    for words in ("minimum macOS is 13.0", "/opt/mine is absolute", "holds the path"):
        assert words in problems


def test_refuses_a_private_runtime(tmp_path: Path) -> None:
    """A binary that exports the C++ runtime's symbols brought its own."""
    from macos import checks, macho

    found = macho.read(library(tmp_path))
    found.exports.add("___cxa_throw")
    assert "C++ runtime" in checks.misbuilt(found, TARGET, b"", [])[0]


def test_the_tool_fails_on_a_wrong_symbol_or_selector(tmp_path: Path) -> None:
    """The tool's own check ends the run and names symbol, selector and binary."""
    from macos import checks, macho, proof

    source = tmp_path / "sends.cpp"
    source.write_text(
        "namespace NS::Private::Selector { extern void* s_kexplode_; }\n"
        "void* send() { return NS::Private::Selector::s_kexplode_; }\n"
    )
    sender = tmp_path / "sends.o"
    zig = [sys.executable, "-m", "ziglang", "c++", "-target", f"aarch64-macos.{TARGET}"]
    subprocess.run([*zig, "-c", str(source), "-o", str(sender)], check=True)
    path = library(tmp_path)
    needed = macho.read(path).imports
    owners = checks.Owners({owner: set() for owner in needed.values()})
    with pytest.raises(project.Failure) as caught:
        proof.check({}, [], TARGET, owners, [path], [sender])
    assert "libpart.dylib: _present" in str(caught.value)
    assert "explode_ is in none of metal-cpp's tables" in str(caught.value)
    assert caught.value.code != 0


@pytest.mark.parametrize(
    ("said", "names_the_cause"),
    [
        ("The user requested (constraint) torch<=2.14.1", True),
        ("ERROR: No matching distribution found for torch==9.9", False),
    ],
)
def test_says_why_pip_refused(said: str, names_the_cause: bool) -> None:
    """Pip's own words are kept; a constraint is named as the cause, with a remedy."""
    from macos import downloads

    text = downloads.refusal("torch==2.15.0", "3.11", said)
    assert said in text
    assert "torch==2.15.0" in text
    assert ("Lift it" in text) == names_the_cause


@pytest.fixture
def no_ziglang(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module that finds zig, where no Python module has it."""
    from macos import build

    monkeypatch.setattr(build.importlib.util, "find_spec", lambda _: None)
    build.zig.cache_clear()
    yield build
    build.zig.cache_clear()


@pytest.mark.parametrize(
    ("version", "came"), [("0.14.1", ""), ("0.17.0", "0.17.0"), ("", "none")]
)
def test_takes_the_program_zig_of_the_right_version(
    version: str,
    came: str,
    tmp_path: Path,
    no_ziglang: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """conda-forge and nixpkgs have zig as a program, with its library elsewhere."""
    program = tmp_path / "zig"
    if version:
        answers = f'version) echo {version};; env) echo \'{{"lib_dir": "/lib/zig"}}\''
        program.write_text(f'#!/bin/sh\ncase "$1" in {answers};; esac\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    if came:
        wanted = rf"expected zig 0\.14\.1, came {came}.* on the path"
        with pytest.raises(project.Failure, match=wanted):
            no_ziglang.zig()
        return
    assert no_ziglang.zig() == program
    assert no_ziglang.zig_library() == Path("/lib/zig")


@pytest.mark.parametrize("is_native", [True, False])
def test_a_packagers_compiler_compiles_on_a_mac(
    is_native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There CXX is the recipe's; its flags, and elsewhere CXX, are not for us."""
    from macos import build

    monkeypatch.setattr(build, "IS_NATIVE", is_native)
    given = {"CXX": "arm64-clang++", "LDFLAGS": "-L/prefix/lib", "PATH": "/bin"}
    kept = build.environment(given)
    assert kept == {**({"CXX": "arm64-clang++"} if is_native else {}), "PATH": "/bin"}


@pytest.mark.parametrize("is_strict", [True, False])
def test_warnings_stop_our_own_builds_alone(
    is_strict: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's or a packager's compiler may warn about more than ours does."""
    from macos import build

    ran: list[str] = []
    monkeypatch.setattr(build, "run", lambda *command: ran.extend(map(str, command)))
    made = build.Build(tmp_path, {}, tmp_path, {"2.4": TARGET}, is_strict)
    made.configure()
    assert f"-DORCHARD_WERROR={'ON' if is_strict else 'OFF'}" in ran


TAG = "py3-none-macosx_13_0_arm64"
RUNNING = ".".join(torch.__version__.split(".")[:2])
ALL = [project.minor(version) for version in project.versions()["wheels"]["torch"]]


def packed(folder: Path, *minors: str) -> Path:
    """Pack a wheel as the tool does, around binaries that only a Mac can load."""
    import pack

    folder.mkdir(exist_ok=True)
    built = {"_build_info.py": folder / "_build_info.py"}
    built["_build_info.py"].write_text('VERSION = "0.1.0"\n')
    binary = library(folder)
    built["liborchard_device.dylib"] = binary
    built |= {f"_C.torch{minor}.so": binary for minor in minors}
    return pack.pack(TAG, minors, built, folder, {"metal-cpp-LICENSE.txt": b"Apache"})


def test_a_wheel_depends_on_its_files_alone(tmp_path: Path) -> None:
    """Two packings of the same files give the same bytes, which read back right."""
    import pack

    first, second = packed(tmp_path / "a", *ALL), packed(tmp_path / "b", *ALL)
    assert first.read_bytes() == second.read_bytes()
    pack.check_wheel(first, ALL)


def test_an_index_takes_the_wheel(tmp_path: Path) -> None:
    """Its version has no local part, its description is the README."""
    wheel = packed(tmp_path, *ALL)
    assert wheel.name == f"orchard_ops-0.1.0-{TAG}.whl"
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        text = archive.read(name).decode()
    assert "Requires-Dist: torch>=2.1\n" in text
    assert "License-Expression: MIT AND Apache-2.0\n" in text
    assert text.endswith((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("platform", "python", "words"),
    [
        ("macosx_13_0_arm64", "3.9", ""),
        ("macosx_26_0_arm64", "3.13", ""),
        ("macosx_12_0_arm64", "3.11", "is not a supported wheel on this platform"),
        ("macosx_14_0_x86_64", "3.11", "is not a supported wheel on this platform"),
        ("macosx_14_0_arm64", "3.8", "requires a different Python: 3.8"),
    ],
)
def test_pip_takes_it_where_it_runs(
    tmp_path: Path, platform: str, python: str, words: str
) -> None:
    """Elsewhere pip names the reason itself, before anything is installed."""
    pytest.importorskip("pip")
    names = [platform]
    if platform.startswith("macosx_26"):  # A Mac takes what older ones take.
        names += [f"macosx_{major}_0_arm64" for major in range(25, 10, -1)]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-index"]
    command += [f"--platform={name}" for name in names]
    command += ["--only-binary=:all:", f"--python-version={python}", "--dest"]
    command += [str(tmp_path / "got"), str(packed(tmp_path, *ALL))]
    done = subprocess.run(command, text=True, capture_output=True)
    assert (done.returncode == 0) == (not words), done.stderr
    assert words in done.stderr


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("METADATA", b"torch>=2.1", b"torch==2.4.*", r"the requirement: \['torch==2.4"),
        ("WHEEL", b"macosx_13", b"macosx_14", "the tag: "),
        ("RECORD", b"sha256=", b"sha256=A", "RECORD of orchard_ops/"),
    ],
)
def test_a_wheel_that_contradicts_itself_is_refused(
    tmp_path: Path, file: str, old: bytes, new: bytes, words: str
) -> None:
    """A wheel whose name, requirement and contents tell different stories is named."""
    import pack

    wheel = packed(tmp_path, *ALL)
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = f"{pack.INFO}/{file}"
    files[name] = files[name].replace(old, new)
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with pytest.raises(project.Failure, match=words):
        pack.check_wheel(wheel, ALL)


def imported(wheel: Path, into: Path) -> str:
    """Import orchard_ops out of an unpacked wheel; return the error's last line."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into)
    code = f"import sys; sys.path.insert(0, {str(into)!r}); import orchard_ops"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ORCHARD")}
    done = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, env=environment
    )
    assert done.returncode != 0
    return done.stderr.strip().splitlines()[-1]


def test_a_wheel_without_this_pytorch_says_which_there_are(tmp_path: Path) -> None:
    """Before any binary is touched."""
    others = [minor for minor in ALL if minor != RUNNING]
    last = imported(packed(tmp_path, *others), tmp_path / "site")
    assert f"libraries for PyTorch {', '.join(others)}, but" in last
    assert f"PyTorch {torch.__version__} is running" in last


def test_the_library_for_this_pytorch_is_opened(tmp_path: Path) -> None:
    """That one of all (and it is no Linux library)."""
    last = imported(packed(tmp_path, *ALL), tmp_path / "site")
    assert f"cannot load {tmp_path}/site/orchard_ops/_C.torch{RUNNING}.so" in last


def test_a_second_build_with_other_bytes_is_named() -> None:
    """`--twice` compares file by file and names those that differ."""
    from macos import wheels

    rows = [{"library": "a.so", "sha256": "1"}, {"library": "b.so", "sha256": "2"}]
    first = {"wheel": "w.whl", "sha256": "0", "libraries": rows}
    assert wheels.differences(first, first) == []
    second = {**first, "libraries": [rows[0], {"library": "b.so", "sha256": "3"}]}
    found = wheels.differences(first, second)
    assert found == ["b.so: built again, it has other bytes (2, then 3)"]


def test_a_version_that_is_not_in_the_matrix_is_refused() -> None:
    """Nothing that was asked for is left out in silence."""
    from macos import wheels

    with pytest.raises(SystemExit, match=r"lists no 9\.9\.9 under"):
        wheels.wanted(wheels.parsed(["--torch", "2.4.1", "9.9.9"]))
    with pytest.raises(SystemExit, match="--target goes with --tree"):
        wheels.wanted(wheels.parsed(["--target", "13.0"]))


def test_a_pytorch_that_cannot_be_downloaded_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No wheel is made that lacks one; every missing one is named, with the reason."""
    from macos import downloads, wheels

    lost = ["2.2.2", "2.4.1"]

    def torch_tree(version: str, _: str) -> Path:
        if version in lost:
            raise downloads.NotFetchedError(f"pip gave no torch=={version}: Not Found")
        return tmp_path

    monkeypatch.setattr(downloads, "torch_tree", torch_tree)
    with pytest.raises(project.Failure) as caught:
        wheels.fetch(["2.1.2", *lost, "2.13.0"])
    assert "no wheel was made without 2.2.2, 2.4.1" in str(caught.value)
    assert all(f"torch=={version}: Not Found" in str(caught.value) for version in lost)


@pytest.mark.parametrize(
    ("version", "oldest"),
    [
        ("2.13.1", "14.0"),  # Another patch of a minor that is known.
        ("2.4.0", "13.0"),
    ],
)
def test_a_packagers_pytorch_is_known_by_its_minor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, oldest: str
) -> None:
    """A channel has other patch versions (conda-forge)."""
    from argparse import Namespace

    from macos import wheels

    monkeypatch.setattr(wheels, "MATRIX", project.versions())
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text(f"__version__ = '{version}'\n")
    options = Namespace(tree=tmp_path, torch=None, target=None)
    assert wheels.wanted(options) == {version: oldest}
    options.target = "15.0"
    assert wheels.wanted(options) == {version: "15.0"}


def test_a_pytorch_newer_than_all_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has looked up which macOS it needs."""
    from macos import wheels

    monkeypatch.setattr(wheels, "MATRIX", project.versions())
    with pytest.raises(SystemExit, match=r"PyTorch 9\.1\.0 is newer than all"):
        wheels.admit("9.1.0")
