"""Break the sources on purpose, a line at a time, and see which tests notice.

A mutant is one small mistake in one line.  One that no test notices is a mistake that
nobody would notice.  ``--part`` chooses what is broken: the kernels' text, the C++ of
csrc/attention or csrc/torch, or the Python package; ``--count`` mutants are drawn from
all that the rules of mutant_rules.py make, and meet the tests that mutant_parts.py
names until two have failed.  ``--sample`` breaks the lines of `SAMPLE` instead, each
before the one test that is cheap and must notice it.

``--table`` writes a line of JSON a mutant, and goes on where the file ends; ``--sum``
counts what such files hold, and lists the mutants that no test or only one kills;
mutant_equivalents.py says which of them compute the same.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import mutant_parts
import mutant_tests
from mutant_equivalents import reason_of
from mutant_parts import PARTS
from mutant_rules import Mutant, mutants_of

TILES = "attention/test_tiles.py"
CHEAP = "api/test_api.py::test_counts_have_names"

# File, line, what takes its place, and the test that notices.
SAMPLE = (
    ("kernels/tile/exchange.h",
     "  threadgroup_barrier(mem_flags::mem_threadgroup);", "",
     f"{TILES}::test_each_row[A2-d192]"),
    ("kernels/tile/exchange.h",
     "    threadgroup_barrier(mem_flags::mem_threadgroup);", "",
     f"{TILES}::test_each_row[A4-d128]"),
    ("kernels/tile/dbias.h", "      for (int t = 0; t < TILE_ROWS; ++t) {",
     "      for (int t = 0; t < 1; ++t) {", f"{TILES}::test_each_row[A4-d96]"),
    ("kernels/tile/dropout.h",
     "  return ((word >> (16 * e)) & 0xffffu) < p.drop_below;",
     "  return ((word >> (16 * e)) & 0xffffu) <= p.drop_below;",
     "attention/test_dropout.py"
     "::test_the_draw_that_equals_the_threshold_is_kept[255]"),
    ("kernels/forward.metal", "  int first = SLICES > 1 ? group_row0 : row0;",
     "  int first = row0;",
     f"{TILES}::test_tiles_that_see_other_scores[A2-d192-window]"),
    ("kernels/tile/window.h", "    if (other != place.tile) {",
     "    if (other == place.tile) {",
     f"{TILES}::test_tiles_that_see_other_scores[A2-d192-mask]"),
    ("kernels/tile/attend.h", "      state.row_total[t] *= correction;", "",
     "attention/test_attention.py::test_matches_float64[f32-d64]"),
    ("orchard_ops/_arguments/checks.py",
     "    if slopes.requires_grad and torch.is_grad_enabled():", "    if False:",
     "api/test_errors.py::test_learned_slopes_lose_no_gradient[cpu]"),
    ("orchard_ops/_arguments/kvcache.py",
     "    if torch.is_grad_enabled() and any(t.requires_grad for t in given):",
     "    if False:", "attention/test_kvcache.py::test_gradients_are_refused"),
    ("orchard_ops/distributed/_layout.py",
     "    return min(length, units * chunk // count * unit)",
     "    return max(length, units * chunk // count * unit)",
     "distributed/test_layout.py::test_pieces_by_hand"),
    ("orchard_ops/_functions/rotary.py",
     "        result = torch.cat([a * c - b * s, a * s + b * c], -1)",
     "        result = torch.cat([a * c - b * s, a * s - b * c], -1)",
     "api/test_rotary.py::test_matches_complex_numbers[halves-dtype0]"),
    ("orchard_ops/_flops.py",
     "    return 2 * _scores(call, grad_out) * (3 * size + 2 * size_v)",
     "    return 2 * _scores(call, grad_out) * (3 * size - 2 * size_v)",
     "api/test_flops.py::test_dense[40]"),
)  # fmt: skip

Row = tuple[str, str, str, str]


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: refused, killed or survived, and by which tests."""

    mutant: Mutant
    word: str
    killers: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why it computes the same, if it survived and does."""
        return reason_of(self.mutant) if self.word == "survived" else ""

    def __str__(self) -> str:
        """Name the mutant, and what noticed it."""
        by = f" by {', '.join(self.killers)}" if self.killers else ""
        word = self.word.upper() if self.word == "survived" else self.word
        word = f"equivalent: {self.reason}" if self.reason else word
        return f"{self.mutant}\n    {word}{by}"

    def line(self) -> str:
        """Return it as a line of a table."""
        fields = {"word": self.word, "killers": self.killers}
        return json.dumps({**asdict(self.mutant), **fields}) + "\n"


def read_table(path: Path) -> list[Verdict]:
    """Return what a table holds."""
    found = []
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        word, tests = row.pop("word"), tuple(row.pop("killers"))
        found.append(Verdict(Mutant(**row), word, tests))
    return found


def judge(
    chosen: tuple[Mutant, Sequence[str]], most: int, left_out: Sequence[str]
) -> Verdict:
    """Say which tests notice a mutant, up to so many."""
    mutant, tests = chosen
    with tempfile.TemporaryDirectory() as folder:
        try:
            environment = mutant_parts.write_broken(mutant, Path(folder))
        except mutant_parts.RefusedError:
            return Verdict(mutant, "refused")
        found, is_refused = mutant_tests.failing(environment, tests, most, left_out)
    if is_refused and mutant.file.startswith("kernels/"):
        return Verdict(mutant, "refused")
    return Verdict(mutant, "killed" if found else "survived", tuple(found))


def check_whole(mutants: Iterable[Mutant]) -> None:
    """Fail unless an unbroken line, put in place as a mutant is, passes a test."""
    of_parts = {mutant_parts.part_of(mutant.file): mutant for mutant in mutants}
    for mutant in of_parts.values():
        verdict = judge((replace(mutant, new=mutant.old), (CHEAP,)), 1, ())
        if verdict.word != "survived":
            raise SystemExit(f"without any mistake: {verdict}")


def sample(rows: Sequence[Row] = SAMPLE) -> list[tuple[Mutant, tuple[str, ...]]]:
    """Return the mutants of `SAMPLE`, each with its test."""
    found: list[tuple[Mutant, tuple[str, ...]]] = []
    for file, old, new, test in rows:
        lines = (mutant_parts.ROOT / file).read_text("utf-8").split("\n")
        if lines.count(old) != 1:
            raise SystemExit(f"SAMPLE: {file} has no such line, or two: {old}")
        found.append((Mutant(file, lines.index(old), old, new), (test,)))
    return found


def drawn(name: str, count: int, seed: int, file: str) -> list[Mutant]:
    """Return so many of all mutants of a part, in an order of chance."""
    part = PARTS[name]
    every = [
        mutant
        for path, text in part.texts().items()
        if file in path
        for mutant in mutants_of(path, text, part.rules)
    ]
    return random.Random(seed).sample(every, min(count, len(every)))


def as_it_is_now(mutant: Mutant) -> Mutant | None:
    """Return a mutant where its line now is, None if there is no such line any more."""
    lines = (mutant_parts.ROOT / mutant.file).read_text("utf-8").split("\n")
    places = [i for i, line in enumerate(lines) if line == mutant.old]
    if not places:
        print(f"{mutant}\n    gone: the line was changed since")
        return None
    return replace(mutant, line=min(places, key=lambda i: abs(i - mutant.line)))


def judged(
    chosen: Sequence[tuple[Mutant, Sequence[str]]],
    jobs: int,
    most: int,
    left_out: Sequence[str],
) -> Iterator[Verdict]:
    """Judge mutants, so many at a time."""
    of = partial(judge, most=most, left_out=left_out)
    if jobs == 1:
        yield from map(of, chosen)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        yield from pool.map(of, chosen)


def summary(verdicts: Iterable[Verdict]) -> str:
    """Return a table of what became of the mutants of each part, in Markdown."""
    parts: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        parts.setdefault(mutant_parts.part_of(verdict.mutant.file), []).append(verdict)
    lines = ["| part | made | refused by the compiler | killed | by one test alone "
             "| equivalent | survived |",
             "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for name, found in sorted(parts.items()):
        words = ["equivalent" if at.reason else at.word for at in found]
        counts = (len(words), *map(words.count, ("refused", "killed")),
                  sum(len(verdict.killers) == 1 for verdict in found),
                  *map(words.count, ("equivalent", "survived")))  # fmt: skip
        lines.append(f"| {name} | {' | '.join(map(str, counts))} |")
    few = [
        str(verdict)
        for found in parts.values()
        for verdict in found
        if verdict.word != "refused" and len(verdict.killers) < 2
    ]
    return "\n".join([*lines, "", *few])


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", action="store_true", help="the fixed few")
    parser.add_argument("--part", choices=PARTS, default="kernels")
    parser.add_argument("--count", type=int, default=20, help="how many are drawn")
    parser.add_argument("--seed", type=int, default=0, help="which are drawn")
    parser.add_argument("--file", default="", help="only of files so named")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--table", type=Path, help="a file for the verdicts")
    parser.add_argument("--again", type=Path, help="a table: judge its survivors")
    parser.add_argument("--without", action="append", default=[],
                        help="a test that does not count")  # fmt: skip
    parser.add_argument("--sum", nargs="+", type=Path, help="tables to sum up")
    return parser.parse_args(words)


def choose(given: argparse.Namespace) -> list[tuple[Mutant, tuple[str, ...]]]:
    """Return the mutants that are asked for, each with its tests."""
    if given.sample:
        return sample()
    if given.again:
        rows = [at.mutant for at in read_table(given.again) if at.word == "survived"]
        found = [mutant for row in rows if (mutant := as_it_is_now(row))]
    else:
        found = drawn(given.part, given.count, given.seed, given.file)
    known = set()
    if given.table and given.table.exists():
        known = {verdict.mutant for verdict in read_table(given.table)}
    of = {mutant: PARTS[mutant_parts.part_of(mutant.file)] for mutant in found}
    return [(at, of[at].tests_of(at.file)) for at in found if at not in known]


def main() -> int:
    """Judge the mutants that the command line asks for; 1 if one survives."""
    given = parse()
    os.environ["ORCHARD_ALL_KERNELS"] = "1"  # Tests try all tiles, not every third.
    if given.sum:
        print(summary(verdict for path in given.sum for verdict in read_table(path)))
        return 0
    chosen = choose(given)
    if any(mutant.file.startswith("csrc/") for mutant, _ in chosen):
        mutant_parts.prepare_build()
    check_whole(mutant for mutant, _ in chosen)
    survivors = 0
    most = 1 if given.sample else 2
    for verdict in judged(chosen, given.jobs, most, given.without):
        print(verdict, flush=True)
        survivors += verdict.word == "survived"
        if given.table:
            with given.table.open("a", encoding="utf-8") as file:
                file.write(verdict.line())
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants were noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
