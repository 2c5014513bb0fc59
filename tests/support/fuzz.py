"""Random problems for the calls that users make, each named ``seed:index``.

combinations.py draws from the product of the features, and asks for lse; this draws
what the other ways serve: few features, and everything that PyTorch's function on the
CPU may stumble over.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from cases import BF16, F16, F32, Case, Mask

# The call that is made, and how often it is drawn.  "sdpa" runs on the device.
CALLS = {"plain": 6, "dao": 3, "dao-packed": 2, "packed": 2, "kvcache": 2, "sdpa": 1}
# Of sdpa: kernels are compiled for each, so there are few.
SDPA_DTYPES = (F32, F16)
SDPA_HEAD_DIM = 64


@dataclass(frozen=True)
class Problem:
    """A case, and the call that is to solve it."""

    call: str
    case: Case

    def __str__(self) -> str:
        """Return the text that `parse` reads: JSON of what is not usual."""
        found: dict[str, Any] = {"call": self.call}
        for each in fields(Case):
            value = getattr(self.case, each.name)
            if each.name == "name" or value == each.default:
                continue
            if isinstance(value, torch.dtype):
                value = str(value)[len("torch.") :]
            found[each.name] = vars(value) if isinstance(value, Mask) else value
        return json.dumps(found)


def parse(text: str) -> Problem:
    """Return the problem that a text says; the text names it, and so its numbers."""
    found = json.loads(text)
    call = found.pop("call")
    if "dtype" in found:
        found["dtype"] = getattr(torch, found["dtype"])
    if "mask" in found:
        found["mask"] = Mask(**found["mask"])
    for label in ("window", "sequences"):
        if label in found:
            found[label] = tuple(
                tuple(x) if isinstance(x, list) else x for x in found[label]
            )
    return Problem(call, Case(text, **found))


def draw_problem(seed: int, index: int) -> Problem:
    """Return problem ``index`` of a seed; it depends on nothing else."""
    return draw_from(random.Random(f"fuzz {seed}:{index}"), f"{seed}:{index}")


def draw_from(rng: random.Random, name: str) -> Problem:
    """Return a problem of some random numbers, which hypothesis can shrink."""
    (call,) = rng.choices(list(CALLS), list(CALLS.values()))
    heads_kv = rng.choice([1, 1, 2, 3])
    groups = rng.choice([1, 1, 1, 2, 4]) if call != "sdpa" else 1
    head_dim = rng.choice([1, 3, 8, 16, 33, 64])
    case = Case(
        f"{name}:{call}",
        rng.choice([F32, F32, BF16, F16]),
        batch=rng.choice([1, 1, 2, 3]),
        heads_q=heads_kv * groups,
        heads_kv=heads_kv,
        len_q=_draw_length(rng),
        len_kv=_draw_length(rng),
        head_dim=head_dim,
        head_dim_v=rng.choice([head_dim, head_dim, head_dim, 5, 40]),
        scale=rng.choice(
            [None, None, None, 0.0, rng.uniform(-1, 0), rng.uniform(0, 2)]
        ),
        layout=rng.choice(["contiguous", "contiguous", "transposed", "sliced"]),
    )
    if rng.random() < 0.3:
        case = replace(case, len_kv=case.len_q)
    return Problem(call, _FINISH[call](rng, case))


def _draw_length(rng: random.Random) -> int:
    return rng.choice([0, 1, 1, 2, rng.randint(1, 10), rng.randint(1, 40), 70])


def _plain(rng: random.Random, case: Case) -> Case:
    """Add a mask, or causal, or one of the features that take the long way."""
    extra = rng.choice(["", "", "mask", "mask", "mask", "mask", "causal", "causal",
                        "both", "window", "softcap", "alibi", "sinks",
                        "dropout"])  # fmt: skip
    if case.heads_q == 1 and rng.random() < 0.3:
        case = replace(case, ndim=3)
    if extra in ("mask", "both"):
        case = replace(case, mask=_draw_mask(rng, case.ndim))
    if extra in ("causal", "both"):
        case = replace(case, causal=rng.choice(["top-left", "bottom-right"]))
    return _with_feature(rng, case, extra)


def _dao(rng: random.Random, case: Case, last: str = "dropout") -> Case:
    """Align at the bottom right, as Dao's functions do."""
    case = replace(case, alignment="bottom-right")
    if rng.random() < 0.4:
        case = replace(case, causal="bottom-right")
    extra = rng.choice(["", "window", "softcap", "alibi", last])
    return _with_feature(rng, case, extra)


def _with_feature(rng: random.Random, case: Case, extra: str) -> Case:
    if extra == "window":
        sides = (rng.choice([-1, 0, 3, 50]), rng.choice([-1, 0, 2, 50]))
        return replace(case, window=sides)
    if extra == "softcap":
        return replace(case, softcap=rng.choice([0.5, 3.0, 30.0]))
    if extra == "alibi":
        return replace(case, alibi=rng.choice(["heads", "batch-heads"]))
    if extra == "sinks":
        return replace(case, sinks=rng.choice(["normal", "large", "-inf"]))
    if extra == "dropout":
        return replace(case, dropout=rng.choice([0.1, 0.5, 0.99]))
    return case


def _packed(rng: random.Random, case: Case) -> Case:
    """Draw lengths for several sequences, some of them empty."""
    count = rng.randint(1, 4)
    sequences = [(_draw_length(rng), _draw_length(rng)) for _ in range(count)]
    if rng.random() < 0.4:
        sequences = [(length, length) for length, _ in sequences]
    layout = "contiguous" if case.layout == "transposed" else case.layout
    return replace(case, batch=1, sequences=tuple(sequences),
                   rest=rng.choice([0, 0, 3]), layout=layout)  # fmt: skip


def _draw_mask(rng: random.Random, ndim: int) -> Mask:
    """Draw one of every broadcast, rank, layout and range of numbers."""
    order = "bhqk" if ndim == 4 else "bqk"
    dims = "".join(dim for dim in order if rng.random() < 0.6)
    missing = next((i for i, dim in enumerate(order) if dim in dims), len(order))
    rank = ndim - rng.randint(0, missing)
    kind = rng.choice(["bool", "float", "float", "float32"])
    hidden = ["none", "random", "rows", "columns", "all"]
    if kind != "bool":
        hidden += ["lowest", "lowest"]
    layouts = ["contiguous", "contiguous", "sliced"]
    if rank >= 2:
        layouts.append("transposed")
    return Mask(kind, dims, rank, rng.choice(hidden), rng.choice(layouts))


def _sdpa(rng: random.Random, case: Case) -> Case:
    """Keep to few kernels, and to what PyTorch's function has words for."""
    case = replace(
        case, dtype=rng.choice(SDPA_DTYPES), head_dim=SDPA_HEAD_DIM,
        head_dim_v=SDPA_HEAD_DIM, len_q=max(case.len_q, 1), len_kv=max(case.len_kv, 1),
    )  # fmt: skip
    if rng.random() < 0.3:
        return replace(case, causal="top-left")
    mask = _draw_mask(rng, 4)
    kind = "float" if mask.kind == "float32" else mask.kind
    return replace(case, mask=replace(mask, kind=kind))


_FINISH = {
    "plain": _plain,
    "packed": lambda rng, case: _packed(rng, _plain_without_mask(rng, case)),
    "dao": _dao,
    "dao-packed": lambda rng, case: _packed(rng, _dao(rng, case)),
    "kvcache": lambda rng, case: _dao(rng, case, "sinks"),  # which drops nothing
    "sdpa": _sdpa,
}


def _plain_without_mask(rng: random.Random, case: Case) -> Case:
    return replace(_plain(rng, case), mask=None, ndim=4)
