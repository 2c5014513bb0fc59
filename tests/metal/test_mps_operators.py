"""Every ATen operator that our code runs on the device exists on MPS.

metalsim and the stand-in fall back to the CPU for what they lack, so only PyTorch's
own macOS wheels can tell: mps_operators.txt lists what each of them has.
"""

from __future__ import annotations

from typing import Any, Callable

import pytest
import torch
import torch.nn.functional as F
from mps_table import lacking, minor, operators
from needs import chosen_device, needs_metalsim
from torch import Tensor

import orchard_ops
from orchard_ops import flash_attn
from orchard_ops.flash_attn import bert_padding

# Kernels of metalsim's that answer for no kernel of MPS.
OTHERS = {
    "convolution_overrideable": "what PyTorch calls on devices that it does not know",
    "convolution_backward_overrideable": "the same",
    "copy_": "PyTorch's own calls _copy_from, which MPS has",
    "is_pinned": "pinned memory is the host's, asked of the device's hooks",
    "_pin_memory": "the same",
    "_efficientzerotensor": "autograd's, for derivatives that our operators lack",
    "native_dropout": "metalsim's own way; on MPS dropout is made of other operators",
}


def name_of(full: str) -> str:
    """Return ``"eq"`` of ``"aten::eq.Scalar"``."""
    return full.partition("::")[2].partition(".")[0]


def is_composite(full: str) -> bool:
    """Whether PyTorch has a kernel for every device, made of other operators.

    metalsim takes the CPU's own variant of these, as PyTorch does on the CPU.
    """
    return any(
        torch._C._dispatch_has_kernel_for_dispatch_key(full, key)
        for key in (
            "CompositeImplicitAutograd",
            "CompositeExplicitAutograd",
            "CompositeExplicitAutogradNonFunctional",
        )
    )


def operators_of(program: Callable[[], object]) -> set[str]:
    """Run a program; return the operators that metalsim ran without its own kernel.

    Those that it has kernels of its own for make and move tensors.
    """
    torch.ops.orchard_metalsim.take_fallbacks()
    program()
    return set(map(name_of, torch.ops.orchard_metalsim.take_fallbacks()))


def draw(device: torch.device, *shape: int) -> Tensor:
    """Return random numbers that require gradients."""
    return torch.randn(shape).to(device).requires_grad_()


def train(out: Tensor) -> None:
    """Run the backward."""
    out.backward(torch.ones_like(out))


def dense(device: torch.device) -> None:
    """Every feature of flash_attention, forward and backward."""
    q, k, v = draw(device, 1, 4, 9, 16), *(draw(device, 1, 2, 9, 16) for _ in "kv")
    sinks, mask = draw(device, 4), draw(device, 1, 1, 9, 9)
    slopes = torch.rand(4).to(device)
    attend = orchard_ops.flash_attention
    train(attend(q, k, v, is_causal=True))
    train(attend(q, k, v, mask, window=(3, 2), softcap=5.0, alibi_slopes=slopes))
    out, lse = attend(q, k, v, mask > 0, dropout_p=0.5, sinks=sinks, return_lse=True)
    train(out + lse.detach()[..., None])


def packed(device: torch.device) -> None:
    """Packed sequences, from a padded batch and back."""
    kept = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).to(device)
    hidden = draw(device, 2, 4, 2, 8)
    x, places, starts, longest, _ = bert_padding.unpad_input(hidden, kept)
    out = orchard_ops.flash_attention_varlen(
        x, x, x, starts, starts, longest, longest, is_causal=True
    )
    train(bert_padding.pad_input(out, places, 2, 4))


def decoding(device: torch.device) -> None:
    """A dense and a paged cache: appended to, turned, attended to."""
    with torch.no_grad():
        q, k, v = (draw(device, 2, 1, 2, 16) for _ in "qkv")
        angles = torch.rand(32, 8).to(device)
        lengths = torch.tensor([3, 5], dtype=torch.int32).to(device)
        pages = torch.tensor([[1, 0], [3, 2]], dtype=torch.int32).to(device)
        for table, shape in ((None, (2, 32, 2, 16)), (pages, (4, 16, 2, 16))):
            caches = [draw(device, *shape).detach() for _ in "kv"]
            calls: list[Callable[..., Any]] = [
                orchard_ops.flash_attention_with_kvcache,
                flash_attn.flash_attn_with_kvcache,
            ]
            for call in calls:
                call(
                    *(q, *caches, k, v),
                    rotary_cos=angles,
                    rotary_sin=angles,
                    cache_seqlens=lengths,
                    block_table=table,
                )


def drop_ins(device: torch.device) -> None:
    """The calls of other libraries."""
    q, k, v = (draw(device, 1, 9, 2, 16) for _ in "qkv")
    out: Any = flash_attn.flash_attn_func(q, k, v, causal=True, window_size=(4, 0))
    train(out)
    flash_attn.flash_attn_func(q, k, v, dropout_p=0.3, return_attn_probs=True)
    orchard_ops.sdpa.enable()
    try:
        q, k, v = (x.detach().transpose(1, 2).requires_grad_() for x in (q, k, v))
        bias = torch.zeros(9, 9).to(device)
        train(F.scaled_dot_product_attention(q, k, v, attn_mask=bias))
        train(F.scaled_dot_product_attention(q, k, v, is_causal=True))
    finally:
        orchard_ops.sdpa.disable()


@pytest.mark.parametrize("program", [dense, packed, decoding, drop_ins])
def test_every_operator_on_the_device_exists_on_mps(
    program: Callable[[torch.device], None], device: torch.device
) -> None:
    """What the running PyTorch would run on MPS, its own macOS wheel exports."""
    if chosen_device() == "mps":  # It raises NotImplementedError itself.
        program(device)
        return
    used = operators_of(lambda: program(device))
    missing = used.difference(operators(torch.__version__))
    assert not missing, f"not on MPS in this PyTorch: {sorted(missing)}"


@needs_metalsim("device")
def test_what_metalsim_has_kernels_for_exists_on_mps() -> None:
    """So what it does not fall back for is no gap in the test above."""
    full = torch._C._dispatch_get_registrations_for_dispatch_key("PrivateUse1")
    own = {
        name_of(name)
        for name in full
        if name.startswith("aten::") and not is_composite(name)
    }
    _, minors = lacking()
    running = minor(torch.__version__)
    assert {"as_strided", "view"} <= own
    missing = {name for name in own if running in minors.get(name, [running])}
    assert missing <= set(OTHERS), sorted(missing - set(OTHERS))
    assert "_copy_from" in minors


@needs_metalsim("device")
def test_a_missing_operator_is_seen(device: torch.device) -> None:
    """Isneginf came to MPS with 2.6, index_copy too: both are noticed."""
    zeros, index = torch.zeros(3).to(device), torch.tensor([1]).to(device)
    used = operators_of(
        lambda: (zeros.isneginf(), zeros.index_copy(0, index, zeros[:1]))
    )
    assert {"isneginf", "index_copy"} <= used
    _, minors = lacking()
    assert "2.4" in minors["isneginf"]
    assert "2.13" not in minors["isneginf"]
