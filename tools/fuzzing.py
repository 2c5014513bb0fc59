"""Draw problems and wrong arguments until the time is over, and shrink what fails.

    python tools/fuzzing.py --minutes 5 --corpus FOLDER

Hypothesis keeps what failed in the corpus, and tries that first the next time.  A
failure ends the run with the one line that shows it again.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests" / "support")]
# As the tests have it (tests/conftest.py).
os.environ.setdefault("ORCHARD_VERIFY", "never")
os.environ.setdefault("ORCHARD_TUNED", "never")

import torch  # noqa: E402
from calls import CALLS  # noqa: E402
from fuzz import draw_from, parse  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.database import DirectoryBasedExampleDatabase  # noqa: E402
from needs import chosen_device  # noqa: E402
from solved import check  # noqa: E402
from wrong import Wrong, outcome, problems, singles  # noqa: E402

import orchard_ops  # noqa: E402

CPU = torch.device("cpu")
BATCH = 50  # problems between two looks at the clock


def main() -> int:
    """Return 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--corpus", type=Path, default=Path("build") / "corpus")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--every", action="store_true",
                        help="each value of each argument, once")  # fmt: skip
    options = parser.parse_args()
    if chosen_device() == "metalsim":
        orchard_ops.sim.enable()
    torch.set_num_threads(1)
    found: Counter[str] = Counter()
    if options.every:
        return each_value(found)
    ends = time.monotonic() + 60.0 * options.minutes
    corpus = DirectoryBasedExampleDatabase(options.corpus)
    rounds = 0
    while time.monotonic() < ends:
        for name, test in (("legal", legal), ("wrong", illegal)):
            line = one_round(name, test, corpus, options.seed + rounds, found)
            if line:
                print(line)
                return 1
        rounds += 1
    print(f"seed {options.seed}: {words(found)}; none failed")
    return 0


def each_value(found: Counter[str]) -> int:
    """Try each value of each argument by itself."""
    failed = 0
    for name in CALLS:
        for wrong in singles(name):
            try:
                found[outcome(wrong, CPU)] += 1
            except Exception as error:
                failed += 1
                print(f"{reproduction('wrong', str(wrong))}  # {first_line(error)}")
    print(f"{words(found)}; {failed} failed")
    return int(failed > 0)


def legal(draw: Any) -> Callable[[], str]:
    """Draw a problem that has an answer."""
    rng = draw(st.randoms(use_true_random=False))
    drawn = draw_from(rng, "drawn")
    problem = parse(str(drawn))  # so that its own text names its numbers

    def run() -> str:
        check(problem, torch.device(chosen_device()))
        return f"{problem.call} right"

    run.__doc__ = reproduction("legal", str(problem))
    return run


def illegal(draw: Any) -> Callable[[], str]:
    """Draw a call with wrong arguments."""
    wrong: Wrong = draw(problems())

    def run() -> str:
        return outcome(wrong, CPU)

    run.__doc__ = reproduction("wrong", str(wrong))
    return run


def one_round(
    name: str,
    draw_one: Callable[[Any], Callable[[], str]],
    corpus: DirectoryBasedExampleDatabase,
    number: int,
    found: Counter[str],
) -> str:
    """Try a batch; return the line that shows the smallest failure, if any."""
    last = ""

    def attempt(data: st.DataObject) -> None:
        nonlocal last
        run = draw_one(data.draw)
        last = str(run.__doc__)
        random.seed(zlib.crc32(last.encode()))
        found[run()] += 1

    attempt.__name__ = attempt.__qualname__ = name  # the corpus's key
    test = settings(
        max_examples=BATCH, deadline=None, database=corpus, report_multiple_bugs=False,
        phases=[Phase.reuse, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck), print_blob=False,
    )(seed(number)(given(st.data())(attempt)))  # fmt: skip
    try:
        test()
    except Exception as error:  # whatever it is, the last attempt was the smallest
        return f"{last}  # {first_line(error)}"
    return ""


def reproduction(kind: str, text: str) -> str:
    """Return the command that shows one failure."""
    if kind == "wrong":
        return f"pytest tests/api/test_wrong_arguments.py --wrong '{text}'"
    return f"pytest tests/attention/test_fuzz.py --problem '{text}'"


def words(found: Counter[str]) -> str:
    """Return how many of each there were."""
    return ", ".join(f"{count} {what}" for what, count in sorted(found.items()))


def first_line(error: Exception) -> str:
    """Return what an error is, in a line."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


if __name__ == "__main__":
    sys.exit(main())
