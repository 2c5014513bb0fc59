"""Packages have the same bytes each time, and what differs is named.

`nox -s reproduce` runs this too, with the checker of SBOMs installed.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from paths import ROOT

WHEN = 1_700_000_000
INFO = "orchard_ops-0.1.0.dist-info"
FILES = {
    f"{INFO}/WHEEL": (b"Wheel-Version: 1.0\n", False),
    f"{INFO}/licenses/LICENSE": (b"MIT", False),
    "orchard_ops/_C.so": (b"\x7fELF" + bytes(100), True),
    "orchard_ops/__init__.py": (b"", False),
}


@pytest.fixture(autouse=True)
def _no_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)


def source(folder: Path, text: str) -> Path:
    """Write the file of a source tree that may know its time."""
    (folder / "cmake").mkdir(parents=True)
    (folder / "cmake" / "source_date.txt").write_text(text)
    return folder


def test_the_time_is_that_of_the_commit(tmp_path: Path) -> None:
    """A commit knows its time; what came without one has it in a file."""
    import source_date

    tree = source(tmp_path, f"{WHEN}\n")
    assert source_date.epoch(tree) == WHEN
    git = ["git", "-C", str(tree), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    environment = {**os.environ, "GIT_COMMITTER_DATE": f"{WHEN + 5} +0000"}
    commit = [*git, "commit", "-q", "--allow-empty", "-m", "one"]
    subprocess.run(commit, check=True, env=environment)
    assert source_date.epoch(tree) == WHEN + 5


def test_another_repository_around_it_is_not_asked(tmp_path: Path) -> None:
    """A source distribution that lies in some repository keeps its own time."""
    import source_date

    (tmp_path / ".git").mkdir()
    assert source_date.epoch(source(tmp_path / "inner", f"{WHEN}\n")) == WHEN


def test_an_unknown_time_is_the_oldest(tmp_path: Path) -> None:
    """What `git archive` has not filled in is no time; a zip file begins in 1980."""
    import source_date

    tree = source(tmp_path, (ROOT / "cmake" / "source_date.txt").read_text())
    known = source_date.recorded(ROOT)  # In a source distribution.
    assert source_date.epoch(tree) == (known or source_date.OLDEST)
    (tree / "cmake" / "source_date.txt").write_text("5\n")
    assert source_date.epoch(tree) == source_date.OLDEST


def test_the_environment_has_the_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SOURCE_DATE_EPOCH is what distributions set."""
    import source_date

    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(WHEN + 9))
    assert source_date.epoch(source(tmp_path, f"{WHEN}\n")) == WHEN + 9


def packed(path: Path, names: list[str], mode: int, year: int) -> Path:
    """Write a wheel as some build would: its own order, times and modes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0))
            can_run = 0o111 if FILES[name][1] else 0
            entry.external_attr = (0o100000 | mode | can_run) << 16
            archive.writestr(entry, FILES[name][0])
    return path


def test_a_wheel_is_the_same_whatever_the_build_did(tmp_path: Path) -> None:
    """Order, times and modes are ours; RECORD is whole and last."""
    import archives
    import compare
    import contents

    names = list(FILES)
    first = packed(tmp_path / "a.whl", names, 0o644, 2020)
    second = packed(tmp_path / "b.whl", names[::-1], 0o600, 2024)
    assert compare.difference(first, second)
    for path in (first, second):
        archives.write_wheel(path, archives.read_wheel(path), WHEN)
    assert first.read_bytes() == second.read_bytes()
    assert contents.record_problems(contents.read_wheel(first)) == []
    with zipfile.ZipFile(first) as archive:
        last = archive.infolist()[-1]
        assert last.filename == f"{INFO}/RECORD"
        assert last.date_time == time.gmtime(WHEN)[:6]


def test_one_changed_byte_is_found(tmp_path: Path) -> None:
    """RECORD, what checks a release and the comparer name the file."""
    import archives
    import compare
    import contents
    from release import checks

    right, path = tmp_path / "right", tmp_path / "orchard_ops-0.1.0-a-b-c.whl"
    archives.write_wheel(right, FILES, WHEN)
    files, library = contents.read_wheel(right), "orchard_ops/_C.so"
    changed = files[library][:50] + b"\x01" + files[library][51:]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in zipfile.ZipFile(right).infolist():
            data = changed if each.filename == library else files[each.filename]
            archive.writestr(each, data)
    said = f"{library}: RECORD has another digest or none"
    assert contents.record_problems(files) == []
    assert contents.record_problems(contents.read_wheel(path)) == [said]
    assert f"{path.name}: {said}" in list(checks.archive_problems(path, ROOT))
    found = compare.difference(right, path)
    assert found == f"right: {library}: byte 50 is 0x00, then 0x01"


def tarred(when: int, data: bytes) -> bytes:
    """Return a source distribution of one file, made at some time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("orchard_ops-0.1.0/cmake/source_date.txt")
        entry.size, entry.mtime = len(data), when
        archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(out.getvalue(), mtime=when)


def test_a_source_distribution_knows_its_time(tmp_path: Path) -> None:
    """What is built from it, without a repository, has that time too."""
    import archives
    import source_date

    one, other = tmp_path / "a.tar.gz", tmp_path / "b.tar.gz"
    one.write_bytes(tarred(1, b"$Format:%ct$\n"))
    other.write_bytes(tarred(2, b"$Format:%ct$\n"))
    for path in (one, other):
        archives.settle_sdist(path, WHEN)
    assert one.read_bytes() == other.read_bytes()
    with tarfile.open(one) as archive:
        archive.extractall(tmp_path)
    assert source_date.epoch(tmp_path / "orchard_ops-0.1.0") == WHEN


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (
            tarred(1, b"a"),
            tarred(1, b"b"),
            "source_date.txt: byte 0 is 0x61, then 0x62",
        ),
        (tarred(1, b"a"), tarred(1, b"ab"), "byte 1 is the end, then 0x62"),
        (tarred(1, b"a"), tarred(2, b"a"), "time 1, mode"),
        (b"plain", b"plan", "byte 3 is 0x69, then 0x6e"),
    ],
)
def test_a_difference_is_named(
    tmp_path: Path, first: bytes, second: bytes, words: str
) -> None:
    """The file and the byte, as deep as archives are nested."""
    import compare

    (tmp_path / "a").write_bytes(first)
    (tmp_path / "b").write_bytes(second)
    assert words in str(compare.difference(tmp_path / "a", tmp_path / "b"))
    assert compare.difference(tmp_path / "a", tmp_path / "a") is None


def test_folders_are_compared(tmp_path: Path) -> None:
    """Names, modes and links count."""
    import compare

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("same")
    assert compare.difference(tmp_path / "a", tmp_path / "b") is None
    (tmp_path / "b" / "file").chmod(0o755)
    assert "file: mode 100" in str(compare.difference(tmp_path / "a", tmp_path / "b"))
    (tmp_path / "b" / "file").rename(tmp_path / "b" / "other")
    found = compare.difference(tmp_path / "a", tmp_path / "b")
    assert found == "a: the first has file, the second other"


def test_an_sbom_says_what_is_inside() -> None:
    """The same text each time, with every part and its licence."""
    import sbom

    parts = [sbom.pytorch("2.4.1"), sbom.metal_cpp("0.32.4"), sbom.pybind11(None)]
    made = [
        sbom.document("orchard-ops", "0.1.0", WHEN, order, [("zig", "0.14.1")])
        for order in (parts, parts[::-1])
    ]
    assert made[0] == made[1]
    read = json.loads(made[0])
    assert read["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
    assert {part["purl"] for part in read["components"]} == {
        *("pkg:pypi/torch@2.4.1", "pkg:pypi/mlx-metal@0.32.4", "pkg:pypi/pybind11"),
    }
    assert len(read["metadata"]["component"]["licenses"]) == 2
    assert made[0] != sbom.document("orchard-ops", "0.1.1", WHEN, parts)


def test_an_sbom_follows_from_the_files() -> None:
    """Only the simulator's module has pybind11, and only a Mac's device metal-cpp."""
    import sbom

    def names(*files: str) -> list[str]:
        return [part.name for part in sbom.compiled_in(files, ["2.4.1", "2.13.0"], "1")]

    assert names("orchard_ops/_C.torch2.4.so") == ["torch", "torch"]
    assert "pybind11" in names("orchard_ops/_sim.cpython-311-x86_64-linux-gnu.so")
    assert "metal-cpp" in names("orchard_ops/liborchard_device.dylib")


def test_an_sbom_is_valid() -> None:
    """CycloneDX's own schema has nothing against it."""
    pytest.importorskip("cyclonedx", reason="nox -s reproduce has the schema")
    import sbom
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    parts = [sbom.pytorch("2.4.1"), sbom.metal_cpp(None), sbom.pybind11("3.1.0")]
    text = sbom.document("orchard-ops", "0.1.0", WHEN, parts, [("zig", "0.14.1")])
    assert validator.validate_str(text.decode()) is None
    broken = text.replace(b'"Apache-2.0"', b'"Apache 2"')
    assert validator.validate_str(broken.decode()) is not None
