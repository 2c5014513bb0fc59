"""The benchmark's suites that need no GPU; each returns rows for a table and JSON."""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn import functional

import orchard_ops
from orchard_ops import sim

from .._child import python
from . import work as counting
from .calibration import efficiency, peer_ps_per_score
from .chips import CHIPS, PUBLISHED, chip_named
from .peak import peak_bytes
from .wide import wide
from .work import Shape

__all__ = ["SUITES", "Row", "Suite"]

Row = dict[str, Any]
Suite = Callable[[bool], Iterator[Row]]
"""Takes whether all shapes are wanted, yields rows."""

MEMORY_HEADS = 8

MEASURED_BY_OTHERS = {
    "forward": ("MPSGraph, mps-sdpa's README", 44.3),
    "forward+backward": ("MPSGraph, mps-sdpa's README", 247.0),
}


def work(
    full: bool,
    backwards: Sequence[str] = ("recompute", "spill"),
    head_dims: Sequence[int] = (64, 128, 512, 576),
) -> Iterator[Row]:
    """Count the kernels' work at length 8192 and predict each chip's time.

    Args:
        full: whether all shapes are wanted.
        backwards: of `counting.BACKWARDS`, those to count.
        head_dims: of q, k and v; all shapes have 256 too.
    """
    sizes = sorted({*head_dims, 256}) if full else head_dims
    kinds = (torch.float16, torch.float32) if full else (torch.float16,)
    for family, head_dim, dtype in itertools.product("AB", sizes, kinds):
        for is_causal in (False, True) if full else (False,):
            shape = Shape(head_dim=head_dim, dtype=dtype, is_causal=is_causal)
            for backward in backwards:
                with sim.family(family):
                    counts = counting.count(shape, backward)
                for which in ("forward", "backward"):
                    if which == "backward" or backward == backwards[0]:
                        name = f"{which}, {backward}" if which == "backward" else which
                        yield from _work_rows(family, shape, counts, which, name)


def _work_rows(
    family: str, shape: Shape, counts: counting.Counts, which: str, name: str
) -> Iterator[Row]:
    yield {**_counted_row(family, shape, counts, which), "pass": name}
    for chip in CHIPS:
        if chip.family == family:
            yield {**_predicted_row(chip.name, shape, counts, which), "pass": name}


def _described(shape: Shape) -> Row:
    return {
        "length": shape.length,
        "heads": shape.heads,
        "head_dim": shape.head_dim,
        "dtype": str(shape.dtype).rpartition(".")[2],
        "causal": shape.is_causal,
    }


def _counted_row(family: str, shape: Shape, counts: counting.Counts, which: str) -> Row:
    done = [counts[kernel] for kernel in counting.passes(counts)[which]]

    def per_score(name: str) -> float:
        return sum(kernel[name] for kernel in done) / shape.scores

    multiplies = sum(kernel["matrix_multiplies"] for kernel in done)
    barriers = sum(
        kernel["threadgroup_barriers"] * kernel["threads"] / kernel["threadgroups"] / 32
        for kernel in done
    )
    return {
        "kind": "counted",
        "class": family,
        **_described(shape),
        "pass": which,
        "products": multiplies / counting.ideal_multiplies(shape, 1),
        "loads_per_8x64": per_score("device_loads") / 32 * 512,
        "shuffles_per_8x64": per_score("shuffles") * 512,
        "barriers_per_8x64": barriers / shape.scores * 512,
        "exponentials_per_score": per_score("exponentials"),
        "device_bytes_per_score": per_score("device_load_bytes")
        + per_score("device_store_bytes"),
        "threadgroup_bytes_per_score": per_score("threadgroup_load_bytes")
        + per_score("threadgroup_store_bytes"),
        "bank_conflicts_per_8x64": per_score("bank_conflicts") * 512,
    }


def _predicted_row(name: str, shape: Shape, counts: counting.Counts, which: str) -> Row:
    found = counting.predict_pass(counts, shape, chip_named(name), which)
    slowest = max(found["kernels"].values(), key=lambda kernel: kernel["seconds"])
    return {
        "kind": "predicted",
        "chip": name,
        **_described(shape),
        "pass": which,
        "predicted_ms": 1e3 * found["seconds"],
        "predicted_utilisation": found["utilisation"],
        "predicted_steady_utilisation": found["steady_utilisation"],
        "binding": slowest["binding"],
        "kernels_ms": {
            kernel: 1e3 * value["seconds"] for kernel, value in found["kernels"].items()
        },
    }


def peers(_: bool) -> Iterator[Row]:
    """Check the model: its time for a peer's kernels beside the published one."""
    for row in PUBLISHED:
        predicted = peer_ps_per_score(row)
        unseen = peer_ps_per_score(row, without=row.head_dim)
        yield {
            "kernel": f"metal-flash-attention {row.kernel}",
            "chip": row.chip,
            "bytes": row.element_bytes,
            "head_dim": row.head_dim,
            "published_ms": row.ps_per_score * row.length**2 * 1e-9,
            "predicted_ms": predicted * row.length**2 * 1e-9,
            "predicted_of_published": predicted / row.ps_per_score,
            "fitted_without_this_head_dim": unseen / row.ps_per_score,
        }
    for family, element_bytes in itertools.product("AB", (2, 4)):
        yield {
            "class": family,
            "bytes": element_bytes,
            "efficiency": efficiency(family, element_bytes),
        }
    yield from _published_shape()


def _published_shape() -> Iterator[Row]:
    """Yield the M4, 8 heads, length 8192, head_dim 64: others, the peer, ours."""
    shape, chip = Shape(), chip_named("M4")
    peer = {
        row.kernel: peer_ps_per_score(row) * shape.scores * 1e-9
        for row in PUBLISHED
        if (row.chip, row.element_bytes, row.head_dim) == ("M4", 2, 64)
    }
    for backward in ("recompute", "spill"):
        with sim.family("B"):
            counts = counting.count(shape, backward)
        ours = {
            which: counting.predict_pass(counts, shape, chip, which)["seconds"] * 1e3
            for which in ("forward", "backward")
        }
        for name, mine, theirs in (
            ("forward", ours["forward"], peer["forward"]),
            ("forward+backward", sum(ours.values()), sum(peer.values())),
        ):
            source, measured = MEASURED_BY_OTHERS[name]
            yield {
                "kernel": f"{name}, 8 heads, length 8192, head_dim 64",
                "chip": "M4",
                "our backward": backward,
                "measured_ms": measured,
                "measured_with": source,
                "predicted_peer_ms": theirs,
                "predicted_ms": mine,
            }


def memory(full: bool) -> Iterator[Row]:
    """Measure peak bytes of a training step against length, beside PyTorch's own.

    Ours without scratch, which grows with the length's square up to its bound, and as
    by default; PyTorch's attention as it composes it on a device without a kernel.
    """
    sim.enable()
    for length in (128, 256, 512, 1024, 2048, 4096) if full else (128, 256, 512):
        size = (1, MEMORY_HEADS, length, 64)
        # Only the host allocates, so what our kernels compute does not matter here.
        ours, default = (
            peak_bytes(orchard_ops.flash_attention, size, scratch, is_idle=True)
            for scratch in (0, None)
        )
        theirs = peak_bytes(functional.scaled_dot_product_attention, size)
        yield {
            "length": length,
            "peak_bytes": ours,
            "bytes_per_row": ours / length,
            "peak_bytes_with_scratch": default,
            "peak_bytes_of_pytorch": theirs,
            "scores_would_take": 4 * MEMORY_HEADS * length**2,
        }


# Found before anything could replace it.
_PYTORCH = functional.scaled_dot_product_attention


def _host_calls(
    is_recorded: bool,
) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Return each kind of call, beside PyTorch's own of a tiny CPU tensor.

    PyTorch's function has no window: there its causal call stands for it.  In the
    layout of flash_attn it is called with transposes, as its users must.
    """
    routed, theirs = functional.scaled_dot_product_attention, _PYTORCH
    tiny = torch.randn(1, 1, 8, 64).requires_grad_(is_recorded)
    q = tiny.detach().to(sim.DEVICE).requires_grad_(is_recorded)
    mask = torch.ones(8, 8, dtype=torch.bool)
    ours = partial(orchard_ops.flash_attention, q, q, q)
    usual = partial(theirs, tiny, tiny, tiny)
    causal = partial(usual, is_causal=True)
    turned, tiny_turned = q.transpose(1, 2), tiny.transpose(1, 2)

    def dao() -> torch.Tensor:
        q, k, v = (tiny_turned.transpose(1, 2) for _ in range(3))
        return theirs(q, k, v, is_causal=True).transpose(1, 2)

    return {
        "plain": (ours, usual),
        "causal": (partial(ours, is_causal=True), causal),
        "masked": (
            partial(ours, attn_mask=mask.to(sim.DEVICE)),
            partial(usual, attn_mask=mask),
        ),
        "dropout": (partial(ours, dropout_p=0.1), partial(usual, dropout_p=0.1)),
        "window": (partial(ours, window=(2, 0)), causal),
        "sdpa.enable()": (partial(routed, q, q, q, is_causal=True), causal),
        "flash_attn_func": (
            partial(
                orchard_ops.flash_attn.flash_attn_func,
                *(turned, turned, turned),
                causal=True,
            ),
            dao,
        ),
    }


def host(full: bool) -> Iterator[Row]:
    """Time warm calls on a device that drops every launch, beside a tiny SDPA."""
    sim.enable()
    with orchard_ops.sdpa.enabled():
        pairs = {
            name + (", recorded" if is_recorded else ""): pair
            for is_recorded in (False, True)
            for name, pair in _host_calls(is_recorded).items()
        }
        yield from _host_rows(pairs, 500 if full else 100)


def _host_rows(
    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]], turns: int
) -> Iterator[Row]:
    for mine, _ in pairs.values():
        mine()  # compiles
    # A thread pool's wake-up would be the reference's time, not its host's work.
    with sim.idle(), _one_thread():
        for name, (mine, other) in pairs.items():
            medians = _interleaved({"ours": mine, "theirs": other}, turns, batch=20)
            yield {
                "call": name,
                "us": medians["ours"] * 1e6,
                "sdpa_us": medians["theirs"] * 1e6,
                "of_sdpa": medians["ours"] / medians["theirs"],
            }


def cpu(full: bool) -> Iterator[Row]:
    """Time the CPU path beside SDPA where SDPA has the feature."""
    lengths = (8, 32, 64, 128, 256, 512) if full else (64, 256)
    with _one_thread():
        for length in lengths:
            q, k, v = (torch.randn(1, 8, length, 64) for _ in range(3))
            mask = torch.rand(length, length) < 0.9
            mask.fill_diagonal_(True)
            options: dict[str, dict[str, Any]] = {
                "none": {},
                "is_causal": {"is_causal": True},
                "bool attn_mask": {"attn_mask": mask},
                "float attn_mask": {"attn_mask": mask.float().log()},
            }
            for name, given in options.items():
                medians = _interleaved(
                    {
                        "ours": partial(orchard_ops.flash_attention, q, k, v, **given),
                        "theirs": partial(
                            functional.scaled_dot_product_attention, q, k, v, **given
                        ),
                    },
                    turns=200 if full else 50,
                    batch=20 if length <= 64 else 2,
                )
                yield {
                    "shape": list(q.shape),
                    "options": name,
                    "ours_ms": 1e3 * medians["ours"],
                    "sdpa_ms": 1e3 * medians["theirs"],
                    "of_sdpa": medians["ours"] / medians["theirs"],
                }


def simulator(full: bool) -> Iterator[Row]:
    """Measure simulated multiplies a second, and what compiling a kernel costs.

    Processor time, that of the compiler included, says the same on a busy machine.
    """
    length = 1024 if full else 512
    q, k, v, grad = (
        torch.randn(1, 2, length, 64).half().to(_device()) for _ in range(4)
    )
    for tensor in (q, k, v):
        tensor.requires_grad_()
    for is_strict in (False, True):
        with sim.strict(is_strict):
            out = orchard_ops.flash_attention(q, k, v)
            steps: dict[str, Callable[[], Any]] = {
                "forward": partial(orchard_ops.flash_attention, q, k, v),
                "backward": partial(
                    torch.autograd.grad, out, (q, k, v), grad, retain_graph=True
                ),
            }
            for name, step in steps.items():
                what = f"{name}, 2 heads, length {length}, head_dim 64, float16"
                if is_strict:
                    what += ", strict"
                step()  # compiles
                yield {"what": what, **_multiply_rate(step)}
    yield from _compile_times()


def _multiply_rate(step: Callable[[], Any]) -> Row:
    sim.reset_counters()
    started, cpu_started = time.perf_counter(), time.process_time()
    step()
    seconds = time.perf_counter() - started
    cpu_seconds = time.process_time() - cpu_started
    multiplies = sim.counters()["matrix_multiplies"]
    return {
        "multiplies_per_second": multiplies / seconds,
        "multiplies_per_cpu_second": multiplies / cpu_seconds,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


_COMPILE = """
import os, time, torch, orchard_ops
orchard_ops.sim.enable()
q = torch.zeros(1, 1, 8, 64).half().to("metalsim")
for is_causal in (False, True):
    started, cpu_started = time.perf_counter(), sum(os.times()[:4])
    orchard_ops.flash_attention(q, q, q, is_causal=is_causal)
    print(time.perf_counter() - started, sum(os.times()[:4]) - cpu_started)
"""


def _compile_times() -> Iterator[Row]:
    """Run two calls in fresh processes: over an empty cache, then over a full one."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("compiled", "from the cache"):
            done = subprocess.run(
                python(_COMPILE),
                env={**os.environ, "ORCHARD_CACHE_DIR": folder},
                check=True,
                capture_output=True,
                text=True,
            )
            for which, line in zip(("first", "second"), done.stdout.splitlines()):
                seconds, cpu_seconds = map(float, line.split())
                yield {
                    "what": f"{which} kernel's first use, {name}",
                    "seconds": seconds,
                    "cpu_seconds": cpu_seconds,
                }


def _device() -> torch.device:
    sim.enable()
    return torch.device(sim.DEVICE)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let PyTorch's own operators use one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _interleaved(
    calls: dict[str, Callable[[], Any]], turns: int, batch: int = 1
) -> dict[str, float]:
    """Return each call's median seconds of this thread's CPU time.

    Turns alternate, so that what slows the machine down hits all alike.  In a batch
    each call but the first finds its own code and data in the caches.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 10):
        for name, call in calls.items():
            started = time.thread_time()
            for _ in range(batch):
                call()
            if turn >= 10:
                times[name].append((time.thread_time() - started) / batch)
    return {name: statistics.median(values) for name, values in times.items()}


SUITES: dict[str, Suite] = {
    "work": work,
    "peers": peers,
    "memory": memory,
    "wide": wide,
    "host": host,
    "cpu": cpu,
    "simulator": simulator,
}
