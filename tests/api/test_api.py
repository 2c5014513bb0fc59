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
        "FaultError",
        "InvalidProblemError",
        "KernelCompileError",
        "OrchardError",
        "PeerError",
        "UnsupportedError",
        "WrongKernelError",
        "__version__",
        "backward_scratch",
        "call_counts",
        "distributed",
        "flash_attention",
        "flash_attention_partial",
        "flash_attention_partial_backward",
        "flash_attention_varlen",
        "flash_attention_with_kvcache",
        "flash_attn",
        "flash_attn_fwd",
        "merge_partials",
        "record",
        "sdpa",
        "sim",
        "sink_gradient",
        "storage",
        "supports",
        "synchronize",
        "tune",
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
        "sinks": None,
        "return_lse": False,
    }


def test_supports_takes_what_flash_attention_takes() -> None:
    """supports() has the same parameters, but for return_lse."""
    parameters = dict(inspect.signature(orchard_ops.flash_attention).parameters)
    del parameters["return_lse"]
    assert dict(inspect.signature(orchard_ops.supports).parameters) == parameters


def test_varlen_arguments() -> None:
    """flash_attention_varlen has its lengths, then flash_attention's arguments."""
    packed = inspect.signature(orchard_ops.flash_attention_varlen).parameters
    dense = inspect.signature(orchard_ops.flash_attention).parameters
    assert list(packed)[:7] == [
        *("q", "k", "v", "cu_seqlens_q", "cu_seqlens_k"),
        *("max_seqlen_q", "max_seqlen_k"),
    ]
    shared = [name for name in dense if name not in ("attn_mask", "enable_gqa")]
    assert list(packed)[7:] == shared[3:]
    for name in shared[3:]:
        assert packed[name] == dense[name]


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


FUNCTIONS = [
    name for name in orchard_ops.__all__ if inspect.isfunction(vars(orchard_ops)[name])
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings(name: str) -> None:
    """Every public function says what it returns; the main ones what they equal."""
    text = inspect.getdoc(getattr(orchard_ops, name))
    assert text is not None
    assert "Returns:" in text or name == "synchronize"
    is_main = name.startswith("flash_")
    assert not is_main or ("Equals" in text and "Raises:" in text)
    if "Args:" in text:
        for parameter in inspect.signature(getattr(orchard_ops, name)).parameters:
            assert f"\n    {parameter}: " in text


def test_counts_have_names(device: torch.device) -> None:
    """A forward and its backward are counted, and can be waited for."""
    q = torch.randn(1, 2, 5, 16).to(device).requires_grad_()
    before = orchard_ops.call_counts()
    orchard_ops.flash_attention(q, q, q).sum().backward()
    orchard_ops.synchronize()
    after = orchard_ops.call_counts()
    assert after.forward - before.forward == after.backward - before.backward == 1


def test_supports_says_yes(device: torch.device) -> None:
    """supports() takes a valid problem on the device and on the CPU."""
    q = torch.randn(1, 2, 5, 16)
    assert orchard_ops.supports(q, q, q, is_causal=True) == (True, "")
    there = q.to(device)
    assert orchard_ops.supports(there, there, there) == (True, "")


def test_supports_says_yes_to_all_at_once(device: torch.device) -> None:
    """Every feature is supported, whatever it is combined with; no number is drawn."""
    for place in (device, torch.device("cpu")):
        q, k, mask = (
            torch.ones(s).to(place) for s in [(2, 4, 5, 8), (2, 2, 5, 8), (5,)]
        )
        slopes, sinks = (torch.ones(s).to(place) for s in [(2, 4), (4,)])
        state = torch.get_rng_state()
        assert orchard_ops.supports(
            q, k, k, mask, 0.5, True, causal_alignment="bottom-right", window=(3, 3),
            softcap=2.0, alibi_slopes=slopes, sinks=sinks,
        ) == (True, "")  # fmt: skip
        assert torch.equal(torch.get_rng_state(), state)


def test_meta_tensors_give_shapes() -> None:
    """On the meta device the operators return shapes and compute nothing."""
    q = torch.empty(2, 4, 5, 16, device="meta", dtype=torch.float16)
    v = torch.empty(2, 4, 5, 24, device="meta", dtype=torch.float16)
    out, lse = orchard_ops.flash_attention(q, q, v, return_lse=True)
    assert (out.shape, out.dtype) == ((2, 4, 5, 24), torch.float16)
    assert (lse.shape, lse.dtype) == ((2, 4, 5), torch.float32)
