"""The public names, their signatures and their documentation."""

from __future__ import annotations

import inspect

import pytest
import torch

import orchard_ops

# The parameters of F.scaled_dot_product_attention in its order, of which PyTorch before
# 2.5 lacks the last (a builtin: Python cannot read its signature).
SDPA = ["q", "k", "v", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"]


def test_public_names() -> None:
    """The list of public names is this one, and every name exists."""
    assert sorted(orchard_ops.__all__) == [
        "DeviceError",
        "InvalidProblemError",
        "KernelCompileError",
        "OrchardError",
        "UnsupportedError",
        "__version__",
        "flash_attention",
        "flash_attn_fwd",
        "sim",
        "storage",
        "supports",
    ]
    for name in orchard_ops.__all__:
        assert hasattr(orchard_ops, name)


def test_sdpa_arguments_come_first() -> None:
    """A call of SDPA by position means the same with flash_attention."""
    names = list(inspect.signature(orchard_ops.flash_attention).parameters)
    assert names[:8] == SDPA


def test_further_arguments_are_keywords() -> None:
    """Everything beyond SDPA's arguments is keyword-only, with the agreed default."""
    parameters = inspect.signature(orchard_ops.flash_attention).parameters
    keywords = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert keywords == {
        "causal_alignment": "top-left",
        "window": None,
        "softcap": 0.0,
        "alibi_slopes": None,
        "return_lse": False,
    }


def test_flash_attn_fwd_signature() -> None:
    """flash_attn_fwd keeps the signature of the first orchard_ops."""
    signature = inspect.signature(orchard_ops.flash_attn_fwd)
    assert list(signature.parameters) == [
        "q",
        "k",
        "v",
        "scale",
        "dropout_p",
        "causal",
    ]
    assert signature.parameters["dropout_p"].default == 0.0
    assert signature.parameters["causal"].default is False


@pytest.mark.parametrize("name", ["flash_attention", "flash_attn_fwd", "supports"])
def test_docstrings(name: str) -> None:
    """Every public function says what it returns; the main ones what they equal."""
    text = inspect.getdoc(getattr(orchard_ops, name))
    assert text is not None
    assert "Returns:" in text
    assert name == "supports" or ("Equals" in text and "Raises:" in text)


def test_supports_says_yes(device: torch.device) -> None:
    """supports() takes a valid problem on the device and on the CPU."""
    q = torch.randn(1, 2, 5, 16)
    assert orchard_ops.supports(q, q, q, is_causal=True) == (True, "")
    there = q.to(device)
    assert orchard_ops.supports(there, there, there) == (True, "")


def test_meta_tensors_give_shapes() -> None:
    """On the meta device the operators return shapes and compute nothing."""
    q = torch.empty(2, 4, 5, 16, device="meta", dtype=torch.float16)
    v = torch.empty(2, 4, 5, 24, device="meta", dtype=torch.float16)
    out, lse = orchard_ops.flash_attention(q, q, v, return_lse=True)
    assert (out.shape, out.dtype) == ((2, 4, 5, 24), torch.float16)
    assert (lse.shape, lse.dtype) == ((2, 4, 5), torch.float32)
