"""What the flake's proofs accept and refuse, shown on broken copies of the flake."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import project
import pytest
from edits import replace
from paths import ROOT

nix_flake = pytest.importorskip("nix.flake", reason="the tools need Python 3.11")
nix_wheels = pytest.importorskip("nix.wheels")

needs_nix = pytest.mark.skipif(
    shutil.which("nix") is None, reason="no nix here (apt-get install nix-bin)"
)
TORCH = "2.4.1"
SYSTEM = "aarch64-linux"


@pytest.fixture(scope="session")
def nix(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a nix with a store of its own."""
    return nix_flake.Nix(tmp_path_factory.mktemp("nix"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a copy of the flake, to be broken."""
    copy: Path = nix_flake.copy_tree(tmp_path / "tree")
    return copy


def change_table(tree: Path, version: str | None, system: str, **pin: str) -> None:
    """Change one wheel's entry, or remove it if nothing is to be put in."""
    path = tree / "nix" / "wheels.json"
    table = json.loads(path.read_text())
    if pin:
        table["torch"][version][system]["3.11"].update(pin)
    else:
        del table["torch"][version][system]["3.11"]
    path.write_text(json.dumps(table))


@needs_nix
def test_accepts_the_flake(nix: Any, tree: Path) -> None:
    """Every output evaluates, the packages are the matrix's, the lock agrees."""
    assert nix_flake.misformatted(tree) == []
    assert "NixOS/nixpkgs" in nix_flake.check_lock(nix, tree)
    outputs = nix_flake.evaluate(nix, tree)
    assert set(outputs["packages"]) == set(nix_wheels.PLATFORMS)
    nix_flake.check_packages(outputs, project.versions())


@needs_nix
@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "package.nix",
            "  nativeCheckInputs",
            "  nativeCheckInput",
            "nativeCheckInput",
        ),
        ("package.nix", "  pypaBuildFlags", "  pypaFlags", "pypaFlags"),
        ("package.nix", "dependencies = [ torch ]", "dependencies = [ 1 ]", "int"),
        ("package.nix", "  pyproject = true;\n", "", "exactly one of"),
        ("package.nix", "license = [ lib", "licence = [ lib", "licen"),
        (
            "package.nix",
            'appleSdks."apple-sdk_',
            'appleSdks."apple-sdk-',
            "apple-sdk-1",
        ),
        ("shell.nix", "clang-tools", "clang-tool", "clang-tool"),
        ("torch.nix", 'format = "wheel"', 'format = "whl"', "exactly one of"),
        ("default.nix", "prev.numpy_1", "prev.numpy1", "numpy1"),
        ("checks.nix", "runCommandCC", "runCommandCc", "runCommandCc"),
        ("wheel.nix", "    abi\n", "", "abi"),
    ],
)
def test_names_a_misspelt_attribute(
    nix: Any, tree: Path, file: str, old: str, new: str, message: str
) -> None:
    """What the stand-in does not know, or lacks, stops the evaluation."""
    replace(tree / "nix" / file, old, new)
    with pytest.raises(nix_flake.FlakeError, match=message):
        nix_flake.evaluate(nix, tree)


@needs_nix
def test_names_a_missing_hash(nix: Any, tree: Path) -> None:
    """A wheel without an entry stops the evaluation, and is named."""
    change_table(tree, TORCH, SYSTEM)
    named = f"no torch {TORCH} for Python 3.11 on {SYSTEM}"
    with pytest.raises(nix_flake.FlakeError, match=named):
        nix_flake.evaluate(nix, tree)


@needs_nix
def test_names_a_malformed_hash(nix: Any, tree: Path) -> None:
    """A hash of a wrong length stops the evaluation."""
    change_table(tree, TORCH, SYSTEM, hash="sha256-AAAA")
    with pytest.raises(nix_flake.FlakeError, match="invalid SRI hash"):
        nix_flake.evaluate(nix, tree)


@needs_nix
def test_notices_a_variant_that_changes_nothing(nix: Any, tree: Path) -> None:
    """Two deployment targets that make one derivation are an error."""
    replace(tree / "nix" / "default.nix", "{ deploymentTarget = v; }", "{ }")
    outputs = nix_flake.evaluate(nix, tree)
    with pytest.raises(nix_flake.FlakeError, match="one derivation"):
        nix_flake.check_packages(outputs, project.versions())


@needs_nix
def test_notices_a_package_that_the_matrix_lacks(nix: Any, tree: Path) -> None:
    """The packages' names must be those that versions.toml makes."""
    matrix = project.versions()
    del matrix["torch"]["torch22"]
    outputs = nix_flake.evaluate(nix, tree)
    with pytest.raises(nix_flake.FlakeError, match="orchard-ops-torch22"):
        nix_flake.check_packages(outputs, matrix)


@needs_nix
def test_a_new_pytorch_is_one_entry_and_its_hashes(nix: Any, tree: Path) -> None:
    """An entry of the matrix makes packages once its wheels are pinned."""
    matrix, table = tree / "versions.toml", tree / "nix" / "wheels.json"
    text = matrix.read_text()
    text += '[torch.torch25]\nversion = "2.5.1"\npythons = ["3.12"]\nnumpy = "numpy"\n'
    matrix.write_text(text)
    with pytest.raises(
        nix_flake.FlakeError, match=r"no torch 2\.5\.1 for Python 3\.12"
    ):
        nix_flake.evaluate(nix, tree)
    pins = json.loads(table.read_text())
    pins["torch"]["2.5.1"] = pins["torch"][TORCH]
    table.write_text(json.dumps(pins))
    packages = nix_flake.evaluate(nix, tree)["packages"]
    assert all("orchard-ops-torch25" in names for names in packages.values())


def part_of(nix: Any, tree: Path, name: str) -> Path:
    """Return the part of the tree that a derivation of the flake gets."""
    expression = f"toString (import {tree}/nix/sources.nix).{name}"
    return Path(nix.run("nix", "eval", "--raw", "--impure", "--expr", expression))


@needs_nix
def test_no_mac_needs_a_gpu_or_the_simulator(nix: Any, tree: Path) -> None:
    """A Mac's sandbox may have no GPU: its builds and tests do without."""
    outputs = nix_flake.evaluate(nix, tree)

    def text(output: str, system: str, name: str) -> str:
        return Path(outputs[output][system][name]).read_text(encoding="utf-8")

    for system, runs, device in (
        ("aarch64-darwin", "smoke.py", "cpu"),
        ("x86_64-linux", "-m orchard_ops.cli doctor", ""),
    ):
        build = text("packages", system, "orchard-ops-torch24")
        assert ("orchard_ops.cli doctor" in build) == (not device)
        assert runs in build
        assert f"ORCHARD_TEST_DEVICE={device}\\n" in text("checks", system, "tests")


@needs_nix
def test_the_build_has_what_its_metadata_reads(nix: Any, tree: Path) -> None:
    """A wheel's requirements can be told from the part that is built."""
    folder = part_of(nix, tree, "source") / "cmake"
    ask = "import wheel_metadata as w; print(w.requirements(['2.4']))"
    command = [
        sys.executable,
        "-B",
        "-c",
        f"import sys; sys.path[0] = '{folder}'; {ask}",
    ]
    done = subprocess.run(command, text=True, capture_output=True)
    assert "torch==2.4.*" in done.stdout, done.stderr


@needs_nix
def test_the_check_of_the_tests_has_what_they_read(nix: Any, tree: Path) -> None:
    """The flake runs the tests on a part of the tree: all that they open is in it."""
    part = part_of(nix, tree, "tested")
    names = ["test_versions", "test_packaging"]  # They need no PyTorch.
    if importlib.util.find_spec("torch"):
        names += ["test_commands", "test_docs"]
    tests = [str(part / "tests" / "packaging" / f"{name}.py") for name in names]
    command = [sys.executable, "-m", "pytest", "--noconftest", "-q", *tests]
    options = ["-p", "no:cacheprovider", f"--basetemp={tree.parent / 'inner'}"]
    options += ["-k", "not one_liners"]  # They need the compiled libraries.
    done = subprocess.run(
        [*command, *options, f"--rootdir={part}"],
        env={**os.environ, "PYTHONPATH": str(part), "PYTHONDONTWRITEBYTECODE": "1"},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout


def environment_of(nix: Any, derivation: str) -> dict[str, str]:
    """Return the variables that a derivation's builder gets."""
    described = json.loads(nix.run("nix", "show-derivation", derivation))
    variables: dict[str, str] = described[derivation]["env"]
    return variables


def smoke_test(nix: Any, tree: Path, tmp_path: Path) -> str:
    """Run our package's checkPhase as the stand-in does, on a package that tells."""
    outputs = nix_flake.evaluate(nix, tree)
    built = outputs["packages"]["x86_64-linux"]["orchard-ops-torch24"]
    source = tmp_path / "in" / "orchard_ops"
    for where, says in (
        (source, "the source"),
        (tmp_path / "out" / "site" / "orchard_ops", "the installed package"),
    ):
        where.mkdir(parents=True)
        (where / "__init__.py").touch()
        (where / "cli.py").write_text(f"print('{says}')")
    # Builds and installs nothing: that has been done.
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    stub = f'case "$2" in build|pip) exit 0;; esac\nexec {sys.executable} "$@"'
    python.write_text(f"#!/bin/sh\n{stub}\n")
    python.chmod(0o755)
    names = {
        **{"src": str(source.parent), "out": str(tmp_path / "out"), "pyproject": "1"},
        **{"sitePackages": "site", "hostPython": str(python), "TMPDIR": str(tmp_path)},
        **dict.fromkeys(("pythonPath", "pypaBuildFlags", "postInstall"), ""),
        "PATH": os.environ["PATH"],
        "pythonImportsCheck": "orchard_ops",
        "checkPhase": environment_of(nix, built)["checkPhase"],
    }
    builder = ROOT / nix_flake.STAND_IN / "builder.sh"
    done = subprocess.run(
        ["bash", builder], env=names, cwd=tmp_path, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_nix
def test_the_smoke_test_tries_what_is_installed(
    nix: Any, tree: Path, tmp_path: Path
) -> None:
    """In nixpkgs checkPhase runs in the source's root: it has to leave that."""
    assert smoke_test(nix, tree, tmp_path / "ours") == "the installed package"
    replace(tree / "nix" / "package.nix", 'cd "$HOME" && ', "")
    assert smoke_test(nix, tree, tmp_path / "there") == "the source"


@needs_nix
def test_the_check_of_the_tests_downloads_nothing(nix: Any, tree: Path) -> None:
    """The sandbox has no network: metal-cpp's headers come from the store."""
    outputs = nix_flake.evaluate(nix, tree)
    for system in ("x86_64-linux", "aarch64-linux"):
        script = environment_of(nix, outputs["checks"][system]["tests"])["buildCommand"]
        assert re.search(r"ORCHARD_METAL_CPP_DIR=\S+-metal-cpp-", script)
        assert re.search(r"ORCHARD_LIBRARY_DIR=\S+/orchard_ops\n", script)


@needs_nix
def test_the_command_comes_with_what_it_imports(nix: Any, tree: Path) -> None:
    """Whoever installs the package alone can start its mainProgram."""
    outputs = nix_flake.evaluate(nix, tree)
    for system, names in outputs["packages"].items():
        built = environment_of(nix, names["default"])
        for need in project.table("pyproject.toml")["project"]["optional-dependencies"][
            "cli"
        ]:
            name = need.partition(">")[0]
            assert re.search(rf"-{name}\b", built["propagated"]), (system, name)


def requisites(nix: Any, derivation: str) -> str:
    """Return all that a derivation is built of, one a line."""
    found: str = nix.run("nix-store", "--query", "--requisites", derivation)
    return found


@needs_nix
def test_nixpkgs_zig_is_taken_where_it_is_the_version(nix: Any, tree: Path) -> None:
    """No wheel of zig is fetched then; another version of nixpkgs' is not used."""
    stand_in = tree / nix_flake.STAND_IN / "default.nix"
    for version, has_wheel in (("0.14.1", False), ("0.14.0", True)):
        outputs = nix_flake.evaluate(nix, tree)
        needs = requisites(nix, outputs["packages"][SYSTEM]["default"])
        assert ("-ziglang-0.14.1-py3" in needs) == has_wheel, version
        if not has_wheel:
            replace(stand_in, '"0.14.1"', '"0.14.0"')


@needs_nix
def test_nixpkgs_own_pytorch_is_taken(nix: Any, tree: Path) -> None:
    """`packages.orchard-ops`, and any Python's with the overlay, fetch no PyTorch."""
    outputs = nix_flake.evaluate(nix, tree)
    for output, name in (
        ("packages", "orchard-ops"),
        ("overlay", "python3.pkgs.orchard-ops"),
    ):
        needs = requisites(nix, outputs[output][SYSTEM][name])
        assert re.search(r"-torch\.drv$", needs, re.M)
        assert not re.search(r"-torch-.*\.whl\.drv$", needs, re.M)


@needs_nix
def test_other_peoples_python_packages_stay(nix: Any, tree: Path) -> None:
    """What was put into a Python before is not thrown out with our own."""
    assert nix_flake.evaluate(nix, tree)["overlay"][SYSTEM]
    replace(
        tree / "nix" / "default.nix",
        "lib.composeExtensions (old.packageOverrides or (_: _: { })) more",
        "more",
    )
    with pytest.raises(nix_flake.FlakeError, match="ours-too"):
        nix_flake.evaluate(nix, tree)


@needs_nix
def test_an_older_scikit_build_core_reads_the_project(nix: Any, tree: Path) -> None:
    """Nixpkgs of 25.05's time had 0.10.7, which knows the older form of a licence."""
    outputs = nix_flake.evaluate(nix, tree)
    built = environment_of(nix, outputs["packages"]["x86_64-linux"]["default"])
    builder = ROOT / nix_flake.STAND_IN / "builder.sh"
    head = builder.read_text().partition("if [ -n")[0]
    done = subprocess.run(
        ["bash", "-c", f"TMPDIR=/tmp\n{head}\n{built['postPatch']}"],
        cwd=tree,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    table = project.table("pyproject.toml", tree)
    assert table["project"]["license"] == {"text": "MIT"}
    assert "license-files" not in table["project"]
    assert table["tool"]["scikit-build"]["minimum-version"] == "0.10"
    stand_in = tree / nix_flake.STAND_IN / "python.nix"
    replace(stand_in, '"0.10.7"', '"0.11.5"')
    outputs = nix_flake.evaluate(nix, tree)
    built = environment_of(nix, outputs["packages"]["x86_64-linux"]["default"])
    assert built["postPatch"] == ""


@needs_nix
def test_an_unfree_wheel_is_let_through_by_name(nix: Any, tree: Path) -> None:
    """PyTorch for x86-64 holds Intel's MKL, which nixpkgs refuses unless told."""
    replace(tree / "flake.nix", "config.allowUnfreePredicate", "config.unread")
    with pytest.raises(nix_flake.FlakeError, match="torch has an unfree license"):
        nix_flake.evaluate(nix, tree)


@needs_nix
def test_the_shell_has_pythons_nox(nix: Any, tree: Path) -> None:
    """Plain `nox` of nixpkgs is nix-nox."""
    shell = tree / "nix" / "shell.nix"
    replace(shell, "  python3Packages,\n", "  nox,\n")
    replace(shell, "python3Packages.nox", "nox")
    with pytest.raises(nix_flake.FlakeError, match="nox is nix-nox"):
        nix_flake.evaluate(nix, tree)


@needs_nix
def test_notices_a_lock_of_another_input(nix: Any, tree: Path) -> None:
    """An input that was changed without the lock is an error, not a download."""
    replace(tree / "flake.nix", "nixos-25.05", "nixos-24.11")
    with pytest.raises(nix_flake.FlakeError):
        nix_flake.check_lock(nix, tree)


def wheel_by_hash(digest: str) -> tuple[str, ...]:
    """Return the command that takes a wheel as the flake would."""
    stand_in = ROOT / nix_flake.STAND_IN
    expression = f"""
      (import {stand_in} {{ system = "x86_64-linux"; }}).fetchPypi {{
        pname = "torch"; version = "1.0"; format = "wheel"; dist = "cp311";
        python = "cp311"; abi = "none"; platform = "any"; hash = "{digest}";
      }}"""
    return ("nix", "build", "--no-link", "--impure", "--expr", expression)


@needs_nix
def test_a_wheel_enters_a_build_by_its_hash_alone(nix: Any, tmp_path: Path) -> None:
    """The right hash finds the wheel in the store; another finds nothing."""
    wheel = tmp_path / "torch-1.0-cp311-none-any.whl"
    wheel.write_bytes(b"a wheel")
    right = nix.run("nix", "hash", "file", "--sri", wheel).strip()
    nix.run("nix-store", "--add-fixed", "sha256", wheel)
    nix.run(*wheel_by_hash(right))
    wrong = right[:7] + ("B" if right[7] == "A" else "A") + right[8:]
    with pytest.raises(nix_flake.FlakeError, match="not-in-the-store"):
        nix.run(*wheel_by_hash(wrong))


def fake_report(wheel: Any) -> dict[str, Any]:
    """Answer as pip would, were the file's own hashes those of the wheels."""
    pin = nix_wheels.flat(json.loads(nix_wheels.TABLE.read_text()))[wheel]
    name = "-".join([wheel.project, wheel.version, pin["python"], pin["abi"]])
    digest = base64.b64decode(pin["hash"].removeprefix("sha256-")).hex()
    return {
        "url": f"https://index/{name}-{pin['platform']}.whl",
        "archive_info": {"hashes": {"sha256": digest}},
    }


@pytest.mark.parametrize("breakage", ["none", "wrong", "missing", "needless"])
def test_verifies_every_hash(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    breakage: str,
) -> None:
    """A wrong, missing or needless entry makes the check fail, and is named."""
    monkeypatch.setattr(nix_wheels, "ask_pip", fake_report)
    table = json.loads(nix_wheels.TABLE.read_text())
    pins = table["torch"][TORCH][SYSTEM]
    if breakage == "wrong":
        pins["3.11"]["hash"] = pins["3.10"]["hash"]
    elif breakage == "missing":
        del pins["3.11"]
    elif breakage == "needless":
        pins["3.8"] = pins["3.10"]
    path = tmp_path / "wheels.json"
    path.write_text(json.dumps(table))
    monkeypatch.setattr(sys, "argv", ["nix_wheels", "--check", "--table", str(path)])
    if breakage == "none":
        nix_wheels.main()
        count = len(list(nix_wheels.needed(project.versions())))
        assert f"all {count} hashes" in capsys.readouterr().out
        return
    with pytest.raises(SystemExit, match=f"torch {TORCH} {SYSTEM} 3.(11|8): expected"):
        nix_wheels.main()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("\tx = 1;", "pairs of spaces"),
        ("   x = 1;", "pairs of spaces"),
        ("  x = 1; ", "pairs of spaces"),
        ("  " + "x" * 100, "more than 100"),
    ],
)
def test_names_a_misformatted_line(tmp_path: Path, line: str, message: str) -> None:
    """Tabs, odd indents, trailing spaces and long lines are named by line."""
    (tmp_path / "some.nix").write_text(f"{{\n{line}\n}}\n")
    (found,) = nix_flake.misformatted(tmp_path)
    assert found.startswith("some.nix:2")
    assert message in found


def test_says_what_to_install_without_nix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without nix is told how to get it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(nix_flake.FlakeError, match="apt-get install nix-bin"):
        nix_flake.Nix(tmp_path / "nix")


SMALL = """
{{
  inputs.nixpkgs.url = "nixpkgs";
  outputs = {{ nixpkgs, self }}: {{
    small = derivation {{
      name = "small";
      system = "{system}";
      builder = "/bin/bash";
      args = [ "-c" "echo {text} > $out; exit 0" ];
    }};
  }};
}}
"""


@pytest.mark.parametrize(
    ("text", "words"), [("same", None), ("$RANDOM$RANDOM$RANDOM", "-small: byte ")]
)
def test_a_second_build_with_other_bytes_is_named(
    nix: Any, tree: Path, text: str, words: str | None
) -> None:
    """`--twice` builds an output again, and names the first difference."""
    system = nix_flake.with_host(tree)
    (tree / "flake.nix").write_text(SMALL.format(system=system, text=text))
    (tree / "flake.lock").unlink()
    attribute = f"path:{tree}#small"
    nix.flake("build", "--no-link", attribute, tree=tree)
    built = Path(nix.flake("eval", "--raw", attribute, tree=tree))
    if words is None:
        nix_flake.rebuild(nix, tree, attribute, built)
        return
    with pytest.raises(nix_flake.FlakeError, match=words):
        nix_flake.rebuild(nix, tree, attribute, built)
