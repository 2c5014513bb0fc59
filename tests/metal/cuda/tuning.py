"""The package's own search for tiles (orchard_ops/_tune), timed by this GPU's events.

What it finds says nothing about Apple's GPUs; that it finds something, on a GPU for
which no table was made, is what it shows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

import exact
import long
import torch

from orchard_ops._tune.bench import Bench
from orchard_ops._tune.meters import GpuMeter, Meter, Step
from orchard_ops._tune.search import Finding, Tuner
from orchard_ops._tune.shapes import Shape, classes_of, parse_shape
from orchard_ops._tune.store import Choices, trying

# Those that must not be missed first: the budget may end before the last.
SHAPES = (
    "1,12,12,1024,1024,64,float16,causal",
    "1,12,12,4096,4096,64,float16,causal",
    "1,8,8,8192,8192,64,float16,causal",
    "1,32,8,2048,2048,128,float16,causal",
    "1,32,8,4096,4096,128,float16,causal",
    "1,32,8,2048,2048,128,bfloat16,causal",
    "1,12,12,2048,2048,64,float32,causal",
    "1,32,8,1,8192,128,float16,decode",
    "1,8,4,4096,4096,256,float16,causal",
)


class CudaMeter(GpuMeter):
    """The time between two events around a batch of steps."""

    unit = "measured on this GPU by CUDA events"
    compilers = os.cpu_count() or 1

    def batch(self, step: Step, calls: int) -> float:
        """Return the seconds of so many steps."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            step()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    wall_batch = batch


def rows(
    like: torch.Tensor,
    meter: Meter,
    budget: float | None,
    shapes: Iterable[str] = SHAPES,
    candidates: int = 12,
) -> Iterator[dict[str, Any]]:
    """Tune, and yield a row for each shape and pass, with the winner's errors."""
    deadline = float("inf") if budget is None else time.monotonic() + budget
    tuner = Tuner(
        *(like, meter),
        candidates=candidates,
        deadline=deadline,
        progress=lambda text, _: say(text),
    )
    for of, members in classes_of(map(parse_shape, shapes)).items():
        for choices, findings in tuner.tune(of, members):
            for found in findings:
                errors, is_good = judge(like, found.shape, found.which, choices)
                yield row_of(found, choices, errors, is_good)
    for reason in tuner.refused:
        say(f"refused: {reason}")


def say(text: str) -> None:
    """Print what happens now."""
    print(f"   {text}", flush=True)


def judge(
    like: torch.Tensor, shape: Shape, which: str, choices: Choices
) -> tuple[dict[str, Any], bool]:
    """Compare what a shape's pass gives, with choices, with float64."""
    bench = Bench(shape, like.device)
    problem = exact.Problem(bench.q, bench.k, bench.v, bench.grad_out, shape.is_causal)
    want = exact.solve(problem, torch.float64)
    plain = exact.solve(problem, shape.torch_dtype)
    with trying(like, choices):
        found = bench.run(which)
    got = dict(zip(("dq", "dk", "dv") if which == "backward" else ("out",), found))
    size = long.Size(
        *(str(shape), shape.torch_dtype, (shape.heads_q, shape.heads_kv)),
        *(shape.len_kv, shape.head_dim),
    )
    return long.judge(size, got, want, plain)


def row_of(
    found: Finding, choices: Choices, errors: dict[str, Any], is_good: bool
) -> dict[str, Any]:
    """Return a row of the report."""
    return {
        "shape": str(found.shape),
        "pass": found.which,
        "shipped_ms": found.shipped_ms,
        "tuned_ms": found.tuned_ms,
        "speedup": found.speedup,
        "noise": found.noise,
        "beside_ms": found.beside_ms,
        "chosen": choices.words() or "as shipped",
        "errors": errors,
        "is_good": is_good,
    }


def text_of(row: dict[str, Any]) -> str:
    """Return a row of the printed table."""
    worst = max(error["ours"][0] for error in row["errors"].values())
    return (
        f"{'ok ' if row['is_good'] else 'BAD'} {row['shape']:40} {row['pass']:9} "
        f"shipped {row['shipped_ms']:9.4f} ms  tuned {row['tuned_ms']:9.4f} ms "
        f"({row['speedup']:.2f}x, noise {row['noise']:.3f})  error {worst:.1e}  "
        f"{row['chosen']}"
    )


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the rows as the table of docs/cuda-check.md."""
    lines = [
        "| shape | pass | shipped ms | tuned ms | speedup | noise | chosen |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    lines += [
        f"| `{row['shape']}` | {row['pass']} | {row['shipped_ms']:.3f} | "
        f"{row['tuned_ms']:.3f} | {row['speedup']:.2f} | {100 * row['noise']:.1f} % | "
        f"{row['chosen']} |"
        for row in rows
    ]
    return "\n".join(lines)
