"""Every public function with valid arguments, for tests that change some of them.

The tensors lie on the CPU, and are small: what is changed is the arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable

import torch
from needs import TORCH
from torch import Tensor

import orchard_ops
from orchard_ops import distributed, flash_attn, sdpa, storage
from orchard_ops.flash_attn import bert_padding, flash_attn_interface
from orchard_ops.flash_attn.layers.rotary import apply_rotary_emb


@dataclass(frozen=True)
class Call:
    """A function, valid arguments, and more that it takes beside them."""

    function: Callable[..., Any]
    given: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def whole(self) -> dict[str, Any]:
        """All of the arguments at once."""
        return {**self.given, **self.more}

    @property
    def name(self) -> str:
        """What errors begin with."""
        return str(self.function.__name__)


def draw(*shape: int) -> Tensor:
    """Return random numbers, the same in every test."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def ends(*numbers: int) -> Tensor:
    """Return whole numbers, as where packed sequences begin and end."""
    return torch.tensor(numbers, dtype=torch.int32)


# A size of a head that the suite compiles kernels for in any case.
SIZE = 64
DENSE = dict(q=draw(1, 2, 8, SIZE), k=draw(1, 2, 8, SIZE), v=draw(1, 2, 8, SIZE))
SWAPPED = {name: tensor.transpose(1, 2) for name, tensor in DENSE.items()}
STARTS = dict(cu_seqlens_q=ends(0, 3, 8), cu_seqlens_k=ends(0, 3, 8))
LONGEST = dict(max_seqlen_q=5, max_seqlen_k=5)
TOKENS = {name: draw(8, 2, SIZE) for name in "qkv"}
PACKED = dict(**TOKENS, **STARTS, **LONGEST)
CACHE = dict(q=draw(2, 1, 2, SIZE), k_cache=draw(2, 16, 2, SIZE),
             v_cache=draw(2, 16, 2, SIZE), cache_seqlens=9)  # fmt: skip
HEADS = dict(alibi_slopes=torch.ones(2), sinks=torch.ones(2))
MASKED = dict(attn_mask=torch.ones(8, 8), is_causal=False, dropout_p=0.0, scale=0.5)
OURS = dict(causal_alignment="top-left", window=(3, 2), softcap=2.0, **HEADS,
            return_lse=True)  # fmt: skip
DAO = dict(dropout_p=0.0, softmax_scale=0.5, causal=False, window_size=(3, 2),
           softcap=0.0, alibi_slopes=torch.ones(2), deterministic=False,
           return_attn_probs=False)  # fmt: skip
STEP = dict(
    k=draw(2, 1, 2, SIZE), v=draw(2, 1, 2, SIZE), rotary_cos=torch.ones(16, 4),
    rotary_sin=torch.ones(16, 4), rotary_interleaved=True, cache_batch_idx=ends(0, 1),
    cache_leftpad=ends(0, 0), softcap=0.0, num_splits=2, alibi_slopes=torch.ones(2),
)  # fmt: skip
PART = dict(q_offset=0, k_offset=0, window=(3, 2), softcap=0.0, head_offset=0,
            alibi_slopes=torch.ones(2), seed=torch.tensor(3), heads_total=2,
            dropout_p=0.0, is_causal=False, scale=0.5,
            attn_mask=torch.ones(8, 8))  # fmt: skip
OUT, LSE = draw(1, 2, 8, SIZE), draw(1, 2, 8)
MERGED = dict(grad_out=OUT, out=OUT, lse=LSE)
FORWARD = dict(
    dropout_p=0.0, softmax_scale=0.5, causal=False, window_size_left=3,
    window_size_right=2, softcap=0.0, alibi_slopes=None,
)  # fmt: skip
GRADIENTS = dict(dq=draw(1, 8, 2, SIZE), dk=draw(1, 8, 2, SIZE), dv=draw(1, 8, 2, SIZE))
PADDED = dict(hidden_states=draw(2, 4, 3), attention_mask=torch.ones(2, 4).long())
SDPA = dict(query=DENSE["q"], key=DENSE["k"], value=DENSE["v"])

CALLS: dict[str, Call] = {
    "flash_attention": Call(
        orchard_ops.flash_attention, DENSE, {**MASKED, "enable_gqa": True, **OURS}
    ),
    "supports": Call(
        orchard_ops.supports, DENSE,
        {**MASKED, "enable_gqa": True,
         **{name: each for name, each in OURS.items() if name != "return_lse"}},
    ),
    "flash_attn_fwd": Call(
        orchard_ops.flash_attn_fwd, {**DENSE, "scale": 0.5},
        dict(dropout_p=0.0, causal=False),
    ),
    "flash_attention_varlen": Call(
        orchard_ops.flash_attention_varlen, PACKED,
        dict(dropout_p=0.0, is_causal=False, scale=0.5, **OURS),
    ),
    "flash_attention_with_kvcache": Call(
        orchard_ops.flash_attention_with_kvcache, CACHE,
        {**STEP, "cache_seqlens": ends(9, 9), "scale": 0.5, "is_causal": False,
         "window": (3, 2), "sinks": torch.ones(2), "return_lse": True},
    ),
    "flash_attention_with_kvcache of pages": Call(
        orchard_ops.flash_attention_with_kvcache,
        {**CACHE, "block_table": ends(0, 1).view(2, 1)},
    ),
    "flash_attention_partial": Call(orchard_ops.flash_attention_partial, DENSE, PART),
    "flash_attention_partial of sequences": Call(
        orchard_ops.flash_attention_partial,
        {**DENSE, "cu_seqlens": ends(0, 3, 8), "max_seqlen": 5},
    ),
    "flash_attention_partial_backward": Call(
        orchard_ops.flash_attention_partial_backward, {**MERGED, **DENSE},
        {**PART, "grad_lse": LSE},
    ),
    "merge_partials": Call(
        orchard_ops.merge_partials, {"parts": [(OUT, LSE), (OUT, LSE)]},
        {"sinks": torch.ones(2)},
    ),
    "sink_gradient": Call(
        orchard_ops.sink_gradient, {**MERGED, "sinks": torch.ones(2)},
        {"grad_lse": LSE},
    ),
    "backward_scratch": Call(orchard_ops.backward_scratch, {"max_bytes": 7}),
    "describe": Call(storage.describe, {"tensor": OUT}),
    "flash_attn_func": Call(
        flash_attn.flash_attn_func, SWAPPED, {**DAO, "s_aux": torch.ones(2)}
    ),
    "flash_attn_qkvpacked_func": Call(
        flash_attn.flash_attn_qkvpacked_func, {"qkv": draw(1, 8, 3, 2, SIZE)}, DAO
    ),
    "flash_attn_kvpacked_func": Call(
        flash_attn.flash_attn_kvpacked_func,
        {"q": SWAPPED["q"], "kv": draw(1, 8, 2, 2, SIZE)}, DAO,
    ),
    "flash_attn_varlen_func": Call(
        flash_attn.flash_attn_varlen_func, PACKED, {**DAO, "s_aux": torch.ones(2)}
    ),
    "flash_attn_varlen_func of pages": Call(
        flash_attn.flash_attn_varlen_func,
        {**PACKED, "k": draw(2, 8, 2, SIZE), "v": draw(2, 8, 2, SIZE),
         "block_table": ends(0, 1).view(2, 1)},
    ),
    "flash_attn_varlen_qkvpacked_func": Call(
        flash_attn.flash_attn_varlen_qkvpacked_func,
        {"qkv": draw(8, 3, 2, SIZE), "cu_seqlens": ends(0, 3, 8), "max_seqlen": 5},
        DAO,
    ),
    "flash_attn_varlen_kvpacked_func": Call(
        flash_attn.flash_attn_varlen_kvpacked_func,
        {"q": TOKENS["q"], "kv": draw(8, 2, 2, SIZE), **STARTS, **LONGEST}, DAO,
    ),
    "flash_attn_with_kvcache": Call(
        flash_attn.flash_attn_with_kvcache, CACHE,
        {**STEP, "softmax_scale": 0.5, "causal": False, "window_size": (3, 2),
         "s_aux": torch.ones(2), "return_softmax_lse": True},
    ),
    "flash_attn_with_kvcache of pages": Call(
        flash_attn.flash_attn_with_kvcache,
        {**CACHE, "cache_seqlens": None, "block_table": ends(0, 1).view(2, 1)},
    ),
    "_flash_attn_forward": Call(
        flash_attn_interface._flash_attn_forward,
        {**SWAPPED, **FORWARD, "return_softmax": False},
    ),
    "_flash_attn_varlen_forward": Call(
        flash_attn_interface._flash_attn_varlen_forward, {**PACKED, **FORWARD},
        {"return_softmax": False},
    ),
    "_flash_attn_backward": Call(
        flash_attn_interface._flash_attn_backward,
        {"dout": SWAPPED["q"], **SWAPPED, "out": SWAPPED["q"], "softmax_lse": LSE,
         **GRADIENTS, **FORWARD, "deterministic": False},
        {"rng_state": torch.zeros(2, dtype=torch.int64)},
    ),
    "_flash_attn_varlen_backward": Call(
        flash_attn_interface._flash_attn_varlen_backward,
        {"dout": TOKENS["q"], **TOKENS, "out": TOKENS["q"], "softmax_lse": LSE[0],
         **{name: each[0] for name, each in GRADIENTS.items()}, **STARTS, **LONGEST,
         **FORWARD, "deterministic": False},
        {"rng_state": torch.zeros(2, dtype=torch.int64)},
    ),
    "index_first_axis": Call(
        bert_padding.index_first_axis,
        {"input": draw(3, 4), "indices": torch.tensor([0, 2])},
    ),
    "index_put_first_axis": Call(
        bert_padding.index_put_first_axis,
        {"values": draw(2, 4), "indices": torch.tensor([0, 2]), "first_axis_dim": 3},
    ),
    "unpad_input": Call(
        bert_padding.unpad_input, PADDED, {"unused_mask": torch.zeros(2, 4).long()}
    ),
    "unpad_input_for_concatenated_sequences": Call(
        bert_padding.unpad_input_for_concatenated_sequences,
        {"hidden_states": draw(2, 4, 3),
         "attention_mask_in_length": torch.tensor([[2, 1, 0, 0], [4, 0, 0, 0]])},
    ),
    "pad_input": Call(
        bert_padding.pad_input,
        {"hidden_states": draw(3, 4), "indices": torch.tensor([0, 1, 5]), "batch": 2,
         "seqlen": 4},
    ),
    "apply_rotary_emb": Call(
        apply_rotary_emb,
        {"x": draw(2, 4, 2, 8), "cos": torch.ones(8, 4), "sin": torch.zeros(8, 4)},
        {"interleaved": False, "inplace": False, "seqlen_offsets": ends(1, 2)},
    ),
    "apply_rotary_emb of sequences": Call(
        apply_rotary_emb,
        {"x": draw(8, 2, 8), "cos": torch.ones(8, 4), "sin": torch.zeros(8, 4),
         "cu_seqlens": ends(0, 3, 8), "max_seqlen": 5, "seqlen_offsets": 1},
    ),
    "explain": Call(
        sdpa.explain, SDPA, {**MASKED, "enable_gqa": False},
    ),
    "pieces": Call(
        distributed.pieces, dict(length=9, ranks=2, rank=1), {"layout": "zigzag"}
    ),
    "positions": Call(
        distributed.positions, {"length": 9},
        {"group": None, "layout": "zigzag", "device": None},
    ),
    "shard": Call(
        distributed.shard, {"x": OUT}, {"group": None, "dim": 2, "layout": "zigzag"}
    ),
    "unshard": Call(
        distributed.unshard, {"x": OUT, "length": 8},
        {"group": None, "dim": 2, "layout": "zigzag"},
    ),
    "context_parallel_attention": Call(
        distributed.context_parallel_attention, DENSE,
        {**MASKED, "group": None, "layout": "zigzag", "method": "auto", "length": 8,
         "window": (3, 2), "softcap": 0.0, **HEADS, "check": True,
         "return_lse": False},
    ),
}  # fmt: skip


def moved(value: Any, place: torch.device) -> Any:
    """Return an argument with its tensors copied to a device."""
    if isinstance(value, Tensor):
        return value.to(place, copy=True)
    if type(value) in (list, tuple):
        return type(value)(moved(each, place) for each in value)
    return value


@contextmanager
def settings_kept() -> Iterator[None]:
    """Undo what a function sets for all calls: backward_scratch."""
    before = torch.ops.orchard_ops.backward_scratch()
    try:
        yield
    finally:
        torch.ops.orchard_ops.set_backward_scratch(before)


HAS_JAGGED = TORCH >= (2, 3)
