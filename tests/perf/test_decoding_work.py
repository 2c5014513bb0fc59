"""What a step of generation costs through the entry for caches, and without it."""

from __future__ import annotations

import torch
from needs import needs_metalsim

import orchard_ops
from orchard_ops import sim

HEADS, KEY_HEADS, KEYS, SIZE = 32, 8, 1024, 128
PAGE = 128


@needs_metalsim("simulator")
def test_a_step_reads_each_key_once() -> None:
    """One query of a model with 4 query heads a key head, and 1,024 keys in float16.

    The dense entry has a threadgroup of 32 rows for each of 32 query heads, which reads
    all keys of its head.  The entry for caches has 8 times 16 tiles of 8 rows, each for
    4 query heads, and pages add the numbers in their table.
    """
    sim.enable()
    q = torch.randn(1, HEADS, 1, SIZE).half().to(sim.DEVICE)
    k = torch.randn(1, KEY_HEADS, KEYS, SIZE).half().to(sim.DEVICE)
    with sim.strict(True):
        sim.reset_counters()
        dense = orchard_ops.flash_attention(q, k, k)
        (without,) = sim.kernel_counters().values()
        sim.reset_counters()
        step = orchard_ops.flash_attention_with_kvcache(
            *(tensor.transpose(1, 2) for tensor in (q, k, k)), cache_seqlens=KEYS
        )
        through = sim.kernel_counters()
        # A paged cache's keys, in pages that lie in another order.
        pages = k.transpose(1, 2).unflatten(1, (-1, PAGE))[0].flip(0).contiguous()
        table = torch.arange(len(pages), dtype=torch.int32).flip(0)[None]
        sim.reset_counters()
        paged = orchard_ops.flash_attention_with_kvcache(
            *(q.transpose(1, 2), pages, pages),
            cache_seqlens=KEYS,
            block_table=table.to(sim.DEVICE),
        )
        in_pages = sim.kernel_counters()["decode"]
    assert torch.allclose(step.transpose(1, 2).cpu(), dense.cpu(), atol=2e-3)
    assert torch.equal(paged.cpu(), step.cpu())
    decode, combine = through["decode"], through["combine"]
    assert decode["matrix_multiplies"] * 4 * 4 == without["matrix_multiplies"]
    keys_and_values = 2 * 2 * KEY_HEADS * KEYS * SIZE
    assert without["device_load_bytes"] >= 4 * keys_and_values
    assert decode["device_load_bytes"] <= 1.1 * keys_and_values
    assert in_pages["matrix_multiplies"] == decode["matrix_multiplies"]
    extra = in_pages["device_load_bytes"] - decode["device_load_bytes"]
    assert 0 < extra <= 0.01 * keys_and_values
    moved = decode["device_store_bytes"] + combine["device_load_bytes"]
    assert moved <= 0.25 * keys_and_values  # the splits' results
    # A walk over the keys in series is this much shorter.
    assert decode["threads"] // 32 == 16 * KEY_HEADS
