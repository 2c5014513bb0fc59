"""Source code found on the machine, as one tensor of bytes."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["Batches", "read_corpus", "standard_library"]

SUFFIXES = frozenset(
    [
        ".c",
        ".cc",
        ".cpp",
        ".go",
        ".h",
        ".hpp",
        ".java",
        ".js",
        ".m",
        ".metal",
        ".mm",
        ".py",
        ".rs",
        ".swift",
        ".ts",
    ]
)
MAX_BYTES = 2_000_000


def standard_library() -> Path:
    """Return the directory of Python's own source code."""
    return Path(sysconfig.get_paths()["stdlib"])


def read_corpus(directory: Path, least_bytes: int) -> Tensor:
    """Read source files, in order of their paths, until there is enough text.

    Returns:
        uint8 ``[bytes]``, at most two million of them.

    Raises:
        ValueError: the directory holds less than ``least_bytes`` of source code.
    """
    text = bytearray()
    for path in sorted(directory.rglob("*")):
        if len(text) >= MAX_BYTES:
            break
        if path.suffix in SUFFIXES and path.is_file():
            try:
                text += path.read_bytes()
            except OSError:  # Not ours to read: other files will do.
                continue
    if len(text) < least_bytes:
        raise ValueError(
            f"expected at least {least_bytes} bytes of source code in {directory}, "
            f"found {len(text)}; name another directory with --data"
        )
    return torch.frombuffer(text[:MAX_BYTES], dtype=torch.uint8)


class Batches:
    """Random pieces of a text with their next bytes; the same for the same seed."""

    def __init__(self, text: Tensor, batch: int, length: int, seed: int) -> None:
        self._text = text
        self._batch = batch
        self._length = length
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return tokens and targets, int64 ``[batch, length]`` on the CPU."""
        last = self._text.numel() - self._length - 1
        starts = torch.randint(last, (self._batch, 1), generator=self._generator)
        pieces = self._text[starts + torch.arange(self._length + 1)].long()
        return pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous()
