"""What crosses between ranks, and how.

Everything is point to point with sizes that both sides know: blocks of unequal length
need no padding, and what counts as sent is what was sent.  Where the backend does not
take tensors of a device (gloo and Apple's GPU), they go through CPU tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from .._errors import InvalidProblemError, PeerError

__all__ = ["Link", "Message", "Transfer", "reset_traffic", "traffic"]

_CPU = torch.device("cpu")
# Backends that send from the CPU's memory alone.
_OF_CPU = ("gloo", "mpi")
_sent: Counter[str] = Counter()


def traffic() -> dict[str, int]:
    """Return how many bytes this process has sent, by purpose.

    The purposes are a method and a pass (``ring.forward``, ``ring.backward``, likewise
    ``all_gather`` and ``heads``), ``sinks``, ``check`` and ``unshard``;
    docs/distributed.md has the formulas.  What a backend adds to each message is not
    counted.
    """
    return dict(+_sent)


def reset_traffic() -> None:
    """Count from zero again."""
    _sent.clear()


class Message(NamedTuple):
    """A tensor on its way to or from a rank of the group.

    The tensor is contiguous and lies where `Link.place` says.
    """

    tensor: Tensor
    peer: int
    tag: int = 0


class Transfer:
    """Messages on their way; `wait` before what is sent changes or is read."""

    def __init__(self, link: Link, works: list[tuple[str, Any]]) -> None:
        """Keep what to wait for: what it does, in words, and PyTorch's handle."""
        self._link, self._works = link, works

    def wait(self) -> None:
        """Wait for all.

        Raises:
            PeerError: one failed, or took longer than the group's timeout.
        """
        for words, work in self._works:
            with self._link.faults(words):
                work.wait()


class Link:
    """A group as seen from one of its ranks, for one purpose at a time.

    Attributes:
        rank: this process's, in the group.
        size: how many ranks the group has; 1 where nothing was initialized.
    """

    def __init__(self, name: str, group: Any = None) -> None:
        """Look the group up.

        Args:
            name: the public function, for errors.
            group: a torch.distributed process group; None for all processes.

        Raises:
            InvalidProblemError: this process is not in the group.
        """
        self._name, self._group, self._purpose = name, group, ""
        self.rank, self.size = 0, 1
        if not dist.is_available() or not dist.is_initialized():
            return
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise InvalidProblemError(
                f"[{name}] expected a group that this process belongs to, got one of "
                "other ranks; call it on the group's ranks only"
            )

    def for_purpose(self, purpose: str) -> Link:
        """Return this link, whose bytes and faults are the purpose's from now on."""
        self._purpose = purpose
        return self

    def place(self, device: torch.device) -> torch.device:
        """Return the device that messages of tensors of a device lie on."""
        if self.size == 1:
            return device
        backends = _backends(self._group)
        backend = backends.get(device.type)
        if device.type != "cpu" and "cpu" in backends:
            is_taken = backend is not None and backend not in _OF_CPU
            return device if is_taken else _CPU
        return device

    def control_place(self, device: torch.device) -> torch.device:
        """Return where small tensors go: the CPU, unless the backend refuses it."""
        return _CPU if self.size == 1 or "cpu" in _backends(self._group) else device

    def start(self, sends: Sequence[Message], receives: Sequence[Message]) -> Transfer:
        """Send and receive without waiting; empty messages stay at home.

        Both sides know all sizes, so that neither waits for an empty one.
        """
        sends = [each for each in sends if each.tensor.numel()]
        receives = [each for each in receives if each.tensor.numel()]
        words = [f"receiving from rank {each.peer}" for each in receives]
        words += [f"sending to rank {each.peer}" for each in sends]
        operations = [self._operation(dist.irecv, each) for each in receives]
        operations += [self._operation(dist.isend, each) for each in sends]
        _sent[self._purpose] += sum(
            each.tensor.numel() * each.tensor.element_size() for each in sends
        )
        if not operations:
            return Transfer(self, [])
        with self.faults("; ".join(words)):
            works = dist.batch_isend_irecv(operations)
        if len(works) != len(words):  # one for all, as NCCL has it
            words = ["; ".join(words)] * len(works)
        return Transfer(self, list(zip(words, works)))

    def _operation(self, function: Any, message: Message) -> Any:
        peer = message.peer
        if self._group is not None:
            peer = dist.get_global_rank(self._group, peer)
        return dist.P2POp(function, message.tensor, peer, self._group, message.tag)

    def gathered(self, tensor: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """Return every rank's tensor of one dimension, this one's too.

        Args:
            tensor: contiguous, in its place.
            sizes: how many elements each rank's has.
        """
        found = [
            tensor if peer == self.rank else tensor.new_empty(size)
            for peer, size in enumerate(sizes)
        ]
        others = [peer for peer in range(self.size) if peer != self.rank]
        self.start(
            [Message(tensor, peer) for peer in others],
            [Message(found[peer], peer) for peer in others],
        ).wait()
        return found

    def scattered(
        self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]] | None = None
    ) -> list[Tensor]:
        """Return the part that each rank has for this one.

        Args:
            parts: one for each rank, on any device.
            shapes: of what comes from each rank; that of this rank's part if None.

        Returns:
            One for each rank, on the parts' device.
        """
        mine = parts[self.rank]
        place = self.place(mine.device)
        found = [
            mine.new_empty(
                mine.shape if shapes is None else tuple(shapes[peer]), device=place
            )
            for peer in range(self.size)
        ]
        others = [peer for peer in range(self.size) if peer != self.rank]
        self.start(
            [Message(parts[peer].to(place).contiguous(), peer) for peer in others],
            [Message(found[peer], peer) for peer in others],
        ).wait()
        found[self.rank] = mine
        return [each.to(mine.device) for each in found]

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum over ranks, added up in one order everywhere."""
        place = self.place(tensor.device)
        flat = tensor.to(place).contiguous().view(-1)
        parts = self.gathered(flat, [flat.numel()] * self.size)
        return torch.stack(parts).sum(0).view(tensor.shape).to(tensor.device)

    @contextmanager
    def faults(self, words: str) -> Iterator[None]:
        """Say which rank a failure of the backend is about.

        Raises:
            PeerError: the backend failed inside.
        """
        try:
            yield
        except RuntimeError as error:
            raise PeerError(
                f"[{self._name}] expected every rank to take part, but {words} failed "
                f"on rank {self.rank} of {self.size} ({self._purpose}): {error}; a "
                "rank has ended, hangs, or did not make this call within the group's "
                "timeout: look at its own output, and start all ranks again"
            ) from error


def _backends(group: Any) -> dict[str, str]:
    """Return device type → backend of a group, as PyTorch chose or was told them."""
    text = str(dist.get_backend_config(group))
    pairs = (each.partition(":") for each in text.split(","))
    return {device: backend for device, _, backend in pairs}
