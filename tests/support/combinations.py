"""Random problems from the product of all features, each named ``seed:index``.

What a kernel is compiled for is drawn once, into KINDS, which never change from run to
run; lengths, heads, values and strides are drawn for every problem.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Any

import torch
from cases import BF16, F16, F32, Case, Mask

FEATURES = ("mask", "window", "softcap", "alibi", "sinks", "dropout", "packed")
# Scores times heads times head size: what a problem may cost.
MOST_WORK = 3_000_000


@dataclass(frozen=True)
class Kind:
    """What kernels are compiled for."""

    dtype: torch.dtype
    head_dim: int
    head_dim_v: int
    mask: str  # "", or a Mask's kind
    features: frozenset[str]  # of FEATURES
    is_sliced: bool  # odd strides: loads of single elements


def _draw_kind(rng: random.Random, index: int) -> Kind:
    dtype = (F32, F16, BF16)[index % 3]
    head_dim = rng.choice([64, 64, 64, 16, 33, 40, 80, 128, 256])
    head_dim_v = rng.choice([head_dim, head_dim, head_dim, 24, 96])
    features = {name for name in FEATURES if rng.random() < 0.45}
    if {"packed", "mask"} <= features:  # which packed sequences do not have
        features.remove(rng.choice(["packed", "mask"]))
    kind = rng.choice(["bool", "float", "float", "float32"])
    mask = kind if "mask" in features else ""
    is_sliced = rng.random() < 0.15
    return Kind(dtype, head_dim, head_dim_v, mask, frozenset(features), is_sliced)


_KINDS = random.Random(5)
KINDS = [_draw_kind(_KINDS, index) for index in range(48)]


def draw_case(seed: int, index: int) -> Case:
    """Return problem ``index`` of a seed; it depends on nothing else."""
    rng = random.Random(f"{seed}:{index}")
    kind = KINDS[index % len(KINDS)]
    has = kind.features.__contains__
    sizes = _draw_sizes(rng, kind)
    ndim = 3 if sizes["heads_q"] == 1 and not has("packed") else 4
    causal, window = _draw_window(rng) if has("window") else ("none", None)
    layouts = ["contiguous", "transposed"]
    return Case(
        f"{seed}:{index}",
        kind.dtype,
        head_dim=kind.head_dim,
        head_dim_v=kind.head_dim_v,
        ndim=ndim,
        scale=rng.choice([None, None, None, rng.uniform(-0.5, 0.5)]),
        mask=_draw_mask(rng, kind.mask, ndim) if kind.mask else None,
        causal=causal,
        window=window,
        alignment=rng.choice(["top-left", "bottom-right"]),
        softcap=10 ** rng.uniform(-0.5, 1.7) if has("softcap") else 0.0,
        alibi=rng.choice(["heads", "batch-heads"]) if has("alibi") else "",
        sinks=rng.choice(["normal", "large", "-inf"]) if has("sinks") else "",
        dropout=rng.choice([0.1, rng.uniform(0.001, 0.9)]) if has("dropout") else 0.0,
        layout="sliced" if kind.is_sliced else rng.choice(layouts),
        grad_lse=index // len(KINDS) % 2 == 1,
        **sizes,
    )


def _draw_sizes(rng: random.Random, kind: Kind) -> dict[str, Any]:
    heads_kv = rng.choice([1, 1, 2, 3])
    heads_q = heads_kv * rng.choice([1, 1, 2, 3, 4])
    sizes: dict[str, Any] = dict(heads_q=heads_q, heads_kv=heads_kv)
    most = MOST_WORK / heads_q / kind.head_dim  # scores
    if "packed" in kind.features:
        count = rng.randint(1, 5)
        pairs = [_draw_lengths(rng, most / count) for _ in range(count)]
        if rng.random() < 0.2:
            pairs.insert(rng.randint(0, count), rng.choice([(0, 7), (5, 0), (0, 0)]))
        return dict(sizes, sequences=tuple(pairs), rest=rng.choice([0, 0, 4]))
    batch = rng.choice([1, 1, 2, 3])
    len_q, len_kv = _draw_lengths(rng, most / batch)
    return dict(sizes, batch=batch, len_q=len_q, len_kv=len_kv)


def _draw_lengths(rng: random.Random, most: float) -> tuple[int, int]:
    def draw() -> int:
        return rng.randint(1, rng.choice([1, 10, 40, 40, 90, 300]))

    len_q = draw()
    len_kv = len_q if rng.random() < 0.3 else draw()
    while len_q * len_kv > most:
        len_q, len_kv = (len_q + 1) // 2, (len_kv + 1) // 2
    return len_q, len_kv


def _draw_window(rng: random.Random) -> tuple[str, tuple[int, int] | None]:
    causal = rng.choice(["none", "top-left", "bottom-right"])
    if causal != "none" and rng.random() < 0.6:
        return causal, None
    sides = [rng.choice([-1, 0, rng.randint(0, 10), rng.randint(0, 80)]) for _ in "lr"]
    return causal, (sides[0], 0 if sides == [-1, -1] else sides[1])


def _draw_mask(rng: random.Random, kind: str, ndim: int) -> Mask:
    dims = "".join(
        dim for dim in ("bhqk" if ndim == 4 else "bqk") if rng.random() < 0.7
    )
    order = "bhqk" if ndim == 4 else "bqk"
    missing = len(list(itertools.takewhile(lambda dim: dim not in dims, order)))
    hidden = ["none", "random", "rows", "columns", "tiles", "lowest"]
    layouts = ["contiguous", "sliced"]
    rank = ndim - rng.randint(0, missing)
    if rank >= 2:
        layouts.append("transposed")
    if rank == 4:
        layouts.append("expanded")
    return Mask(kind, dims, rank, rng.choice(hidden), rng.choice(layouts))
