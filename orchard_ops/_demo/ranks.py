"""One model on several processes, each with a part of every sequence."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from .. import _child, distributed
from .._device import choose_device
from .corpus import read_corpus
from .gpt import GPT, Shape

__all__ = ["Ranks", "follow", "started"]

# What each further process runs: the training of its rank, which says nothing.
FOLLOW = """
from orchard_ops._demo.ranks import follow
follow(*sys.argv[1:])
"""


class Ranks:
    """This process among those that share the model's sequences.

    Each has all weights and its rows of every sequence; attention alone sees the
    others' rows.
    """

    def __init__(self, length: int, device: torch.device) -> None:
        """Divide sequences of a length among the processes of the default group."""
        self._length = length
        self._positions = distributed.positions(length, device=device)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return causal attention of this process's rows to all rows before them."""
        return distributed.context_parallel_attention(
            q, k, v, is_causal=True, length=self._length
        )

    def part(self, x: Tensor, dim: int) -> Tensor:
        """Return this process's rows of a tensor that every process has."""
        return distributed.shard(x, dim=dim)

    def loss(self, model: GPT, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return this process's share of the mean cross-entropy of whole batches."""
        scores = model(self.part(tokens, 1), self._positions).flatten(0, 1)
        share = self.part(targets, 1).flatten()
        total: Tensor = functional.cross_entropy(scores, share, reduction="sum")
        return total / targets.numel()

    def add_up(self, *tensors: Tensor) -> None:
        """Replace tensors by their sums over the processes."""
        for tensor in tensors:  # gloo takes tensors of the CPU alone.
            on_host = tensor.cpu()
            dist.all_reduce(on_host)
            tensor.copy_(on_host)


@contextlib.contextmanager
def started(ranks: int, data: Path, steps: int, seed: int) -> Iterator[None]:
    """Make this process rank 0 of a group, and start the others beside it.

    Args:
        ranks: how many processes, this one among them.
        data: what ``follow`` trains on, as are the others.
        steps: how many.
        seed: of weights and batches.

    Raises:
        subprocess.CalledProcessError: another process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        others = [
            subprocess.Popen(
                _child.python(FOLLOW, store, str(rank), str(ranks), str(data),
                              str(steps), str(seed))
            )
            for rank in range(1, ranks)
        ]  # fmt: skip
        try:
            _join(store, 0, ranks)
            yield
            dist.destroy_process_group()
            for other in others:
                if other.wait() != 0:
                    raise subprocess.CalledProcessError(other.returncode, other.args)
        finally:
            for other in others:
                other.kill()
                other.wait()


def follow(store: str, rank: str, ranks: str, data: str, steps: str, seed: str) -> None:
    """Train as another rank than the first, in a process of its own."""
    from .comparison import Comparison  # which imports this

    torch.set_num_threads(1)
    shape, device = Shape(), choose_device()
    text = read_corpus(Path(data), least_bytes=shape.batch * shape.length)
    _join(store, int(rank), int(ranks))
    comparison = Comparison(shape, device, text, int(seed), is_divided=True)
    for _ in range(int(steps)):
        comparison.step()
    dist.destroy_process_group()


def _join(store: str, rank: int, ranks: int) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=ranks
    )
