"""The shapes that are tuned for: a user's, or those of common models."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .._errors import InvalidProblemError

__all__ = [
    "COMMON",
    "Class",
    "Shape",
    "classes_of",
    "parse_shape",
    "shapes_of_log",
]

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}
LARGEST_HEAD_DIM = 576
# A line of csrc/torch/trace/launch_log.cpp.
CALL = re.compile(
    r"(FWD|BWD|DEC) call=\d+ q=\(([\d, ]+)\) k=\(([\d, ]+)\) v=\(([\d, ]+)\) "
    r"dtype=(\w+) kernels=(\S+)"
)
HELP = "B,H,HKV,LQ,LK,D[,dtype][,causal][,decode]"


@dataclass(frozen=True)
class Shape:
    """A call of attention."""

    batch: int
    heads_q: int
    heads_kv: int
    len_q: int
    len_kv: int
    head_dim: int
    dtype: str = "float16"
    is_causal: bool = False
    is_decode: bool = False
    """A step of flash_attention_with_kvcache, over all of a cache of len_kv."""

    def __str__(self) -> str:
        """Return what parse_shape reads."""
        heads = (self.batch, self.heads_q, self.heads_kv)
        sizes = (*heads, self.len_q, self.len_kv, self.head_dim)
        words = ["causal"] * self.is_causal + ["decode"] * self.is_decode
        return ",".join([*map(str, sizes), self.dtype, *words])

    @property
    def torch_dtype(self) -> torch.dtype:
        """PyTorch's dtype."""
        return DTYPES[self.dtype]

    def shortened(self, length: int) -> Shape:
        """Return one that needs the same kernels, of at most one batch and length."""
        group = self.heads_q // self.heads_kv
        return replace(
            self,
            batch=1,
            heads_q=group,
            heads_kv=1,
            len_q=min(self.len_q, length),
            len_kv=min(self.len_kv, length),
        )


@dataclass(frozen=True)
class Class:
    """What a choice is kept for: shapes of one dtype and head size."""

    dtype: str
    head_dim: int

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.dtype} head_dim {self.head_dim}"


def classes_of(shapes: Iterable[Shape]) -> dict[Class, list[Shape]]:
    """Return class → its shapes, each once, in the order given."""
    found: dict[Class, list[Shape]] = {}
    for shape in dict.fromkeys(shapes):
        found.setdefault(Class(shape.dtype, shape.head_dim), []).append(shape)
    return found


def parse_shape(text: str) -> Shape:
    """Return the shape that a text such as ``1,8,8,4096,4096,64,float16,causal`` names.

    Raises:
        InvalidProblemError: it names none.
    """
    words = [word.strip() for word in text.split(",")]
    numbers, rest = words[:6], words[6:]
    flags = {"causal", "decode"}
    dtypes = [word for word in rest if word in DTYPES]
    is_known = all(word in flags or word in DTYPES for word in rest)
    if len(numbers) < 6 or not is_known or len(dtypes) > 1:
        raise InvalidProblemError(
            f"[tune] expected a shape {HELP}, got {text!r}; a dtype is one of "
            f"{', '.join(DTYPES)}"
        )
    if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in numbers):
        raise InvalidProblemError(
            f"[tune] expected six sizes of at least 1, got {text!r}; write them as "
            f"{HELP}"
        )
    batch, heads_q, heads_kv, len_q, len_kv, head_dim = map(int, numbers)
    shape = Shape(
        *(batch, heads_q, heads_kv, len_q, len_kv, head_dim),
        dtype=(dtypes or ["float16"])[0],
        is_causal="causal" in rest,
        is_decode="decode" in rest,
    )
    _check(shape)
    return shape


def shapes_of_log(path: Path, most: int = 16) -> list[Shape]:
    """Return the shapes that a log of ORCHARD_DEBUG_FLASH_ATN has most often.

    Raises:
        InvalidProblemError: no line of it tells of a call.
    """
    calls = CALL.findall(path.read_text(encoding="utf-8", errors="replace"))
    counts = Counter(_shape_of_call(*call) for call in calls)
    if not counts:
        raise InvalidProblemError(
            f"[tune] expected the log of a run with ORCHARD_DEBUG_FLASH_ATN=1, got "
            f"{path}, which tells of no call"
        )
    return [shape for shape, _ in counts.most_common(most)]


def _shape_of_call(
    direction: str, q: str, k: str, v: str, dtype: str, kernels: str
) -> Shape:
    batch, heads_q, len_q, head_dim = map(int, q.split(","))
    _, heads_kv, len_kv, _ = map(int, k.split(","))
    return Shape(
        *(batch, heads_q, heads_kv, len_q, len_kv),
        head_dim=max(head_dim, int(v.split(",")[3])),
        dtype=dtype,
        # Its kernels have a window, as all that are not dense.
        is_causal="_window" in kernels,
        is_decode=direction == "DEC",
    )


def _check(shape: Shape) -> None:
    if shape.heads_q % shape.heads_kv:
        raise InvalidProblemError(
            f"[tune] expected H to be a multiple of HKV, got {shape}; repeat or drop "
            "heads"
        )
    if shape.head_dim > LARGEST_HEAD_DIM:
        raise InvalidProblemError(
            f"[tune] expected a head_dim from 1 to {LARGEST_HEAD_DIM}, got {shape}; "
            "split wider heads into several"
        )


# Of models that people train and run: GPT-2, Llama 3, an image model's, Gemma; and a
# step of decoding.
COMMON = tuple(
    map(
        parse_shape,
        (
            "1,12,12,1024,1024,64,float16,causal",
            "1,12,12,4096,4096,64,float16,causal",
            "2,10,10,4096,4096,64,float16",
            "1,32,8,2048,2048,128,bfloat16,causal",
            "1,32,8,4096,4096,128,float16,causal",
            "1,8,4,2048,2048,256,bfloat16,causal",
            "1,32,8,1,4096,128,float16,decode",
        ),
    )
)
