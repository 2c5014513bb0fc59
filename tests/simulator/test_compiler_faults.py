"""What goes wrong around the simulator's compiler and cache, and that it ends well.

After each fault there is an error that says what to do, no half of a file, and the next
process works.
"""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from needs import skip_without_metalsim

from orchard_ops import sim
from orchard_ops._child import python

skip_without_metalsim("simulator")

SEVEN = "kernel void f(device float* y [[buffer(0)]]) { y[0] = 7; }"
PROGRAM = f"""
import numpy as np
from orchard_ops import sim
y = np.zeros(1, np.float32)
sim.compile({SEVEN!r}, "f").dispatch([y], 1, 1)
print(y[0])
"""
WORKS = (0, "7.0")
SAVED = "saved"  # beside the caches: a full one
LIMIT = 300.0  # seconds; what a test waits for at most


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which caches are made, each at the same path.

    A precompiled header, which takes longest to make, knows its path.
    """
    return tmp_path_factory.mktemp("caches")


@pytest.fixture
def cache(place: Path) -> Path:
    """Return a cache that is not there yet."""
    for left in place.iterdir():
        if left.name == SAVED:
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()
    return place / "cache"


def start(cache: Path, **more: Any) -> subprocess.Popen[str]:
    """Start a process that compiles a kernel and runs it."""
    limit = more.pop("largest_file", None)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        python(PROGRAM),
        env={**os.environ, "ORCHARD_CACHE_DIR": str(cache),
             "ORCHARD_TORCH": "never", **more},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=None if limit is None else limited,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return a process's status, and its last line."""
    out, said = process.communicate(timeout=LIMIT)
    return process.returncode, (out if not process.returncode else said).strip()


def run(cache: Path, **more: Any) -> tuple[int, str]:
    """Return the status of such a process, and what it says."""
    return ended(start(cache, **more))


def scratch(cache: Path) -> list[Path]:
    """Return what is left of a compilation."""
    return [*cache.glob("build-*")]


def script(path: Path, text: str) -> str:
    """Return the command of a compiler that a shell script is."""
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o700)
    return str(path)


def real() -> str:
    """Return the command of a compiler that works, as scripts call it."""
    program, *words = sim.compiler()
    return shlex.join([program, *(["clang"] if words == ["c++"] else words)])


COMPILERS = {
    "missing": ("", "No such file"),
    "failing": ("echo broken >&2; exit 3", "broken"),
    "crashing": ("kill -SEGV $$", "expected a compiler"),
    "silent": ("exit 0", "simulator: "),
    "failing-later": (
        '[ "$1" = --version ] && exec {real} "$@"; echo broken; exit 1', "broken"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPILERS)
def test_a_compiler_that_does_not_work(name: str, cache: Path, tmp_path: Path) -> None:
    """It is named; nothing is kept of it, and the next process has a better one."""
    text, words = COMPILERS[name]
    path = tmp_path / "compiler"
    command = script(path, text.format(real=real())) if text else str(path)
    status, said = run(cache, ORCHARD_SIM_CXX=command)
    assert status == 1
    assert "KernelCompileError" in said
    assert words in said
    assert not scratch(cache)
    assert run(cache) == WORKS


def test_a_compiler_that_hangs(cache: Path, tmp_path: Path) -> None:
    """It is ended with what it has started, and the error says for how long it ran."""
    mark = tmp_path / "children"
    text = f"sh -c 'echo $$ >> {mark}; exec sleep 1000' & wait"
    command = script(tmp_path / "compiler", text)
    status, said = run(cache, ORCHARD_SIM_CXX=command, ORCHARD_SIM_TIMEOUT="2.5")
    assert status == 1
    assert "has not ended after 2.5 seconds; ORCHARD_SIM_TIMEOUT allows more" in said
    assert not scratch(cache)
    for child in map(int, mark.read_text().split()):
        for _ in range(100):  # until whoever adopted it has waited for it
            if not alive(child):
                break
            time.sleep(0.1)
        assert not alive(child)
    assert run(cache) == WORKS


def alive(process: int) -> bool:
    """Say whether a process runs."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize("text", ["0", "-1", "soon", "inf", "nan", "5s"])
def test_a_limit_that_is_none(text: str, cache: Path) -> None:
    """What is no number of seconds is refused, not taken for one."""
    status, said = run(cache, ORCHARD_SIM_TIMEOUT=text)
    assert status == 1
    assert "expected ORCHARD_SIM_TIMEOUT to be seconds above 0" in said


def test_loops_may_stay_loops(cache: Path) -> None:
    """A variable says so; the kernel is another, and what is no answer is refused."""
    for text, kernels in ("", 1), ("1", 1), ("0", 2):
        assert run(cache, ORCHARD_SIM_UNROLL=text) == WORKS
        assert len(list(cache.glob("*.so"))) == kernels
    status, said = run(cache, ORCHARD_SIM_UNROLL="no")
    assert status == 1
    assert "expected ORCHARD_SIM_UNROLL to be 0 or 1, got 'no'" in said


@pytest.mark.parametrize("text", [" ", "''"])
def test_a_command_of_no_words(text: str, cache: Path) -> None:
    """It does not crash: there is another compiler, or an error."""
    status, said = run(cache, ORCHARD_SIM_CXX=text)
    assert (status, said) == WORKS or "expected" in said
    assert status in (0, 1)


def test_a_command_that_does_not_end(cache: Path) -> None:
    """A quotation without its end is an error of ours."""
    status, said = run(cache, ORCHARD_SIM_CXX="clang '")
    assert status == 1
    assert "InvalidProblemError: [sim.compiler] expected ORCHARD_SIM_CXX" in said


def binary(cache: Path) -> Path:
    """Return the only kernel of a cache, once a process has put it there."""
    saved = cache.with_name(SAVED)
    if saved.exists():
        shutil.copytree(saved, cache)
    else:
        assert run(cache) == WORKS
        shutil.copytree(cache, saved)
    (found,) = cache.glob("*.so")
    return found


def cut(path: Path, size: int) -> None:
    """Keep the beginning of a file."""
    path.write_bytes(path.read_bytes()[:size])


def spoiled(path: Path) -> None:
    """Change one byte in the middle of a file."""
    text = bytearray(path.read_bytes())
    text[len(text) // 2] ^= 0x40
    path.write_bytes(text)


def linked(path: Path) -> None:
    """Let a link to the file stand in its place."""
    other = path.with_name("other")
    path.rename(other)
    path.symlink_to(other)


def foreign(path: Path) -> None:
    """Let the file belong to somebody else."""
    if os.geteuid():
        pytest.skip("only root gives files away")
    os.chown(path, 12345, 12345)


def open_to_all(path: Path) -> None:
    """Let others write the file."""
    path.chmod(0o666)


SPOILED = {
    "empty": lambda path: cut(path, 0),
    "cut in half": lambda path: cut(path, path.stat().st_size // 2),
    "cut by a byte": lambda path: cut(path, path.stat().st_size - 1),
    "a byte changed": spoiled,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a link": linked,
    "another user's": foreign,
    "writable by others": open_to_all,
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_kept_kernel_that_is_not_as_it_was(how: str, cache: Path) -> None:
    """It is not loaded: the kernel is compiled again, and lies there as a whole."""
    path = binary(cache)
    before = path.read_bytes()
    SPOILED[how](path)
    assert run(cache) == WORKS
    assert path.is_file()
    assert not path.is_symlink()
    assert path.stat().st_uid == os.geteuid()
    assert path.stat().st_mode & 0o022 == 0
    assert len(path.read_bytes()) == len(before)
    assert not scratch(cache)


@pytest.mark.parametrize("how", ["empty", "cut in half", "a link", "another user's"])
def test_a_kept_header_that_is_not_as_it_was(how: str, cache: Path) -> None:
    """The compiler's own precompiled header is made again."""
    binary(cache).unlink()
    (header,) = cache.glob("*.pch")
    SPOILED[how](header)
    assert run(cache) == WORKS


def test_a_header_that_somebody_has_changed(cache: Path) -> None:
    """What kernels include is what the package holds."""
    binary(cache).unlink()
    (folder,) = cache.glob("headers-*")
    (folder / "math.h").write_text("#error changed\n", encoding="utf-8")
    for kept in cache.glob("*.pch"):
        kept.unlink()
    assert run(cache) == WORKS


def test_a_generous_umask_shares_nothing(cache: Path) -> None:
    """What is loaded later is the user's alone to write, and is found again."""
    command = python("import os; os.umask(0)\n" + PROGRAM)
    for _ in range(2):
        subprocess.run(
            command, env={**os.environ, "ORCHARD_CACHE_DIR": str(cache)}, check=True
        )
        (found,) = cache.glob("*.so")
        assert found.stat().st_mode & 0o077 == 0
        stamp = found.stat().st_mtime_ns
    assert found.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("size", [0, 100, 100_000])
def test_a_full_disk(size: int, cache: Path) -> None:
    """Wherever it is full: an error, nothing kept, and with room it works."""
    status, said = run(cache, largest_file=size)
    assert status == 1
    assert "KernelCompileError" in said
    assert not [*cache.glob("*.so")]
    assert not scratch(cache)
    assert run(cache) == WORKS


def made(path: Path) -> Path:
    """Make a folder."""
    path.mkdir()
    return path


PLACES = {
    "in a file": lambda path: path.write_text("no folder"),
    "a link that leads nowhere": lambda path: path.symlink_to(path.with_name("gone")),
    "another user's": lambda path: foreign(made(path)),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_cache_that_cannot_be(name: str, cache: Path) -> None:
    """The error names the folder and the variable that chooses another."""
    PLACES[name](cache)
    place = cache / "kernels" if name == "in a file" else cache
    status, said = run(place)
    if name == "a link that leads nowhere" and status == 0:
        assert (cache.resolve()).is_dir()  # made where the link leads
        return
    assert status == 1
    assert "KernelCompileError" in said
    assert str(place) in said
    assert "ORCHARD_CACHE_DIR" in said


def test_a_read_only_file_system() -> None:
    """As a folder that cannot be made."""
    status, said = run(Path("/proc/orchard-ops"))
    assert status == 1
    assert "cannot make the cache folder /proc/orchard-ops" in said


def test_processes_that_compile_the_same_kernel(cache: Path) -> None:
    """At the same time: each works, and one whole file is left."""
    processes = [start(cache) for _ in range(3)]
    assert [ended(process) for process in processes] == [WORKS] * 3
    assert len([*cache.glob("*.so")]) == 1
    assert not scratch(cache)
    assert run(cache) == WORKS


def test_a_process_that_is_killed_while_it_compiles(
    cache: Path, tmp_path: Path
) -> None:
    """It leaves a scratch folder, which nobody reads and a later day removes."""
    mark = tmp_path / "mark"
    text = f'case "$*" in *kernel.o*) echo $$ > {mark}; sleep 1000;; esac\n'
    slow = script(tmp_path / "compiler", text + f'exec {real()} "$@"')
    process = start(cache, ORCHARD_SIM_CXX=slow)
    deadline = time.monotonic() + LIMIT
    while not (mark.is_file() and mark.read_text().strip()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.communicate()
    os.kill(int(mark.read_text()), signal.SIGKILL)
    (left,) = scratch(cache)
    assert not [*cache.glob("*.so")]
    assert run(cache) == WORKS
    assert scratch(cache) == [left]  # it might still be somebody's
    os.utime(left, (0, 0))
    (found,) = cache.glob("*.so")
    found.unlink()
    assert run(cache) == WORKS
    assert not scratch(cache)
