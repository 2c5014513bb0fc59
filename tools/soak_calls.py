"""The calls that tools/soak.py mixes: few kernels, small tensors, every public way.

Each is a function of a number of rows, and says how many forward and backward calls
of the operators it makes on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

import orchard_ops
from orchard_ops import flash_attn, sdpa, sim

__all__ = ["CALLS", "CPU", "ROWS", "SIM", "Call"]

SIM, CPU = sim.DEVICE, "cpu"
# Below a tile, no multiple of anything, more than a tile.
ROWS = (8, 17, 40)
HEADS, SIZE = 2, 32


class Call(NamedTuple):
    """A function, and what the operators count of it."""

    run: Callable[[int], None]
    forward: int = 0
    backward: int = 0
    fallbacks: int = 0


def draw(*shape: int, device: str = SIM, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return random numbers that want a gradient."""
    return torch.randn(shape).to(device, dtype).requires_grad_()


def whole(*numbers: int, device: str = SIM) -> Tensor:
    """Return whole numbers, as where sequences begin."""
    return torch.tensor(numbers, dtype=torch.int32).to(device)


def inputs(rows: int, heads_kv: int = HEADS, **place: Any) -> list[Tensor]:
    """Return q, k and v."""
    return [
        draw(1, heads, rows, SIZE, **place) for heads in (HEADS, heads_kv, heads_kv)
    ]


@contextmanager
def refused(words: str) -> Iterator[None]:
    """Expect an error with these words in the block."""
    try:
        yield
    except (orchard_ops.OrchardError, RuntimeError) as error:
        if words not in str(error):
            raise
    else:
        raise AssertionError(f"expected an error: {words}")


@contextmanager
def memory_runs_out(after: int) -> Iterator[None]:
    """Let the allocation that many after the next fail in the block."""
    torch.ops.orchard_metalsim.fail_allocation(after)
    try:
        with refused("out of memory"):
            yield
    finally:
        torch.ops.orchard_metalsim.fail_allocation(-1)


def train(
    rows: int,
    heads_kv: int = HEADS,
    device: str = SIM,
    dtype: torch.dtype = torch.float32,
    more: Callable[[int], dict[str, Any]] = lambda _: {},
    **options: Any,
) -> None:
    """Run flash_attention and its backward."""
    q, k, v = inputs(rows, heads_kv, device=device, dtype=dtype)
    out = orchard_ops.flash_attention(q, k, v, **options, **more(rows))
    if isinstance(out, tuple):
        out = out[0].sum() + out[1].sum()
    out.sum().backward()


def shared(rows: int) -> None:
    """Train on memory that the host reaches too."""
    with sim.default_storage_mode("shared"):
        train(rows, is_causal=True)


def forward(rows: int) -> None:
    """Run what keeps nothing for a backward."""
    with torch.no_grad():
        orchard_ops.flash_attention(*inputs(rows))


def packed(rows: int, device: str = SIM) -> None:
    """Train on two sequences in one."""
    q, k, v = (draw(rows, HEADS, SIZE, device=device) for _ in range(3))
    starts = whole(0, 3, rows, device=device)
    orchard_ops.flash_attention_varlen(
        q, k, v, starts, starts, rows, rows, is_causal=True
    ).sum().backward()


def decode(rows: int, device: str = SIM, pages: bool = False) -> None:
    """Add a key to a cache and attend to it."""
    shape = (4, 16, HEADS, SIZE) if pages else (1, 48, HEADS, SIZE)
    with torch.no_grad():
        q, k, v = (draw(1, 1, HEADS, SIZE, device=device) for _ in range(3))
        caches = [draw(*shape, device=device) for _ in range(2)]
        table = whole(2, 0, 3, 1, device=device).view(1, 4) if pages else None
        lengths = whole(rows, device=device)
        orchard_ops.flash_attention_with_kvcache(
            q, *caches, k, v, cache_seqlens=lengths, block_table=table
        )


def parts(rows: int, device: str = SIM) -> None:
    """Attend to a sequence in two parts, merge them, and take a part's gradients."""
    with torch.no_grad():
        q, k, v = inputs(rows, device=device)
        found = [
            orchard_ops.flash_attention_partial(q, k, v, k_offset=start)
            for start in (0, rows)
        ]
        out, lse = orchard_ops.merge_partials(found)
        orchard_ops.flash_attention_partial_backward(out, out, lse, q, k, v)


def drop_in(rows: int, device: str = SIM) -> None:
    """Train through PyTorch's own function; on the CPU that serves itself."""
    with sdpa.enabled():
        q, k, v = inputs(rows, device=device)
        functional.scaled_dot_product_attention(
            q, k, v, is_causal=True
        ).sum().backward()


def dao(rows: int) -> None:
    """Train through flash_attn's interface."""
    q, k, v = (draw(1, rows, HEADS, SIZE) for _ in range(3))
    out = flash_attn.flash_attn_func(q, k, v, causal=True)
    assert isinstance(out, Tensor)
    out.sum().backward()


def misfit(rows: int, device: str = SIM) -> None:
    """Pass k of another head size than q."""
    q, k, v = inputs(rows, device=device)
    with refused("head_dim"):
        orchard_ops.flash_attention(q, k[..., 1:], v)


def second_derivative(rows: int) -> None:
    """Ask for a derivative of the backward, which has none."""
    q, k, v = inputs(rows)
    out = orchard_ops.flash_attention(q, k, v)
    (grad,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    with refused("double backward"):
        grad.sum().backward()


def short_forward(rows: int) -> None:
    """Find no memory for the output."""
    q, k, v = inputs(rows)
    with memory_runs_out(0):
        orchard_ops.flash_attention(q, k, v)


def short_backward(rows: int) -> None:
    """Find no memory for a gradient."""
    q, k, v = inputs(rows)
    loss = orchard_ops.flash_attention(q, k, v).sum()
    with memory_runs_out(2):
        loss.backward()


def _options(**tensors: Callable[[int], Tensor]) -> Callable[[int], dict[str, Any]]:
    return lambda rows: {name: make(rows) for name, make in tensors.items()}


_slopes = _options(alibi_slopes=lambda _: draw(HEADS).detach())
_mask = _options(attn_mask=lambda rows: draw(rows, rows))
_hidden = _options(attn_mask=lambda rows: draw(rows, rows).detach() > 0)
_sinks = _options(sinks=lambda _: draw(HEADS))
CALLS = {
    "train": Call(train, 1, 1),
    "float16": Call(partial(train, dtype=torch.float16), 1, 1),
    "bfloat16": Call(partial(train, dtype=torch.bfloat16), 1, 1),
    "shared storage": Call(shared, 1, 1),
    "grouped heads": Call(partial(train, heads_kv=1, is_causal=True), 1, 1),
    "window": Call(partial(train, window=(5, 2)), 1, 1),
    "dropout": Call(partial(train, dropout_p=0.25), 1, 1),
    "alibi": Call(partial(train, more=_slopes), 1, 1),
    "float mask": Call(partial(train, more=_mask), 1, 1),
    "bool mask": Call(partial(train, more=_hidden), 1, 1),
    "sinks and lse": Call(partial(train, more=_sinks, return_lse=True), 1, 1),
    "forward": Call(forward, 1),
    "packed": Call(packed, 1, 1),
    "decode": Call(decode, 1),
    "decode from pages": Call(partial(decode, pages=True), 1),
    "parts": Call(parts, 2, 1),
    "drop-in": Call(drop_in, 1, 1),
    "flash_attn": Call(dao, 1, 1),
    "CPU": Call(partial(train, device=CPU, more=lambda _: {"is_causal": True})),
    "CPU packed": Call(partial(packed, device=CPU)),
    "CPU decode": Call(partial(decode, device=CPU)),
    "CPU parts": Call(partial(parts, device=CPU)),
    "CPU drop-in": Call(partial(drop_in, device=CPU), fallbacks=1),
    "misfit": Call(misfit),
    "CPU misfit": Call(partial(misfit, device=CPU)),
    "second derivative": Call(second_derivative, 1, 1),
    "no memory for a forward": Call(short_forward),
    "no memory for a backward": Call(short_backward, 1),
}
