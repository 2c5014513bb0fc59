"""Break the kernels on purpose, a line at a time, and see which tests notice.

A mutant is one small mistake in one line of a kernel's text.  One that no test notices
is a mistake that nobody would notice.  The library holds the texts as they are, so a
mutant is a copy of it with other bytes, as many as before: nothing is built again.

``--sample`` breaks the lines of `SAMPLE`, each before the one test that is cheap and
must notice it.  Otherwise so many lines as ``--count`` says are drawn from all that
`RULES` can break, and the tests of attention run until two have failed.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = "liborchard_device.so"
TILES, ATTENTION = "test_tiles.py", "test_attention.py"
# Those that a drawn mutant meets, the cheapest first.
TESTS = ("test_dropout.py", "test_strict.py", TILES, "test_spill.py",
         "test_determinism.py", ATTENTION, "test_kvcache.py")  # fmt: skip
DECODING = ("test_kvcache.py", "test_kvcache_bounds.py")
TIMEOUT = 300  # seconds that a test may take: a mutant's loop may have no end

# File, line, what takes its place, and the test that notices.
SAMPLE = (
    ("tile/exchange.h", "  threadgroup_barrier(mem_flags::mem_threadgroup);", "",
     f"{TILES}::test_each_row[A2-d192]"),
    ("tile/exchange.h", "    threadgroup_barrier(mem_flags::mem_threadgroup);", "",
     f"{TILES}::test_each_row[A4-d128]"),
    ("tile/dbias.h", "      for (int t = 0; t < TILE_ROWS; ++t) {",
     "      for (int t = 0; t < 1; ++t) {", f"{TILES}::test_each_row[A4-d96]"),
    ("tile/dropout.h",
     "  return ((word >> (16 * e)) & 0xffffu) < p.drop_below;",
     "  return ((word >> (16 * e)) & 0xffffu) <= p.drop_below;",
     "test_dropout.py::test_the_draw_that_equals_the_threshold_is_kept[255]"),
    ("forward.metal", "  int first = SLICES > 1 ? group_row0 : row0;",
     "  int first = row0;",
     f"{TILES}::test_tiles_that_see_other_scores[A2-d192-window]"),
    ("tile/window.h", "    if (other != place.tile) {",
     "    if (other == place.tile) {",
     f"{TILES}::test_tiles_that_see_other_scores[A2-d192-mask]"),
    ("tile/attend.h", "      state.row_total[t] *= correction;", "",
     f"{ATTENTION}::test_matches_float64[f32-d64]"),
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One line of a file in kernels/, counted from 0, and what takes its place."""

    file: str
    line: int
    old: str
    new: str

    def __str__(self) -> str:
        """Name the place, and both lines."""
        new = self.new.strip() or "nothing"
        return f"kernels/{self.file}:{self.line + 1}: {self.old.strip()} -> {new}"


def _swap(match: re.Match[str]) -> str:
    return f"{match[1]}({match[3]}, {match[2]}"


def _other_side(match: re.Match[str]) -> str:
    return match[1] + {"left": "right", "right": "left"}[match[2]]


# What is looked for in a line, and what is put there.
RULES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r" <= ", " < "), (r" >= ", " > "), (r" < ", " <= "), (r" > ", " >= "),
    (r" == ", " != "), (r" != ", " == "), (r" && ", " || "), (r" \|\| ", " && "),
    (r" \+ ", " - "), (r" - ", " + "), (r" \+= ", " -= "), (r" \*= ", " += "),
    (r" \* ", " + "), (r" / ", " * "), (r" % ", " / "), (r" & ", " | "),
    (r"\bmin\(", "max("), (r"\bmax\(", "min("), (r"\b1\.0f", "0.0f"),
    (r"\b0\.0f", "1.0f"), (r" = 0;", " = 1;"), (r"\+ 1\b", "+ 2"),
    (r"(window_)(left|right)", _other_side),  # the wrong side of a mask
    (r"\bp\.k\.row", "p.q.row"), (r"\bp\.q\.row", "p.k.row"),  # strides
    (r"\bp\.v\.row", "p.k.row"), (r"\bp\.out\.row", "p.q.row"),
    (r"(\w+)\((\w[\w.]*), (\w[\w.]*)\b(?=[,)])", _swap),  # arguments
    # A statement that is left out: a barrier, a rescaling, a step of a loop.
    (r"^ +[\w:]+(<[^;]*>)?\([^;]*\);$", ""), (r"^ +[\w.\[\]]+ [*+|]?= [^;]*;$", ""),
)  # fmt: skip


def mutants_of(file: str, text: str) -> Iterator[Mutant]:
    """Yield all that the rules make of a file's text."""
    for number, line in enumerate(text.splitlines()):
        code = line.partition("//")[0].rstrip()
        if not code or code.lstrip().startswith(("#", "typedef", "template")):
            continue
        for pattern, put in RULES:
            for match in re.finditer(pattern, code):
                new = match.expand(put) if isinstance(put, str) else put(match)
                changed = code[: match.start()] + new + code[match.end() :]
                if changed != code:
                    yield Mutant(file, number, line, changed)


def texts() -> dict[str, str]:
    """Return the texts of kernels/, by their path there."""
    folder = ROOT / "kernels"
    return {
        path.relative_to(folder).as_posix(): path.read_text("utf-8")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "params.h"  # which the host knows too
    }


def mutated(text: str, mutant: Mutant) -> str:
    """Return a text with its mutant, of the same length: comments give way."""
    lines = text.split("\n")
    assert lines[mutant.line] == mutant.old
    longer = len(mutant.new) - len(mutant.old)
    lines[mutant.line] = mutant.new + " " * -longer
    if longer > 0:
        first = next(i for i, at in enumerate(lines) if at.startswith("// "))
        assert len(lines[first]) > longer + 2
        lines[first] = lines[first][: len(lines[first]) - longer]
    changed = "\n".join(lines)
    assert len(changed) == len(text)
    return changed


def libraries() -> Path:
    """Return the folder of the libraries that are tested."""
    if folder := os.environ.get("ORCHARD_LIBRARY_DIR"):
        return Path(folder).resolve()
    import orchard_ops

    return Path(orchard_ops.__file__).parent


def write_libraries(folder: Path, text: str, changed: str) -> None:
    """Copy the libraries; in them, a kernel's text is another one."""
    source = libraries()
    for path in (*source.glob("*.so"), source / "_build_info.py"):
        # The stand-in's libraries say nothing of their build.
        if path.name != LIBRARY and path.exists():
            shutil.copy(path, folder)
    held = (source / LIBRARY).read_bytes()
    if held.count(text.encode()) != 1:
        raise SystemExit(f"{LIBRARY} holds other kernels than kernels/: build it again")
    (folder / LIBRARY).write_bytes(held.replace(text.encode(), changed.encode()))


def killers(folder: Path, tests: tuple[str, ...], most: int) -> list[str] | None:
    """Return which tests fail, up to so many; None if the text is no program."""
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=line",
               "-p", "no:cacheprovider", f"--maxfail={most}",
               f"--timeout={TIMEOUT}",
               *(f"tests/attention/{test}" for test in tests)]  # fmt: skip
    if len(tests) > 1:
        command += ["-n", "2"]
    environment = {**os.environ, "ORCHARD_LIBRARY_DIR": str(folder)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, text=True, capture_output=True
    )
    if done.returncode < 0:
        return [f"a crash in {' '.join(tests)}"]
    if done.returncode > 2:  # Neither failures nor enough of them.
        raise SystemExit(done.stdout + done.stderr)
    if "KernelCompileError" in done.stdout:
        return None
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    assert bool(failed) == bool(done.returncode), done.stdout
    return failed[:most]


def judge(mutant: Mutant, tests: tuple[str, ...], most: int) -> bool:
    """Say which tests notice a mutant; return whether one does, or none can."""
    text = texts()[mutant.file]
    with tempfile.TemporaryDirectory() as folder:
        write_libraries(Path(folder), text, mutated(text, mutant))
        found = killers(Path(folder), tests, most)
    if found is None:
        print(f"{mutant}\n    is refused by the compiler")
        return True
    print(f"{mutant}\n    {'killed by ' + ', '.join(found) if found else 'SURVIVED'}")
    return bool(found)


def sample(
    rows: Sequence[tuple[str, str, str, str]] = SAMPLE,
) -> list[tuple[Mutant, tuple[str, ...]]]:
    """Return the mutants of `SAMPLE`, each with its test."""
    found: list[tuple[Mutant, tuple[str, ...]]] = []
    for file, old, new, test in rows:
        lines = texts()[file].split("\n")
        if lines.count(old) != 1:
            raise SystemExit(f"SAMPLE: kernels/{file} has no such line, or two: {old}")
        found.append((Mutant(file, lines.index(old), old, new), (test,)))
    return found


def drawn(count: int, seed: int, file: str) -> list[tuple[Mutant, tuple[str, ...]]]:
    """Return so many of all mutants, each with the tests that may notice it."""
    every = [
        mutant
        for name, text in texts().items()
        for mutant in mutants_of(name, text)
        if file in name and name != "layout_probe.metal"
    ]
    chosen = random.Random(seed).sample(every, min(count, len(every)))
    return [
        (at, DECODING if at.file in ("decode.metal", "combine.metal") else TESTS)
        for at in chosen
    ]


def main() -> int:
    """Judge the mutants that the command line asks for; 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", action="store_true", help="the fixed few")
    parser.add_argument("--count", type=int, default=20, help="how many are drawn")
    parser.add_argument("--seed", type=int, default=0, help="which are drawn")
    parser.add_argument("--file", default="", help="only of files so named")
    given = parser.parse_args()
    chosen = sample() if given.sample else drawn(given.count, given.seed, given.file)
    most = 1 if given.sample else 2
    survivors = sum(not judge(mutant, tests, most) for mutant, tests in chosen)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants were noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
