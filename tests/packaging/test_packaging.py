"""What a build says of its PyTorch, and what the checks of finished packages see."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

FIND_TORCH = ROOT / "cmake" / "find_torch.py"


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORCHARD_TORCH_WHEEL", raising=False)


def fake_torch(folder: Path, version: str) -> Path:
    """Write what the build reads of a PyTorch, and nothing else."""
    header = folder / "torch" / "include" / "ATen" / "ATen.h"
    header.parent.mkdir(parents=True)
    header.touch()
    (folder / "torch" / "version.py").write_text(f"__version__ = '{version}+cpu'\n")
    return folder


def configure(tmp_path: Path, *options: str, **environment: str) -> str:
    """Run CMake's configure step, which must fail; return what it says."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("the build is done and CMake is not here")
    done = subprocess.run(
        [cmake, "-S", ROOT, "-B", tmp_path / "build", "-G", "Ninja", *options],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode != 0
    return " ".join(done.stderr.split())


def test_cmake_names_a_missing_torch(tmp_path: Path) -> None:
    """Without a PyTorch the configure step says so and how to get one."""
    (tmp_path / "torch").mkdir()
    said = configure(tmp_path, f"-DORCHARD_TORCH_WHEEL={tmp_path}")
    assert f"[orchard_ops] no PyTorch in {tmp_path}/torch" in said
    assert "--no-build-isolation" in said


def test_cmake_names_a_torch_that_is_too_old(tmp_path: Path) -> None:
    """A PyTorch older than the oldest supported one is refused by its version."""
    fake_torch(tmp_path, "2.0.1")
    said = configure(tmp_path, ORCHARD_TORCH_WHEEL=str(tmp_path))
    assert "[orchard_ops] PyTorch 2.0.1" in said
    assert "is too old: install PyTorch 2.1 or newer" in said


def test_a_wheel_is_not_built_for_what_it_does_not_require(tmp_path: Path) -> None:
    """Under pip the option alone would leave another PyTorch in the requirements."""
    fake_torch(tmp_path, "2.4.1")
    said = configure(tmp_path, "-DSKBUILD=2", f"-DORCHARD_TORCH_WHEEL={tmp_path}")
    assert "set the environment variable ORCHARD_TORCH_WHEEL" in said


def test_an_interpreter_without_torch_is_named() -> None:
    """The message names the interpreter that builds."""
    command = [sys.executable, "-S", "-I", str(FIND_TORCH)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    # Started so, a wrapper of Python's (nixpkgs has them) is not what it calls itself.
    asked = [*command[:-1], "-c", "import sys; print(sys.executable)"]
    python = subprocess.run(asked, text=True, capture_output=True).stdout.strip()
    assert f"[orchard_ops] {python} has no PyTorch" in done.stderr


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("2.1.2", ["torch==2.1.*", "numpy<2"]),
        ("2.4.1", ["torch==2.4.*"]),
        ("2.4.0", ["torch==2.4.*"]),
        ("2.13.0", ["torch==2.13.*"]),
        ("2.99.0", ["torch==2.99.*"]),
    ],
)
def test_a_wheel_requires_the_torch_it_was_built_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, expected: list[str]
) -> None:
    """The requirements of a wheel name its PyTorch minor."""
    wheel_metadata = pytest.importorskip("wheel_metadata")  # tomli, on old Pythons.
    monkeypatch.setenv("ORCHARD_TORCH_WHEEL", str(fake_torch(tmp_path, version)))
    assert wheel_metadata.dynamic_metadata("dependencies", {}) == expected


def test_a_wheel_for_many_requires_the_oldest() -> None:
    """By number, and with no upper bound: a newer PyTorch gets an error of ours."""
    wheel_metadata = pytest.importorskip("wheel_metadata")
    assert wheel_metadata.requirements(["2.10", "2.2", "2.9"]) == ["torch>=2.2"]


@pytest.mark.parametrize(
    ("system", "machine", "macos", "words"),
    [
        ("darwin", "x86_64", "14.5", "got a Python for x86_64 (an Intel Mac"),
        ("darwin", "arm64", "12.7.6", "expected macOS 13 or newer"),
        ("darwin", "arm64", "13.0", ""),
        ("darwin", "arm64", "26.1", ""),
        ("darwin", "arm64", "10.16", ""),  # What some Pythons see on newer ones.
        ("darwin", "arm64", "", ""),
        ("linux", "x86_64", "", ""),
        ("win32", "AMD64", "", "got win32"),
    ],
)
def test_a_machine_that_nothing_is_built_for_is_told_so(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, macos: str, words: str
) -> None:
    """Pip takes the source where no wheel fits; the build says why none does."""
    import find_torch

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(find_torch.platform, "machine", lambda: machine)
    monkeypatch.setattr(
        find_torch.platform, "mac_ver", lambda: (macos, ("", "", ""), machine)
    )
    if not words:
        find_torch.check_platform()
        return
    with pytest.raises(SystemExit, match=re.escape(words)) as caught:
        find_torch.check_platform()
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("[orchard_ops] expected ")
    wheel_metadata = pytest.importorskip("wheel_metadata")
    with pytest.raises(SystemExit, match=re.escape(words)):
        wheel_metadata.dynamic_metadata("dependencies", {})


def test_a_source_distribution_requires_any_known_torch() -> None:
    """Making one needs no PyTorch."""
    import sdist_metadata

    assert sdist_metadata.dynamic_metadata("dependencies", {}) == ["torch>=2.1"]


def test_conda_keeps_headers_beside_the_environment(tmp_path: Path) -> None:
    """conda-forge's PyTorch has its headers in the environment's include folder."""
    import find_torch

    root = tmp_path / "lib" / "python3.11" / "site-packages" / "torch"
    root.mkdir(parents=True)
    with pytest.raises(SystemExit, match="lacks its C"):
        find_torch.include_folder(root)
    header = tmp_path / "include" / "ATen" / "ATen.h"
    header.parent.mkdir(parents=True)
    header.touch()
    assert find_torch.include_folder(root) == tmp_path / "include"


README = (ROOT / "README.md").read_text(encoding="utf-8")
METADATA = "\n".join(
    [
        *("Version: 0.1.0", "License-Expression: MIT", "Requires-Dist: torch==2.4.*"),
        *(
            f"Provides-Extra: {name}"
            for name in ("sim", "cli", "demo", "bench", "transformers", "test")
        ),
        *("Provides-Extra: lint", "Provides-Extra: dev", "", README),
    ]
)


SBOM = "orchard_ops-0.1.0.dist-info/sboms/orchard-ops.cdx.json"


def sbom_of(version: str) -> bytes:
    """Return the SBOM of a package."""
    import sbom

    return sbom.document("orchard-ops", version, 0, [sbom.pytorch("2.4.1")])


def good_package() -> dict[str, bytes]:
    """Return a package that passes every check."""
    import contents

    texts = b"".join(contents.kernels().values())
    info = "orchard_ops-0.1.0.dist-info"
    return {
        **dict.fromkeys(contents.expected_modules(), b""),
        "orchard_ops/liborchard_device.so": texts,
        "orchard_ops/_C.torch2.4.so": b"",
        "orchard_ops/_metalsim.torch2.4.so": b"",
        "orchard_ops/_sim.cpython-311-x86_64-linux-gnu.so": b"",
        f"{info}/METADATA": METADATA.encode(),
        SBOM: sbom_of("0.1.0"),
        f"{info}/entry_points.txt": (
            b"[console_scripts]\norchard-ops = orchard_ops.cli:app\n"
        ),
        f"{info}/licenses/LICENSE": (ROOT / "LICENSE").read_bytes(),
    }


def on_a_mac(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return what is built for a Mac: another device library, and no simulator."""
    kept = [n for n in files if not re.search(r"/_(sim|metalsim)\..*so$", n)]
    licence = "orchard_ops-0.1.0.dist-info/licenses/metal-cpp-LICENSE.txt"
    return {
        **{n.replace("device.so", "device.dylib"): files[n] for n in kept},
        licence: b"Apache License",
    }


def test_a_good_package_passes() -> None:
    """What every package holds is accepted."""
    import contents

    for files in (good_package(), on_a_mac(good_package())):
        assert contents.problems(files, ["2.4"], ["/build/here"]) == []


def test_the_simulator_comes_whole() -> None:
    """Linux has it with its PyTorch device, macOS neither of them."""
    import contents

    linux = good_package()
    kept = {name: linux[name] for name in linux if "_sim.cpython" not in name}
    found = " ".join(contents.problems(kept, ["2.4"], []))
    assert "_sim.cpython-….so is missing" in found
    mac = on_a_mac(good_package()) | {"orchard_ops/_metalsim.torch2.4.so": b""}
    found = " ".join(contents.problems(mac, ["2.4"], []))
    assert "_metalsim.torch2.4.so does not belong" in found


def for_many(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return a wheel for Linux: a folder for each std::string, many PyTorches."""
    linux, many = dict(files), {}
    for name in [name for name in linux if name.endswith(".so")]:
        data = linux.pop(name)
        for abi, minor in ((0, "2.4"), (1, "2.7"), (1, "2.13")):
            place = name.replace("orchard_ops/", f"orchard_ops/abi{abi}/")
            many[place.replace("torch2.4", f"torch{minor}")] = data
    texts = linux["orchard_ops-0.1.0.dist-info/METADATA"]
    linux["orchard_ops-0.1.0.dist-info/METADATA"] = texts.replace(
        b"torch==2.4.*", b"torch>=2.4", 1
    )
    return {**linux, **many}


def test_a_wheel_for_many_passes() -> None:
    """Each std::string has its simulator, each PyTorch its operators and device."""
    import contents

    files, minors = for_many(good_package()), ["2.4", "2.7", "2.13"]
    assert contents.problems(files, minors, []) == []
    assert contents.carried(files)["2.13"] == "orchard_ops/abi1/"
    for name in [name for name in files if "/abi" in name]:
        rest = {each: files[each] for each in files if each != name}
        assert contents.problems(rest, minors, []), name


def test_apples_licence_goes_with_apples_code() -> None:
    """metal-cpp's inline functions are in every binary for macOS, so its text is."""
    import contents

    mac = on_a_mac(good_package())
    del mac["orchard_ops-0.1.0.dist-info/licenses/metal-cpp-LICENSE.txt"]
    assert contents.problems(mac, ["2.4"], []) == [
        "licenses/metal-cpp-LICENSE.txt is missing"
    ]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("orchard_ops/_C.torch2.4.so", None, "_C.torch2.4.so is missing"),
        ("orchard_ops/_C.torch2.5.so", b"", "_C.torch2.5.so does not belong"),
        ("orchard_ops/sdpa_old.py", b"", "does not belong here"),
        ("orchard_ops/liborchard_device.so", b"", "kernel kernels/forward.metal"),
        ("orchard_ops/tests/test_api.py", b"", "does not belong here"),
        (
            "orchard_ops/_C.torch2.4.so",
            b"from /build/here",
            "holds the path /build/here",
        ),
        ("orchard_ops-0.1.0.dist-info/METADATA", b"", "require torch==2.4.*"),
        ("orchard_ops-0.1.0.dist-info/METADATA", b"", "no licence"),
        ("orchard_ops-0.1.0.dist-info/METADATA", b"", "not its description"),
        ("orchard_ops-0.1.0.dist-info/METADATA", b"", "no extra transformers"),
        ("orchard_ops-0.1.0.dist-info/entry_points.txt", b"", "no command"),
        ("orchard_ops-0.1.0.dist-info/licenses/LICENSE", b"GPL", "is not ours"),
        ("orchard_ops-0.1.0.dist-info/licenses/LICENSE", None, "is not ours"),
        ("orchard_ops-0.1.0.dist-info/METADATA", b"Version: 9.0.0", "toml says 0.1.0"),
        (SBOM, None, "cdx.json: version none"),
        (SBOM, sbom_of("9.0.0"), "version 9.0.0, METADATA says 0.1.0"),
        ("orchard_ops-0.1.0.dist-info/direct_url.json", b"/build/here", "the path"),
    ],
)
def test_a_bad_package_is_named(name: str, data: bytes | None, words: str) -> None:
    """Each thing that is missing, wrong or too much is named."""
    import contents

    files = good_package()
    if data is None:
        del files[name]
    else:
        files[name] = data
    assert words in " ".join(contents.problems(files, ["2.4"], ["/build/here"]))
