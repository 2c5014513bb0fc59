"""A release is checked: each thing that is broken in a copy is named."""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import project
import pytest
from edits import replace
from paths import ROOT

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="the tools run on Python 3.11 or newer"
)
VERSION = "0.1.0"
INFO = f"orchard_ops-{VERSION}.dist-info"
SDIST = f"orchard_ops-{VERSION}.tar.gz"
ADDRESS = "https://example.org/orchard-ops"
WHEEL = f"orchard_ops-{VERSION}-py3-none-macosx_13_0_arm64.whl"
LINUX = f"orchard_ops-{VERSION}-cp311-cp311-manylinux_2_28_x86_64.whl"
CONDA = f"conda/osx-arm64/orchard-ops-{VERSION}-torch24_macos130_h0_0.conda"
READ = (
    *("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"),
    *("versions.toml", "recipe/recipe.yaml", "recipe/build.sh", "recipe/smoke.py"),
    *("nix/package.nix", "orchard_ops/_native.py"),
)


def metadata(root: Path) -> str:
    """Return metadata as a backend writes it from pyproject.toml."""
    told = project.table("pyproject.toml", root)["project"]
    lines = [
        *("Metadata-Version: 2.4", f"Name: {told['name']}"),
        *(f"Version: {told['version']}", f"Summary: {told['description']}"),
        *("License-Expression: MIT", "License-File: LICENSE"),
        f"Requires-Python: {told['requires-python']}",
        "Description-Content-Type: text/markdown",
        *(f"Project-URL: {n}, {at}" for n, at in told.get("urls", {}).items()),
        *(f"Classifier: {name}" for name in told["classifiers"]),
        *(f"Provides-Extra: {name}" for name in told["optional-dependencies"]),
    ]
    readme = (root / "README.md").read_text(encoding="utf-8")
    return "\n".join(lines) + "\n\n" + readme


def write_sdist(dist: Path, root: Path, text: str) -> None:
    """Write a source distribution that has what is checked."""
    files = {"PKG-INFO": text.encode(), "LICENSE": (root / "LICENSE").read_bytes()}
    with tarfile.open(dist / SDIST, "w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"orchard_ops-{VERSION}/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def write_wheel(dist: Path, root: Path, text: str, name: str = WHEEL) -> None:
    """Write a wheel that has what is checked."""
    import archives

    folder = dist / ("macos" if "macosx" in name else "linux")
    folder.mkdir(exist_ok=True)
    files = {
        f"{INFO}/METADATA": (text.encode(), False),
        f"{INFO}/WHEEL": (b"Wheel-Version: 1.0\n", False),
        f"{INFO}/licenses/LICENSE": ((root / "LICENSE").read_bytes(), False),
    }
    archives.write_wheel(folder / name, files, 1_700_000_000)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a copy of what a release's checks read."""
    for name in READ:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "tree" / name)
    # The project has no address yet; a released one has.
    path = tmp_path / "tree" / "pyproject.toml"
    urls = f'[project.urls]\nHomepage = "{ADDRESS}"\n\n[project.scripts]\n'
    path.write_text(path.read_text().replace("[project.scripts]\n", urls))
    return tmp_path / "tree"


@pytest.fixture
def dist(tree: Path) -> Path:
    """Return a folder of a release with nothing wrong."""
    pytest.importorskip("yaml", reason="the release session has it")
    from release import make

    made = tree / "dist"
    (made / CONDA).parent.mkdir(parents=True)
    (made / CONDA).write_bytes(b"a package")
    write_sdist(made, tree, metadata(tree))
    write_wheel(made, tree, metadata(tree))
    write_wheel(made, tree, metadata(tree), LINUX)
    assert make.finish(made, tree, ADDRESS, ["somebody"]) == []
    return made


def test_a_linux_wheel_for_each_python_is_asked_for(dist: Path) -> None:
    """Those that the machine has no Python for are named."""
    from release import checks

    found = list(checks.python_problems(dist))
    others = [v for v in project.versions()["package"]["python"] if v != "3.11"]
    assert [name for name in others if f"Python {name}," not in "".join(found)] == []
    assert len(found) == len(others)


def test_a_good_release_passes(tree: Path, dist: Path) -> None:
    """The tree as it is, and packages that say what it says."""
    from release import checks

    assert checks.tree_problems(ROOT, is_final=False) == []
    assert checks.dist_problems(dist, tree) == []
    notes = (dist / "notes.md").read_text(encoding="utf-8")
    assert f"# orchard-ops {VERSION}" in notes
    assert "forward and backward Metal kernels" in notes
    assert WHEEL in notes
    sums = (dist / checks.SUMS).read_text(encoding="utf-8")
    assert [row.split("  ")[1] for row in sums.splitlines()] == sorted(
        [SDIST, WHEEL, LINUX, Path(CONDA).name]
    )


@pytest.mark.parametrize(
    ("name", "old", "new", "sentence"),
    [
        (
            "orchard_ops/_native.py",
            "import shlex\n",
            f'import shlex\n__version__ = "{VERSION}"\n',
            f"orchard_ops/_native.py: states the version {VERSION} itself",
        ),
        (
            "CITATION.cff",
            f"version: {VERSION}",
            "version: 0.2.0",
            "CITATION.cff: ",
        ),
        (
            "recipe/recipe.yaml",
            f'version: "{VERSION}"',
            'version: "0.2.0"',
            "recipe/recipe.yaml: expected version 0.1.0",
        ),
        ("LICENSE", "MIT License", "", "LICENSE: expected the text of the MIT licence"),
        (
            "CHANGELOG.md",
            f"## {VERSION} (",
            "## 0.0.9 (",
            f"CHANGELOG.md: expected a section `## {VERSION} (date)`",
        ),
    ],
)
def test_a_broken_tree_is_named(
    tree: Path, name: str, old: str, new: str, sentence: str
) -> None:
    """A second version, a missing licence, a changelog without the section."""
    from release import checks

    replace(tree / name, old, new)
    found = checks.tree_problems(tree, is_final=False)
    assert len(found) == 1
    assert sentence in found[0]


def test_a_changelog_with_nothing_in_it_is_named(tree: Path) -> None:
    """A heading alone is no notes."""
    from release import checks

    (tree / "CHANGELOG.md").write_text(f"# Changelog\n\n## {VERSION} (unreleased)\n")
    found = checks.tree_problems(tree, is_final=False)
    assert found == [f"CHANGELOG.md: the section of {VERSION} is empty"]


def test_a_release_has_a_date_and_its_tag(tree: Path) -> None:
    """What a dry run lets through a release does not."""
    from release import checks

    (tree / "CHANGELOG.md").write_text(f"## {VERSION} (unreleased)\n\n- New.\n")
    found = "\n".join(checks.tree_problems(tree, is_final=True))
    assert "expected the release's date (2026-12-31), came (unreleased)" in found
    assert f"expected the tag v{VERSION} at this commit" in found


def missing_licence(dist: Path, _: Path) -> None:
    """Take our licence out of the wheel."""
    path = dist / "macos" / WHEEL
    with zipfile.ZipFile(path) as archive:
        text = archive.read(f"{INFO}/METADATA")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{INFO}/METADATA", text)


def rewritten(old: str, new: str) -> Callable[[Path, Path], None]:
    """Return what changes a line of the wheel's metadata."""

    def change(dist: Path, tree: Path) -> None:
        text = metadata(tree)
        assert old in text
        write_wheel(dist, tree, text.replace(old, new, 1))

    return change


def local_version(dist: Path, tree: Path) -> None:
    """Add a wheel whose version names a PyTorch."""
    name = WHEEL.replace(VERSION, f"{VERSION}+torch2.4")
    write_wheel(dist, tree, metadata(tree), name)


def for_one_machine(dist: Path, tree: Path) -> None:
    """Add a wheel for no system that PyPI knows."""
    name = f"orchard_ops-{VERSION}-cp311-cp311-linux_x86_64.whl"
    write_wheel(dist, tree, metadata(tree), name)


def one_byte(dist: Path, _: Path) -> None:
    """Change a byte of a package after its hash was written."""
    (dist / CONDA).write_bytes(b"a packagf")


def one_byte_of_a_wheel(dist: Path, _: Path) -> None:
    """Change a byte inside a wheel after its RECORD was written."""
    path = dist / "macos" / WHEEL
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files[f"{INFO}/WHEEL"] = b"Wheel-Version: 1.1\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def no_sums(dist: Path, _: Path) -> None:
    """Take a line out of SHA256SUMS."""
    path = dist / "SHA256SUMS"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def no_wheel(dist: Path, _: Path) -> None:
    """Build no wheel for macOS."""
    (dist / "macos" / WHEEL).unlink()


def no_linux(dist: Path, _: Path) -> None:
    """Build no wheel for Linux."""
    (dist / "linux" / LINUX).unlink()


BREAKAGES: list[tuple[Callable[[Path, Path], None], str]] = [
    (missing_licence, f"{WHEEL}: our LICENSE is missing"),
    (rewritten("Summary: Flash", "Summary: Fast"), "metadata Summary: expected 'Flash"),
    (rewritten("-Python: >=3.9", "-Python: >=3"), "metadata Requires-Python: expected"),
    (rewritten("# ", "## "), "metadata description: expected README.md"),
    (rewritten("text/markdown", "text/plain"), "metadata Description-Content-Type"),
    (rewritten("Expression: MIT", "Expression: GPL"), "metadata License-Expression"),
    (rewritten("Provides-Extra: cli\n", ""), "metadata Provides-Extra: expected"),
    (rewritten(f"Version: {VERSION}", "Version: 1.0"), "metadata Version: expected"),
    (local_version, f"PyPI refuses a local version ({VERSION}+torch2.4)"),
    (for_one_machine, "PyPI refuses the platform linux_x86_64"),
    (one_byte, f"SHA256SUMS: the line of {Path(CONDA).name} does not fit its file"),
    (one_byte_of_a_wheel, f"{INFO}/WHEEL: RECORD has another digest"),
    (no_sums, "SHA256SUMS: the line of orchard-ops-0.1.0-torch24"),
    (no_wheel, "dist: expected a wheel for macOS, found none"),
    (no_linux, "dist: expected a wheel for Linux, found none"),
]


@pytest.mark.parametrize(("break_it", "sentence"), BREAKAGES)
def test_a_broken_package_is_named(
    tree: Path, dist: Path, break_it: Callable[[Path, Path], None], sentence: str
) -> None:
    """A licence, a field, a name, a hash, a whole file: each has its sentence."""
    from release import checks

    break_it(dist, tree)
    assert sentence in "\n".join(checks.dist_problems(dist, tree))


def submissions(dist: Path) -> tuple[Path, Path]:
    """Return the recipe and the package that are submitted."""
    from release import submission

    out = dist / "submission"
    return out / submission.FORGE / "recipe.yaml", out / submission.NIXPKGS


def test_the_submissions_name_the_released_archive(dist: Path) -> None:
    """By its address and its hash, in each channel's way of writing it."""
    from release import submission

    recipe, package = (path.read_text() for path in submissions(dist))
    digest = project.digest(dist / SDIST)
    assert f"sha256: {digest}\n" in recipe
    assert "path: .." not in recipe
    assert f"url: {ADDRESS}/orchard_ops-" in recipe
    assert "    - somebody\n" in recipe
    assert f'hash = "{submission.sri(digest)}"' in package
    assert "maintainers; [ somebody ]" in package


FORGE_BREAKAGES: list[tuple[str, str, str]] = [
    ("  homepage: ", "  home: ", "R-002: about has homepage"),
    ("    - somebody\n", "", "R-003, R-004"),
    (f"homepage: {ADDRESS}", "homepage: ADDRESS", "addresses"),
    (f"url: {ADDRESS}", "url: ADDRESS", "addresses"),
    ("    sha256: ", "    md5: ", "R-019"),
    ("      sha256: ", "      md5: ", "R-019"),
    ('    - ${{ stdlib("c") }}\n', "", "R-033"),
    ("    - rich >=13", "    - rich>=13", "R-022"),
    ("    - rich >=13", "    - rich >= 13", "R-021"),
    ("\nrequirements:", "\nrequires:", "R-000, R-001"),
    ("${{ version }}\n", "${{version}}\n", "R-025"),
    ("  license_file:", "  licence_file:", "R-013"),
]


@pytest.mark.parametrize(("old", "new", "rule"), FORGE_BREAKAGES)
def test_a_recipe_against_conda_forges_rules_is_named(
    dist: Path, old: str, new: str, rule: str
) -> None:
    """Each rule by the number that conda-smithy gives it."""
    from release import lint

    path, _ = submissions(dist)
    replace(path, old, new)
    found = lint.recipe_problems(path.parent)
    assert [sentence for sentence in found if rule in sentence], found


NIX_BREAKAGES: list[tuple[str, str, str]] = [
    ("    runHook preCheck\n", "", "missing-phase-hooks"),
    ("    maintainers = ", "    maintainer = ", "maintainers-missing"),
    ("  pythonImportsCheck = ", "  pythonImportCheck = ", "python-imports-check-typo"),
    (f'homepage = "{ADDRESS}', 'homepage = "ADDRESS', "addresses"),
    ("  env.SKBUILD", "  SKBUILD", "environment-variables-go-to-env"),
    ("  checkPhase = ", "  installPhase = ", "no phase but check"),
    ('description = "Flash', 'description = "A flash', "no article"),
    (
        "    apple-sdk_14\n",
        "    apple-sdk_14\n    cmake\n",
        "build-tools-in-build-inputs",
    ),
    ('  version = "', '  name = "', "name-and-version"),
]


@pytest.mark.parametrize(("old", "new", "rule"), NIX_BREAKAGES)
def test_a_package_against_nixpkgs_rules_is_named(
    dist: Path, old: str, new: str, rule: str
) -> None:
    """Each rule by the name that nixpkgs-hammering gives it."""
    from release import lint

    _, path = submissions(dist)
    assert lint.package_problems(path.read_text()) == []
    replace(path, old, new)
    found = lint.package_problems(path.read_text())
    assert [sentence for sentence in found if rule in sentence], found


def test_a_changed_source_stops_the_submission(tree: Path, dist: Path) -> None:
    """What is to be replaced must stand there once."""
    from release import submission

    path = tree / "recipe" / "recipe.yaml"
    path.write_text(path.read_text().replace("  path: ..\n", "  path: ../..\n"))
    with pytest.raises(project.Failure, match=r"path: \.\."):
        submission.write(tree, dist / SDIST, dist / "again", ADDRESS, [])


def test_the_release_workflow_publishes_what_was_checked() -> None:
    """One build is checked and attested, and only then are its files published."""
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    uses = [line.split("uses: ")[1] for line in text.splitlines() if "uses: " in line]
    assert all(len(use.split("@")[1].split(" ")[0]) == 40 for use in uses), uses
    jobs: dict[str, Any] = {}
    for line in text.partition("\njobs:\n")[2].splitlines():
        if line.startswith("  ") and line[2:3].isalpha():
            name = line.strip(" :")
            jobs[name] = ""
        elif jobs:
            jobs[name] += line + "\n"
    assert "nox -s release -- --final" in jobs["build"]
    for name in ("pypi", "github"):
        assert "loads" in jobs[name].partition("needs:")[2].partition("\n")[0]
    assert "id-token: write" in jobs["pypi"]
    assert "id-token: write" not in jobs["build"]
    assert "contents: write" not in jobs["pypi"]
