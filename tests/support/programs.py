"""What the processes of tests/api/test_processes.py run.

A module, because a process that is spawned imports what it shall call.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from cases import Case
from draws import make_inputs
from harness import run_case
from reference import Results
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import orchard_ops

SMALL = Case("processes", heads_q=2, heads_kv=1, len_q=33, len_kv=40, causal="top-left")
# One of its launches takes the simulator longer than it lets an interrupt wait.
LONG = Case("interrupts", heads_q=4, heads_kv=4, len_q=1024, len_kv=1024)
# Which part Ctrl-C falls into, so many seconds after its beginning.
INTERRUPTS = (("forward", 0.0), ("backward", 0.0), ("forward", 0.3), ("backward", 0.3))

# Ends while PyTorch's thread for the device still holds a backward's graph: on one
# core that thread goes on when this one waits, and this one keeps Python's lock.  A
# text, because what the imports above do at the end would let it go on.
END_AFTER_BACKWARD = """
import os, sys, torch
if sys.argv[1] == "metalsim":
    from orchard_ops import sim
    sim.enable()
if hasattr(os, "sched_setaffinity"):  # not on a Mac
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.setswitchinterval(60)
x = torch.ones(8).to(sys.argv[1]).requires_grad_()
(x * 2).sum().backward()
"""


def prepare(name: str) -> torch.device:
    """Return a device that this process can use."""
    torch.set_num_threads(1)  # a forked process does not have the others
    if name == "metalsim":
        orchard_ops.sim.enable()
    return torch.device(name)


def step(device: torch.device, case: Case = SMALL) -> Results:
    """Return what a forward and its backward give."""
    return run_case(case, make_inputs(case), device)


def is_same(found: Results, expected: Results) -> bool:
    """Say whether all results have the same bits."""
    pairs = zip(found.items(), expected.items())
    return all(torch.equal(one, other) for (_, one), (_, other) in pairs)


def forward(device: torch.device) -> Tensor:
    """Return the output alone: PyTorch refuses a backward in a forked process."""
    q, k, v = (tensor.to(device) for tensor in make_inputs(SMALL).core[:3])
    return orchard_ops.flash_attention(q, k, v, is_causal=True).cpu()


class Rows(Dataset[Tensor]):
    """Outputs, and with gradients those too, that a DataLoader's workers compute."""

    def __init__(self, device: str, has_gradients: bool) -> None:
        """Remember what the workers shall do, where."""
        self.device, self.has_gradients = device, has_gradients

    def __len__(self) -> int:
        """Return how many times it is done."""
        return 6

    def __getitem__(self, index: int) -> Tensor:
        """Compute, in the worker."""
        device = prepare(self.device)
        if not self.has_gradients:
            return forward(device)
        found = step(device)
        return torch.cat([found.out, found.dq], -1)


def load(name: str, method: str) -> None:
    """Compute here and in workers that are forked or spawned, at the same time."""
    device = prepare(name)
    expected = step(device)
    is_forked = method == "fork"
    # A forked process cannot use a GPU that its parent uses.
    place = "cpu" if is_forked and name == "mps" else name
    want = forward(torch.device(place))
    if not is_forked:
        want = torch.cat([expected.out, expected.dq], -1)
    rows = Rows(place, not is_forked)
    workers = 2 if is_forked else 1
    loader = DataLoader(rows, num_workers=workers, multiprocessing_context=method)
    for (row,) in loader:
        assert torch.equal(row, want)
        assert is_same(step(device), expected)


@contextmanager
def computing(device: torch.device) -> Iterator[None]:
    """Let another thread take one step after the other meanwhile."""
    is_over, has_begun = threading.Event(), threading.Event()

    def work() -> None:
        while not is_over.is_set():
            step(device)
            has_begun.set()

    thread = threading.Thread(target=work)
    thread.start()
    has_begun.wait()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def fork(name: str) -> None:
    """Fork while another thread computes; the children compute too."""
    device = prepare(name)
    expected = forward(device)
    step(device)
    with computing(device):
        for _ in range(5):
            child = os.fork()
            if child == 0:
                signal.alarm(60)  # rather than hang
                os._exit(0 if torch.equal(forward(device), expected) else 1)
            assert os.waitpid(child, 0)[1] == 0, "a child hangs or is wrong"


def leave_a_thread(name: str) -> None:
    """End the main thread while another computes and a graph waits for backward."""
    device = prepare(name)
    expected = step(device)
    q = torch.ones(1, 1, 8, 64, device=device).requires_grad_()
    sys.modules["__main__"].graph = orchard_ops.flash_attention(q, q, q)  # type: ignore[attr-defined]

    def work() -> None:
        assert all(is_same(step(device), expected) for _ in range(3))
        print("done", flush=True)

    threading.Thread(target=work).start()


SLOW = """
kernel void slow(device float* x [[buffer(0)]]) {
  for (int n = 0; n < 1 << 21; ++n) x[n % 4] = x[n % 4] * 0.5f + 1.0f;
}
"""


def leave_a_daemon() -> None:
    """End the process while a thread that nobody waits for is in a kernel."""
    import numpy as np

    kernel = orchard_ops.sim.compile(SLOW, "slow")
    has_begun = threading.Event()

    def work() -> None:
        while True:
            kernel.dispatch([np.zeros(4, np.float32)], 1, 1)
            has_begun.set()

    threading.Thread(target=work, daemon=True).start()
    has_begun.wait()
    print("done", flush=True)


def interrupt(name: str) -> None:
    """Compute until SIGINT, several times; then one more step must be right."""
    device = prepare(name)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    expected = step(device)
    q, k, v = (tensor.to(device) for tensor in make_inputs(LONG).core[:3])
    q.requires_grad_()

    def begins(_: Tensor) -> None:
        print("backward", flush=True)

    for _ in range(len(INTERRUPTS)):
        try:
            while True:
                print("forward", flush=True)
                out = orchard_ops.flash_attention(q, k, v)
                out.register_hook(begins)  # type: ignore[no-untyped-call]
                torch.autograd.backward(out, torch.ones_like(out))
        except KeyboardInterrupt:
            pass
        assert is_same(step(device), expected)
        print("right", flush=True)
