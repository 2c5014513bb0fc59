"""Memory for forward and backward grows with the length, not with its square."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import Case, Mask
from harness import allocated_bytes, attend, lay_out
from needs import TORCH, chosen_device, needs_metalsim
from reference import make_inputs

import orchard_ops
from orchard_ops import flash_attn, sim
from orchard_ops.flash_attn.layers.rotary import apply_rotary_emb

LENGTHS = (128, 256, 512, 1024)
PLAIN = Case("memory", torch.float16, heads_q=2, heads_kv=1, head_dim=16)
FEATURES = {
    "plain": PLAIN,
    "causal": replace(PLAIN, causal="top-left"),
    "window": replace(PLAIN, window=(16, 16)),
    "softcap": replace(PLAIN, softcap=2.0),
    "alibi": replace(PLAIN, alibi="heads"),
    "sinks": replace(PLAIN, sinks="normal"),
    "dropout": replace(PLAIN, dropout=0.2),
    "key-padding": replace(PLAIN, mask=Mask("bool", "bk", hidden="columns")),
    "bias-of-keys": replace(PLAIN, mask=Mask("float", "hk", hidden="none")),
    "mask-and-causal": replace(
        PLAIN, mask=Mask("bool", "bk", hidden="columns"), causal="top-left"
    ),
    "bfloat16-bias-of-keys": replace(PLAIN, mask=Mask("bfloat16", "hk", hidden="none")),
    "bool-mask": replace(PLAIN, mask=Mask("bool", "qk")),
    "bias": replace(PLAIN, mask=Mask("float", "qk")),
    "wide": replace(PLAIN, heads_q=1, head_dim=576, head_dim_v=512),
    "packed": replace(PLAIN, sequences=((100, 100),), causal="bottom-right"),
}


def reset_peak(device: torch.device) -> int:
    """Forget what was allocated before; return what is allocated now."""
    allocated_bytes(device)  # which waits for all that is going to be freed
    if device.type == "metalsim":
        orchard_ops.sim.reset_peak_memory()
    else:
        torch.mps.empty_cache()
    return peak(device)


def peak(device: torch.device) -> int:
    """Return the most bytes allocated since `reset_peak`.

    On mps it is what the driver gave, as PyTorch keeps what is freed: in heaps of
    8 or 32 MB for buffers of less than 10 MB (aten/src/ATen/mps/MPSAllocator.h).
    """
    if device.type == "metalsim":
        return int(orchard_ops.sim.memory().peak_bytes)
    return int(torch.mps.driver_allocated_memory())


def peak_bytes(case: Case, device: torch.device) -> int:
    """Return the most that forward and backward hold beside their inputs.

    A mask's own gradient, which is as large as the user's mask, is left out.
    """
    inputs = make_inputs(case)
    q, k, v = (leaf.to(device).requires_grad_() for leaf in inputs.core[:3])
    leaves = [q, k, v]
    tensors: dict[str, Any] = {}
    of_mask = 0
    for name in ("attn_mask", "alibi_slopes", "sinks"):
        tensor = getattr(inputs, name)
        if tensor is not None:
            tensors[name] = lay_out(tensor, "contiguous", lambda t: t.to(device))
    if case.mask is not None and case.mask.kind != "bool":
        leaves.append(tensors["attn_mask"].requires_grad_())
        of_mask = leaves[-1].numel() * leaves[-1].element_size()
    if case.sinks:
        leaves.append(tensors["sinks"].requires_grad_())
    grad_out = inputs.grad_out.to(device)
    before = reset_peak(device)
    # In this thread: another one might free what the last call saved too late.
    with torch.autograd.set_multithreading_enabled(False):
        out, _ = attend(case, q, k, v, **tensors)
        torch.autograd.grad(out, leaves, grad_out)
    return peak(device) - before - of_mask


def at_length(case: Case, length: int) -> Case:
    """Return the case with so many queries and keys."""
    if case.sequences:
        quarter = length // 4
        return replace(case, sequences=((3 * quarter,) * 2, (quarter,) * 2))
    return replace(case, len_q=length, len_kv=length)


@needs_metalsim("counters")
@pytest.mark.parametrize("name", FEATURES)
def test_memory_is_linear_in_length(name: str, device: torch.device) -> None:
    """From 128 to 1,024 tokens each further token costs the same few hundred bytes."""
    case = FEATURES[name]
    # What wide heads compute takes long, and only the host allocates.
    with orchard_ops.backward_scratch(0), sim.idle(name == "wide"):
        peaks = [peak_bytes(at_length(case, n), device) for n in LENGTHS]
    a_token = [
        (more - less) / (longer - shorter)
        for less, more, shorter, longer in zip(peaks, peaks[1:], LENGTHS, LENGTHS[1:])
    ]
    assert max(a_token) <= 1.01 * min(a_token)
    # Out, dq, dk and dv, elements of 2 bytes; and for each query head no more than nine
    # float32: lse, what backward keeps of a row, and the weights of a sink.
    elements = (case.heads_q + case.heads_kv) * (case.head_dim + case.value_dim)
    assert max(a_token) <= 2 * elements + 9 * 4 * case.heads_q


def ring_entries(length: int, device: torch.device) -> None:
    """Run forward and backward of one block of keys, as ring attention does."""
    tensors = torch.zeros(6, 1, length, 2, 16).half().to(device).unbind()
    q, k, v, dq, dk, dv = tensors
    options = (0.0, 0.25, True, -1, -1, 0.0, None)
    entries = flash_attn.flash_attn_interface
    out, lse, *_ = entries._flash_attn_forward(q, k, v, *options, False)
    entries._flash_attn_backward(
        out, q, k, v, out, lse, dq, dk, dv, *options, deterministic=True
    )


def rotary(length: int, device: torch.device) -> None:
    """Turn queries and give their gradient."""
    x = torch.zeros(1, length, 2, 16).half().to(device).requires_grad_()
    table = torch.zeros(2, length, 8).to(device)
    apply_rotary_emb(x, *table).sum().backward()


def jagged(length: int, device: torch.device) -> None:
    """Train on two nested sequences."""
    values = torch.zeros(length, 2, 16).half().to(device).requires_grad_()
    starts = torch.tensor([0, length // 4, length]).to(device)
    q = torch.nested.nested_tensor_from_jagged(values, starts).transpose(1, 2)
    orchard_ops.flash_attention(q, q, q, is_causal=True).values().sum().backward()


def leading(length: int, device: torch.device) -> None:
    """Train with five dimensions, one batch of keys for all."""
    q = torch.zeros(2, 1, 2, length, 16).half().to(device).requires_grad_()
    k = torch.zeros(1, 1, 2, length, 16).half().to(device).requires_grad_()
    orchard_ops.flash_attention(q, k, k, is_causal=True).sum().backward()


def sinks_in_decoding(length: int, device: torch.device) -> None:
    """Attend to a cache of that length, with sinks."""
    q, sinks = torch.zeros(1, 1, 2, 16).half().to(device), torch.zeros(2).to(device)
    cache = torch.zeros(1, length, 1, 16).half().to(device)
    orchard_ops.flash_attention_with_kvcache(
        q, cache, cache, cache_seqlens=length, num_splits=4, sinks=sinks
    )


FUNCTIONS = {
    "ring-entries": ring_entries,
    "rotary": rotary,
    "leading": leading,
    "sinks-in-decoding": sinks_in_decoding,
}
if TORCH >= (2, 4):
    FUNCTIONS["jagged"] = jagged


@needs_metalsim("counters")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_memory_of_functions_is_linear_in_length(
    name: str, device: torch.device
) -> None:
    """What a function holds at most, with its inputs, grows by equal steps too."""
    peaks = []
    with orchard_ops.backward_scratch(0):
        for length in LENGTHS:
            before = reset_peak(device)
            with torch.autograd.set_multithreading_enabled(False):
                FUNCTIONS[name](length, device)
            peaks.append(peak(device) - before)
    a_token = [
        (more - less) / (longer - shorter)
        for less, more, shorter, longer in zip(peaks, peaks[1:], LENGTHS, LENGTHS[1:])
    ]
    assert 0 < max(a_token) <= 1.01 * min(a_token)


@pytest.mark.skipif(
    chosen_device() != "mps", reason="metalsim counts each byte: the test above"
)
@pytest.mark.parametrize("name", FEATURES)
def test_no_matrix_of_scores_is_allocated_on_mps(
    name: str, device: torch.device
) -> None:
    """A matrix of 8,192 by 8,192 scores would take a heap of more than 64 MB."""
    case = FEATURES[name]
    if case.mask is not None and "qk" in case.mask.dims:
        pytest.skip("the user's own mask and its gradient are such matrices")
    with orchard_ops.backward_scratch(0):
        peak_bytes(at_length(case, 128), device)  # Pipelines are made.
        assert peak_bytes(at_length(case, 8192), device) <= 64 << 20
