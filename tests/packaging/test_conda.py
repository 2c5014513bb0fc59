"""The conda recipe renders the whole matrix, and the solver's proofs can fail.

`nox -s conda` runs this: it needs rattler-build and rattler.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("rattler_build")

from conda import environments, packages, standins
from conda.channel import (
    LINUX,
    MACOS,
    MATRIX,
    PROJECT,
    PYTHON,
    SITE,
    Channel,
    Package,
    on_a_mac,
    required,
)
from conda.variants import RECIPE, Variant, rendered
from paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable

PIN = "pytorch >=2.4.1,<2.5.0a0"


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Channel:
    """Return a channel with every PyTorch's metadata, and packages that pin it."""
    made = environments.metadata_channel(tmp_path_factory.mktemp("channel"))
    wanted: Iterable[tuple[str, str, list[str]]] = [
        (LINUX, "good", [PIN]),
        (LINUX, "loose", ["pytorch"]),
        (MACOS, "good", [PIN, "__osx >=13.0"]),
        (MACOS, "loose", [PIN]),
    ]
    for platform, build, depends in wanted:
        made.empty(Package("orchard-ops", "0.1.0", platform, depends, build=build))
    return made


def variant(platform: str, build: str) -> Variant:
    """Return what says which of the channel's packages is meant."""
    return Variant(platform, "2.4", {}, build, [])


def test_linux_has_a_variant_for_each_torch_and_python() -> None:
    """The recipe renders PyTorch by Python, each with its own build string."""
    variants = rendered(LINUX)
    pairs = {(v.torch, v.keys["python"]) for v in variants}
    assert pairs == {
        (version.rpartition(".")[0], python)
        for version, pythons in MATRIX["conda"]["torch"].items()
        for python in pythons
    }
    assert len({v.build for v in variants}) == len(variants) == len(pairs)


def test_macos_has_a_variant_for_each_torch() -> None:
    """The recipe renders each PyTorch for the oldest macOS that it runs on."""
    variants = rendered(MACOS)
    pairs = {(v.torch, v.keys["c_stdlib_version"]) for v in variants}
    assert pairs == {
        (version.rpartition(".")[0], MATRIX["wheels"]["torch"][version])
        for version in MATRIX["conda"]["torch"]
    }
    minors = {torch for torch, _ in pairs}
    assert minors == {f"2.{number}" for number in range(1, 14)}
    assert len({v.build for v in variants}) == len(variants) == len(pairs)


# What conda-forge's pinning and a feedstock's own file give, without our variant
# files: its default PyTorch, all its Pythons, no MACOSX_SDK_VERSION (August 2026).
PINNING = {
    "pytorch": ["2.12"],
    "python": [f"3.{n}.* *_cpython" for n in (10, 11, 12, 13)],
    "is_python_min": [True, False, False, False],
    "zip_keys": [["python", "is_python_min"]],
}
STDLIB = {
    LINUX: {"c_stdlib": ["sysroot"], "c_stdlib_version": ["2.17"]},
    MACOS: {"c_stdlib": ["macosx_deployment_target"], "c_stdlib_version": ["13.0"]},
}


def by_conda_forge(
    platform: str,
    recipe: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    torch: tuple[str, ...] = ("2.12",),
) -> list[dict[str, Any]]:
    """Return the recipe's packages as rattler-build would build them there."""
    from conda.channel import build_recipe

    pinning = tmp_path / "pinning.yaml"
    pins = {**PINNING, **STDLIB[platform], "pytorch": list(torch)}
    pinning.write_text(json.dumps(pins))
    capfd.readouterr()
    build_recipe(
        *(recipe, tmp_path / "out"),
        channel=[],
        variant_config=[str(pinning)],
        target_platform=platform,
        build_platform=LINUX,
        render_only=True,
    )
    found = json.loads(capfd.readouterr().out)
    return [package["recipe"] for package in found]


@pytest.mark.parametrize(("platform", "count"), [(LINUX, 4), (MACOS, 1)])
def test_conda_forge_builds_each_package_once(
    platform: str, count: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Linux has a package for each Python; the one for macOS serves them all."""
    found = by_conda_forge(platform, RECIPE, tmp_path, capfd)
    assert len(found) == count


# A migrator adds the next PyTorch to the pinning's, and the feedstock pins none.
@pytest.mark.parametrize("torch", [("2.12",), ("2.12", "2.13")])
@pytest.mark.parametrize(("platform", "count"), [(LINUX, 4), (MACOS, 1)])
def test_what_is_submitted_follows_conda_forges_pinning(
    platform: str,
    count: int,
    torch: tuple[str, ...],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """rattler-build reads the submitted recipe; each PyTorch asked for has its own."""
    from release import submission

    sdist = tmp_path / "orchard_ops-0.1.0.tar.gz"
    sdist.write_bytes(b"an archive")
    at = "https://example.org/orchard-ops"
    submission.write(ROOT, sdist, tmp_path / "submission", at, ["somebody"])
    folder = tmp_path / "submission" / submission.FORGE
    recipe = folder / "recipe.yaml"
    found = by_conda_forge(platform, recipe, tmp_path, capfd, torch)
    assert len(found) == count * len(torch)
    assert len({package["build"]["string"] for package in found}) == len(found)
    (source, *headers) = found[0]["source"]
    assert source["url"].endswith("/orchard_ops-0.1.0.tar.gz")
    assert len(headers) == (platform == MACOS)
    assert "pytorch:" not in (folder / "conda_build_config.yaml").read_text()


def test_the_macos_package_says_what_it_needs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Pythons, the program zig, an SDK and the licence of what is compiled in."""
    (found,) = by_conda_forge(MACOS, RECIPE, tmp_path, capfd)
    needs = found["requirements"]
    assert f"python {PROJECT['project']['requires-python']}" in needs["run"]
    zig = MATRIX["package"]["ziglang"]
    assert any(n in (f"zig =={zig}", f"zig {zig}") for n in needs["build"])
    assert found["build"]["script"]["env"] == {"MACOSX_SDK_VERSION": "13.0"}
    assert found["about"]["license"] == "MIT AND Apache-2.0"
    assert "metal-cpp-LICENSE.txt" in found["about"]["license_file"]


def test_conda_forges_headers_serve_all_environments(tmp_path: Path) -> None:
    """The channel's newer PyTorches lie as conda-forge's, where CMake finds them."""
    import find_torch

    assert [v for v in ("2.4.1", "2.9.1", "2.13.0") if standins.is_split(v)] == [
        "2.13.0"
    ]
    torch = tmp_path / SITE / "torch"
    (torch / "include" / "ATen").mkdir(parents=True)
    (torch / "include" / "ATen" / "ATen.h").touch()
    (torch / "lib").mkdir()
    (torch / "lib" / "libc10.dylib").write_bytes(b"a library")
    standins.split(tmp_path)
    assert not (torch / "include").exists()
    assert (torch / "lib" / "libc10.dylib").read_bytes() == b"a library"
    assert find_torch.include_folder(torch) == tmp_path / "include"


def test_a_wrong_torch_is_refused_with_its_reason(channel: Channel) -> None:
    """The solver names our package and the PyTorch that it needs."""
    reason = environments.check_refusal(variant(LINUX, "good"), [channel.folder])
    assert "pytorch" in reason
    assert ">=2.4.1,<2.5.0a0" in reason


def test_a_package_that_pins_nothing_is_noticed(channel: Channel) -> None:
    """A package that the solver pairs with any PyTorch fails the proof."""
    with pytest.raises(SystemExit, match=r"loose was paired with PyTorch 2\.1"):
        environments.check_refusal(variant(LINUX, "loose"), [channel.folder])


def test_an_old_macos_is_refused(channel: Channel) -> None:
    """The deployment target is a requirement; a package without one is noticed."""
    environments.check_old_macos(variant(MACOS, "good"), [channel.folder])
    with pytest.raises(SystemExit, match=r"loose was let on macOS 11\.7"):
        environments.check_old_macos(variant(MACOS, "loose"), [channel.folder])


def test_only_what_is_required_here_becomes_a_dependency() -> None:
    """PyTorch 2.3 requires mkl on Windows, and extras are nobody's requirement."""
    mkl = 'mkl (<=2021.4.0,>=2021.1.1) ; platform_system == "Windows"'
    assert required([mkl, "Jinja2", "ninja; extra == 'dev'"]) == ["jinja2"]


TINY = """
schema_version: 1
package: {name: tiny, version: "1"}
build:
  script:
    content:
      - mkdir -p $PREFIX/bin
      - echo $PREFIX > $PREFIX/bin/where
      - ln -s where $PREFIX/bin/link
requirements: {run: [RUN]}
"""


def test_a_package_is_the_same_wherever_it_was_built(tmp_path: Path) -> None:
    """Neither folder, time nor order of a build is left, and the prefix can move."""
    from compare import difference
    from conda.channel import build_recipe
    from conda.settle import settle
    from rattler.package_streaming import extract

    recipe, found = tmp_path / "recipe.yaml", []
    # Run exports are added in any order.
    for out, run in ((tmp_path / "a", "x, y"), (tmp_path / "another" / "b", "y, x")):
        recipe.write_text(TINY.replace("RUN", run))
        build_recipe(recipe, out, channel=[], target_platform=LINUX, test="skip")
        found.append(next(out.glob("linux-64/*.conda")))
    assert difference(*found) is not None
    for package in found:
        settle(package, 1_700_000_000)
    assert difference(*found) is None
    extract(found[0], tmp_path / "tiny")
    paths = json.loads((tmp_path / "tiny" / "info" / "paths.json").read_text())["paths"]
    where = next(path for path in paths if path["_path"] == "bin/where")
    text = (tmp_path / "tiny" / "bin" / "where").read_bytes()
    assert text == where["prefix_placeholder"].encode() + b"\n"
    assert where["sha256"] == hashlib.sha256(text).hexdigest()


def test_a_macs_requirements_are_told_from_linuxs() -> None:
    """The same metadata asks for CUDA's libraries on Linux alone."""
    told = [
        "sympy>=1.13",
        'nvidia-nccl ; platform_system == "Linux"',
        "x; extra == 'y'",
    ]
    assert on_a_mac(told) == ["sympy>=1.13"]


def test_a_failing_build_shows_its_log(tmp_path: Path) -> None:
    """What a build script prints before it fails is in the error."""
    from conda.channel import build_recipe

    recipe: dict[str, Any] = {
        "schema_version": 1,
        "package": {"name": "broken", "version": "1"},
        "build": {"script": {"content": ["echo no such kernel; exit 3"]}},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(str(recipe).replace("'", '"'))
    with pytest.raises(SystemExit, match="no such kernel"):
        build_recipe(path, tmp_path / "out", channel=[], test="skip")


def test_a_failing_test_shows_what_it_prints(tmp_path: Path) -> None:
    """A package that fails its tests is moved aside, and its output is the error."""
    from conda.channel import build_recipe

    recipe: dict[str, Any] = {
        "schema_version": 1,
        "package": {"name": "broken", "version": "1"},
        "tests": [{"script": ["echo a wrong gradient", "exit 3"]}],
    }
    path, out = tmp_path / "recipe.yaml", tmp_path / "out"
    path.write_text(json.dumps(recipe))
    with pytest.raises(SystemExit):
        build_recipe(path, out, channel=[], test="native")
    (package,) = out.glob(packages.BROKEN.format(build="*"))
    channel = Channel(tmp_path / "channel")
    channel.empty(Package("other", "1", "noarch"))  # Or it is no channel.
    said = packages.failed_test(package, channel)
    assert "a wrong gradient" in said


@pytest.mark.parametrize(
    ("arguments", "platforms", "count"),
    [
        ([], {LINUX, MACOS}, None),
        (["--sample"], {LINUX}, 1),
        (["--torch", "2.2", "--target", "13.0"], {LINUX, MACOS}, 2),
        (["--torch", "2.13", "--target", "13.0", "--platform", MACOS], set(), 0),
    ],
)
def test_everything_is_built_unless_less_is_asked_for(
    arguments: list[str], platforms: set[str], count: int | None
) -> None:
    """No argument: every PyTorch, on Linux for the Python that runs."""
    variants = rendered(LINUX) + rendered(MACOS)
    picked = packages.chosen(packages.parsed(arguments), variants)
    assert {variant.platform for variant in picked} == platforms
    linux = [v for v in variants if v.keys["python"] == PYTHON]
    assert len(picked) == (len(linux) if count is None else count)


def test_every_variant_can_be_solved(tmp_path: Path) -> None:
    """Each build environment has the Python and the PyTorch of its variant."""
    made = environments.metadata_channel(tmp_path)
    for name in ("pip", "scikit-build-core", "pybind11"):
        made.empty(Package(name, "2.99", "noarch", depends=["python"]))
    (variant, *others) = rendered(LINUX)
    environments.solve_all([variant, *others, *rendered(MACOS)], [made.folder])
    lost = replace(variant, host=[need.replace(" 2.1.*", "") for need in variant.host])
    with pytest.raises(SystemExit, match="built with pytorch"):
        environments.solve_all([lost], [made.folder])
    lost = replace(variant, host=[*variant.host, "no-such-library"])
    with pytest.raises(SystemExit, match="no-such-library"):
        environments.solve_all([lost], [made.folder])


def test_a_real_conda_builds_this_platform_from_the_channel_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`conda build` gets the recipe, one variant and no remote channel."""
    program = tmp_path / "conda"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    channel = Channel(tmp_path / "work" / "channel")
    keys = {"pytorch": "2.4", "python": "3.11", "build_platform": LINUX}
    wanted = [Variant(p, "2.4", keys, "x", []) for p in (LINUX, MACOS)]
    packages.conda_build(wanted, channel)
    said = capfd.readouterr().out.split()
    variants = tmp_path / "work" / "variant.yaml"
    assert said[:2] == ["build", str(ROOT / "recipe")]
    assert said.count("build") == 1  # Not for macOS.
    assert "--override-channels" in said
    assert said[said.index("-c") + 1] == channel.folder.as_uri()
    assert said[said.index("-m") + 1] == str(variants)
    assert variants.read_text() == '{"pytorch": ["2.4"], "python": ["3.11"]}'
