"""Context parallelism over NCCL: every GPU here has a part of one sequence.

Called as a program it is one rank: ``distributed.py RANK RANKS STORE OUT``.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import exact
import philox
import torch
from cases import MATH_FACTOR
from long import F16, F32, NORM_FLOOR, distances
from torch import Tensor

import orchard_ops

HERE = Path(__file__).resolve().parent
METHODS = ("ring", "all_gather", "heads")
NAMES = ("out", "dq", "dk", "dv")
DROPOUT_P = 0.2
SEED = 7
TIMED = 5  # of which the median counts
LEAST_EFFICIENCY = 0.85


@dataclass(frozen=True)
class Case:
    """Attention of one sequence, and how its rows are shared."""

    name: str
    dtype: torch.dtype = F32
    heads: tuple[int, int] = (8, 4)
    length: int = 4001
    head_dim: int = 64
    options: tuple[tuple[str, Any], ...] = (("is_causal", True),)
    layout: str = "zigzag"
    method: str = "ring"


PLAIN = Case("causal")
CASES = [
    *(replace(PLAIN, name=f"causal, {name}", method=name) for name in METHODS),
    replace(PLAIN, name="causal float16", dtype=F16),
    replace(PLAIN, name="contiguous", layout="contiguous"),
    replace(PLAIN, name="full", options=()),
    replace(PLAIN, name="window", options=(("window", (700, 0)),)),
    replace(PLAIN, name="dropout", options=(("dropout_p", DROPOUT_P),)),
]
LONG = Case("128k causal", F16, (8, 2), 131072, 128)


def drawn(case: Case) -> list[Tensor]:
    """Return q, k, v and the output's gradient, the same on every rank."""
    generator = torch.Generator("cuda").manual_seed(1)
    heads_q, heads_kv = case.heads
    return [
        torch.randn(
            (1, heads, case.length, case.head_dim), generator=generator, device="cuda"
        ).to(case.dtype)
        for heads in (heads_q, heads_kv, heads_kv, heads_q)
    ]


def whole(case: Case, tensors: list[Tensor]) -> list[Tensor]:
    """Return output and gradients of the whole sequence on one GPU."""
    leaves = [t.detach().requires_grad_() for t in tensors[:3]]
    torch.manual_seed(SEED)
    out = orchard_ops.flash_attention(*leaves, **dict(case.options))
    return [out.detach(), *torch.autograd.grad(out, leaves, tensors[3])]


def shared(case: Case, tensors: list[Tensor]) -> list[Tensor]:
    """Return this rank's rows of output and gradients; takes its rows alone."""
    from orchard_ops import distributed

    leaves = [t.detach().requires_grad_() for t in tensors[:3]]
    torch.manual_seed(SEED)
    out = distributed.context_parallel_attention(
        *leaves,
        length=case.length,
        layout=case.layout,
        method=case.method,
        **dict(case.options),
    )
    return [out.detach(), *torch.autograd.grad(out, leaves, tensors[3])]


def rows_of(case: Case, tensors: list[Tensor]) -> list[Tensor]:
    """Return this rank's rows of whole tensors."""
    from orchard_ops import distributed

    return [distributed.shard(t, layout=case.layout).contiguous() for t in tensors]


def defined(case: Case, tensors: list[Tensor]) -> list[Tensor]:
    """Return output and gradients from the definition, in float64."""
    options = dict(case.options)
    problem = exact.Problem(
        *(t.double() for t in tensors),
        is_causal=options.get("is_causal", False),
        window=options.get("window"),
    )
    if "dropout_p" in options:
        shape = (1, case.heads[0], case.length, case.length)
        keep = philox.keep_mask(philox.draw_seed(SEED), DROPOUT_P, shape)
        problem.keep, problem.keep_scale = keep.cuda(), philox.keep_scale(DROPOUT_P)
    return [tensor for _, tensor in exact.solve(problem, torch.float64).items()]


def errors(case: Case) -> dict[str, Any]:
    """Compare one case with float64, as one GPU's results are compared with it."""
    tensors = drawn(case)
    want = rows_of(case, defined(case, tensors))
    alone = rows_of(case, whole(case, tensors))
    found = shared(case, rows_of(case, tensors))
    row: dict[str, Any] = {"case": case.name, "is_good": True}
    for name, got, one, true in zip(NAMES, found, alone, want):
        ours, theirs = (distances(t, true)[0] for t in (got, one))
        row[name] = [ours, theirs]
        row["is_good"] &= ours <= max(MATH_FACTOR * theirs, NORM_FLOOR[case.dtype])
    return row


def timed(case: Case) -> dict[str, Any]:
    """Time forward and backward of this rank's rows; count memory and bytes sent."""
    import torch.distributed as dist

    from orchard_ops import distributed

    tensors = rows_of(case, drawn(case))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    shared(case, tensors)
    memory = torch.cuda.max_memory_allocated() - before
    distributed.reset_traffic()
    shared(case, tensors)
    sent = distributed.traffic()
    seconds = []
    for _ in range(TIMED):
        torch.cuda.synchronize()
        dist.barrier()
        start = time.perf_counter()
        shared(case, tensors)
        torch.cuda.synchronize()
        dist.barrier()
        seconds.append(time.perf_counter() - start)
    return {
        "ms": 1e3 * statistics.median(seconds),
        "memory_mib": memory / 2**20,
        "sent": sent,
    }


def time_line(case: Case) -> dict[str, Any]:
    """Return when this GPU computed and when it sent, in one forward and backward.

    Sending counts from when its kernel starts, which waits for the other side.
    """
    import torch.distributed as dist
    from torch.profiler import ProfilerActivity, profile

    tensors = rows_of(case, drawn(case))
    shared(case, tensors)
    torch.cuda.synchronize()
    dist.barrier()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        shared(case, tensors)
        torch.cuda.synchronize()
    kernels = [e for e in seen.events() if e.device_type.name == "CUDA"]
    found: dict[str, Any] = {}
    for name, word in (("computing", "_entry"), ("sending", "nccl")):
        found[name] = sorted(
            (e.time_range.start, e.time_range.end)
            for e in kernels
            if word in e.name.lower()
        )
    first = min((begin for spans in found.values() for begin, _ in spans), default=0)
    return {
        name: [[(begin - first) / 1e3, (end - first) / 1e3] for begin, end in spans]
        for name, spans in found.items()
    }


def drawn_line(spans: list[list[float]], total: float, width: int = 64) -> str:
    """Draw spans of a time line: # where any of them covers a column's middle."""
    middles = [(column + 0.5) * total / width for column in range(width)]
    return "".join("#" if any(a <= x <= b for a, b in spans) else "." for x in middles)


def busy(spans: list[list[float]]) -> float:
    """Return for how long at least one of the spans lasted, of sorted ones."""
    total, last = 0.0, 0.0
    for begin, end in spans:
        total += max(0.0, end - max(begin, last))
        last = max(last, end)
    return total


def be_rank(rank: int, ranks: int, store: str, out: Path) -> None:
    """Run all cases as one rank; rank 0 writes what they gave."""
    import torch.distributed as dist
    from cuda_device import open_device

    open_device()
    dist.init_process_group(
        "nccl",
        init_method=f"file://{store}",
        rank=rank,
        world_size=ranks,
        device_id=torch.device("cuda", 0),
    )
    rows = [errors(case) for case in CASES]
    with orchard_ops.backward_scratch(0):  # Faster on these GPUs at such lengths.
        row = timed(LONG)
        row["time_line"] = time_line(LONG)
    gathered: list[Any] = [None] * ranks
    dist.all_gather_object(gathered, [row, rows])
    if rank == 0:
        out.write_text(json.dumps(gathered))
    dist.destroy_process_group()


def run(ranks: int) -> list[Any]:
    """Start the ranks, each with a GPU of its own; return what each found.

    Raises:
        RuntimeError: a rank failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        store, out = Path(folder, "store"), Path(folder, "out.json")
        children = [
            subprocess.Popen(
                [sys.executable, __file__, str(rank), str(ranks), str(store), str(out)],
                env={**os.environ, "CUDA_VISIBLE_DEVICES": str(rank)},
            )
            for rank in range(ranks)
        ]
        failed = [child.wait() for child in children]
        if any(failed):
            raise RuntimeError(f"[cuda check] ranks ended with {failed}")
        found: list[Any] = json.loads(out.read_text())
        return found


if __name__ == "__main__":
    be_rank(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
