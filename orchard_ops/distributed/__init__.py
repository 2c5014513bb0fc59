"""Attention over a sequence that is cut between processes of torch.distributed.

>>> from orchard_ops import distributed as cp
>>> q, k, v = (cp.shard(x) for x in (q, k, v))  # [batch, heads, rows, head_dim]
>>> out = cp.context_parallel_attention(q, k, v, is_causal=True)
"""

from __future__ import annotations

from ._context import context_parallel
from ._layout import Layout, pieces
from ._transport import reset_traffic, traffic
from .attention import Method, context_parallel_attention
from .shards import positions, shard, unshard

__all__ = [
    "Layout",
    "Method",
    "context_parallel",
    "context_parallel_attention",
    "pieces",
    "positions",
    "reset_traffic",
    "shard",
    "traffic",
    "unshard",
]
