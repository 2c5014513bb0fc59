"""Calls from several threads and processes at once, and processes that end early."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Callable, TypeVar

import pytest
import torch
from cases import Case
from draws import make_inputs
from harness import run_case
from needs import needs_metalsim
from programs import INTERRUPTS, is_same
from reference import Results, assert_close
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import orchard_ops
from orchard_ops._child import python

THREADS = 4
LIMIT = 240  # seconds; what a test takes under a sanitizer, several times
# Problems that take other kernels, and that no other test has: first calls meet.
CASES = [
    Case("threads-plain", heads_q=2, heads_kv=2, len_q=37, len_kv=51),
    Case("threads-causal", heads_q=2, heads_kv=1, len_q=41, len_kv=41,
         causal="top-left", grad_lse=True),
    Case("threads-window", len_q=45, len_kv=43, window=(9, 4), softcap=3.0),
]  # fmt: skip
T = TypeVar("T")


def at_once(work: Callable[[int], T]) -> list[T]:
    """Return what a function gives to each of several threads that begin together."""
    start = threading.Barrier(THREADS)

    def run(index: int) -> T:
        start.wait()
        return work(index)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


def test_threads_compute_what_one_computes(device: torch.device) -> None:
    """Forward and backward from several threads give the bits of one, which are right.

    The threads come first, so that they meet where kernels are chosen and loaded.
    """
    inputs = [make_inputs(case) for case in CASES]

    def work(index: int) -> list[Results]:
        turned = [(index + i) % len(CASES) for i in range(2 * len(CASES))]
        found = {at: run_case(CASES[at], inputs[at], device) for at in turned}
        return [found[at] for at in range(len(CASES))]

    together = at_once(work)
    for at, case in enumerate(CASES):
        alone = run_case(case, inputs[at], device)
        assert_close(case, inputs[at], alone)
        assert all(is_same(found[at], alone) for found in together)


def test_threads_differentiate_one_graph(device: torch.device) -> None:
    """Several backwards of one graph give the same bits, on the CPU and the device.

    The device's nodes run in one thread of autograd's, and a checkpoint computes its
    forward there, in a backward within the backward.
    """
    q, k, v = (tensor.requires_grad_() for tensor in make_inputs(CASES[0]).core[:3])
    moved = [tensor.to(device) for tensor in (q, k, v)]
    again = checkpoint(orchard_ops.flash_attention, *moved, use_reentrant=False)
    out = orchard_ops.flash_attention(*moved).cpu() * again.cpu()
    out = out + orchard_ops.flash_attention(q, k, v)

    def work(_: int) -> tuple[Tensor, ...]:
        return torch.autograd.grad(out.sum(), (q, k, v), retain_graph=True)

    together, alone = at_once(work), work(0)
    for found in together:
        assert all(map(torch.equal, found, alone))


@contextmanager
def program(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Start a function of programs.py; end it if it does not end by itself, in time."""
    text = "import programs\ngetattr(programs, sys.argv[1])(*sys.argv[2:])"
    process = subprocess.Popen(
        python(text, *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = threading.Timer(LIMIT, process.kill)
    limit.start()
    try:
        yield process
    finally:
        limit.cancel()
        process.kill()
        process.communicate()


def assert_runs(*words: str) -> str:
    """Run a program to its end; return what it printed."""
    with program(*words) as process:
        out, complaints = process.communicate()
        assert process.returncode == 0, complaints
    return out


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_dataloader(method: str, device: torch.device) -> None:
    """Workers, forked or spawned, compute beside their parent, with its bits.

    Those that are spawned differentiate too; PyTorch refuses that in forked ones.
    """
    if method == "fork" and sys.platform == "darwin":
        pytest.skip("macOS has frameworks that a forked process must not use")
    assert_runs("load", device.type, method)


@needs_metalsim("device")
def test_fork_while_a_thread_computes(device: torch.device) -> None:
    """A forked process computes, whatever its parent's threads were at."""
    assert_runs("fork", device.type)


def test_the_end_waits_for_a_thread(device: torch.device) -> None:
    """A main thread may end before another, and before a graph's backward."""
    assert assert_runs("leave_a_thread", device.type) == "done\n"


@needs_metalsim("simulator")
def test_the_end_waits_for_no_daemon() -> None:
    """A process ends well though a thread is in a kernel, and leaves it there."""
    assert assert_runs("leave_a_daemon") == "done\n"


def test_interrupts_in_forward_and_backward(device: torch.device) -> None:
    """Ctrl-C is KeyboardInterrupt, wherever it falls; the next step is right."""
    with program("interrupt", device.type) as process:

        def wait_for(word: str) -> None:
            while (line := process.stdout.readline()) != f"{word}\n":
                assert line in ("forward\n", "backward\n"), process.communicate()[1]

        for part, delay in INTERRUPTS:
            wait_for(part)
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            wait_for("right")
        assert process.wait() == 0
