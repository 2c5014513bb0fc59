"""Mix many small calls and watch what the process holds: it must not grow.

    python tools/soak.py --calls 100000

Every call is made once to begin with, for each number of rows: then all kernels are
loaded and all caches filled, and what each launches is known.  Calls drawn from those
follow, and at even intervals a reading of all that could leak.  Each call must count
what its table says and launch what it did the first time.  What may not grow at all is
compared between the middle and the end; of memory, where allocators breathe, a line is
fitted through the second half.  Exits 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from typing import Callable

# As the tests have it (tests/conftest.py).
os.environ.setdefault("ORCHARD_VERIFY", "never")
os.environ.setdefault("ORCHARD_TUNED", "never")

import numpy as np
import torch
from soak_calls import CALLS, ROWS
from soak_readings import HEAP, PLANTED, RESIDENT, counts, read

from orchard_ops import sim

READINGS = 40
# Bytes that may come and go however short the run is: small pieces that each thread
# keeps for the next call, and heaps and device buffers that a rare meeting needs.
NOISE = {HEAP: 32 << 10, RESIDENT: 1 << 20}
PLANT_EVERY = 20

Key = tuple[str, int]
Known = dict[Key, tuple[int, ...]]
Readings = list[dict[str, int]]


def main(arguments: list[str] | None = None) -> int:
    """Return 1 if something grew or was counted otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bytes", type=float, default=1.0,
                        help="that the heap may grow by in each call")  # fmt: skip
    parser.add_argument("--resident", type=float, default=32.0,
                        help="that the process may grow by in each call")  # fmt: skip
    parser.add_argument("--planted", choices=PLANTED, help="leak this, every 20th call")
    options = parser.parse_args(arguments)
    if options.calls < READINGS:
        parser.error(f"--calls: at least {READINGS}, as many as there are readings")
    sim.enable()
    torch.set_num_threads(1)
    plant = PLANTED.get(options.planted, lambda: None)
    wrong, readings = soak(options.calls, options.seed, plant)
    most = {HEAP: options.bytes, RESIDENT: options.resident}
    wrong += grown(readings, options.calls, most)
    print("\n".join(wrong) or "nothing grew, and every call counted what it must")
    return int(bool(wrong))


def soak(
    calls: int, seed: int, plant: Callable[[], object]
) -> tuple[list[str], Readings]:
    """Make the calls; return a sentence for each wrong count, and the readings."""
    rng, readings, known = random.Random(seed), [read()], Known()
    keys = [(name, rows) for name in CALLS for rows in ROWS]
    wrong = [each for key in keys if (each := run(key, known))]
    print(", ".join(readings.pop()))
    marks = {calls * index // READINGS for index in range(READINGS + 1)}
    started, first = time.monotonic(), counts()
    total: tuple[int, ...] = (0,) * len(first)
    for done in range(calls + 1):
        if done in marks:
            readings.append(read())
            seconds = time.monotonic() - started
            print(f"{done} calls, {seconds:.0f} s: {[*readings[-1].values()]}")
        if done < calls:
            key = rng.choice(keys)
            # What counts as it must leaves nothing here: a list would grow, too.
            wrong += [each] if (each := run(key, known)) else []
            total = plus(total, known[key])
        if done % PLANT_EVERY == 0:
            plant()
    if counts() != plus(first, total):
        wrong.append(f"counts: {plus(first, total)} expected, {counts()} now")
    return wrong, readings


def run(key: Key, known: Known) -> str:
    """Make a call; return a sentence if it did not count what is known of it."""
    name, rows = key
    before = counts()
    CALLS[name].run(rows)
    found = tuple(now - then for now, then in zip(counts(), before))
    wanted = known.setdefault(key, (*CALLS[name][1:], found[-1]))
    return "" if found == wanted else f"counts: {name}, {rows}: {found}, not {wanted}"


def plus(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sums."""
    return tuple(a + b for a, b in zip(one, other))


def slope(name: str, readings: Readings, calls: int) -> float:
    """Return by how much something grew with each call of the second half."""
    values = [reading[name] for reading in readings[READINGS // 2 :]]
    each = calls / READINGS
    return float(np.polyfit(each * np.arange(len(values)), values, 1)[0])


def grown(readings: Readings, calls: int, most: dict[str, float]) -> list[str]:
    """Return a sentence for each thing that grew in the second half."""
    middle, last = readings[READINGS // 2], readings[-1]
    names = [name for name in last if name not in most and last[name] > middle[name]]
    for name, bound in most.items():
        found, allowed = slope(name, readings, calls), bound + NOISE[name] / (calls / 2)
        print(f"{name}: {found:+.2f} with each call, at most {allowed:.2f}")
        names += [name] if found > allowed else []
    return [f"{name}: {middle[name]} in the middle, {last[name]} now" for name in names]


if __name__ == "__main__":
    sys.exit(main())
