"""orchard_ops.flash_attn: Dao's functions in Dao's layouts, against float64."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from types import ModuleType
from typing import Any

import pytest
import torch
from cases import F16, Case
from dao_signatures import ENTRIES, OURS, PADDING, REQUIRED, ROTARY, SIGNATURES
from draws import Inputs
from harness import bits, count_calls, sequence_ends
from philox import keep_scale
from reference import Results, assert_close, make_inputs
from torch import Tensor

from orchard_ops import InvalidProblemError, OrchardError, flash_attn
from orchard_ops.flash_attn import bert_padding, flash_attn_interface
from orchard_ops.flash_attn.layers import rotary

HAS_PACKAGES = sys.version_info >= (3, 10)  # metadata.packages_distributions

# Everything here is aligned at the bottom right: that is what the functions mean.
_BASE = Case("", batch=2, heads_q=2, heads_kv=2, len_q=21, len_kv=45)
_BOTTOM = replace(_BASE, alignment="bottom-right")
_RAGGED = ((9, 30), (37, 12), (1, 1), (0, 4))
CASES = [
    replace(_BOTTOM, name="dao-plain"),
    replace(_BOTTOM, name="dao-half", dtype=F16),
    replace(_BOTTOM, name="dao-causal", causal="bottom-right"),
    replace(_BOTTOM, name="dao-causal-tall", causal="bottom-right", len_q=50),
    replace(_BOTTOM, name="dao-gqa", causal="bottom-right", heads_q=6),
    replace(_BOTTOM, name="dao-window", window=(7, 3)),
    replace(_BOTTOM, name="dao-window-causal", window=(7, 3), causal="bottom-right"),
    replace(_BOTTOM, name="dao-softcap", softcap=3.0, scale=0.5),
    replace(_BOTTOM, name="dao-alibi", alibi="batch-heads"),
    replace(_BOTTOM, name="dao-dropout", dropout=0.3, causal="bottom-right"),
]
PACKED_CASES = [
    replace(_BOTTOM, name="dao-varlen", batch=1, sequences=_RAGGED),
    replace(_BOTTOM, name="dao-varlen-causal", batch=1, sequences=_RAGGED,
            causal="bottom-right", heads_q=4),
    replace(_BOTTOM, name="dao-varlen-window", batch=1, sequences=_RAGGED,
            window=(4, 0), alibi="heads"),
    replace(_BOTTOM, name="dao-varlen-dropout", batch=1, sequences=_RAGGED,
            dropout=0.3),
]  # fmt: skip


def signature(function: Callable[..., Any]) -> list[tuple[str, object]]:
    """Return name and default of each parameter."""
    return [
        (name, REQUIRED if p.default is inspect.Parameter.empty else p.default)
        for name, p in inspect.signature(function).parameters.items()
    ]


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name: str) -> None:
    """Each function has Dao's arguments, in Dao's order, with Dao's defaults."""
    function = getattr(flash_attn, name)
    ours = OURS.get(name, [])
    assert signature(function) == [*SIGNATURES[name], *ours]
    assert function is getattr(flash_attn_interface, name)
    kinds = [p.kind for p in inspect.signature(function).parameters.values()]
    assert set(kinds[: len(SIGNATURES[name])]) == {
        inspect.Parameter.POSITIONAL_OR_KEYWORD
    }
    assert kinds[len(SIGNATURES[name]) :] == [inspect.Parameter.KEYWORD_ONLY] * len(
        ours
    )


def test_every_public_function_is_in_the_table() -> None:
    """There is no function without a row, and no row without a function."""
    functions = {name for name in flash_attn.__all__ if name.startswith("flash_attn")}
    assert functions == set(SIGNATURES)
    assert {*SIGNATURES, *ENTRIES} == set(flash_attn_interface.__all__)


@pytest.mark.parametrize("name", PADDING)
def test_padding_signature(name: str) -> None:
    """The padding functions have Dao's arguments too."""
    assert signature(getattr(bert_padding, name)) == PADDING[name]


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_signature(name: str) -> None:
    """The entries that ring attention calls have Dao's arguments."""
    assert signature(getattr(flash_attn_interface, name)) == ENTRIES[name]


def test_rotary_signature() -> None:
    """So has the rotary embedding."""
    assert signature(rotary.apply_rotary_emb) == ROTARY


def keywords(case: Case, inputs: Inputs, device: torch.device) -> dict[str, Any]:
    """Return the arguments that all functions share."""
    slopes = inputs.alibi_slopes
    return {
        "dropout_p": case.dropout,
        "softmax_scale": case.scale,
        "causal": case.causal != "none",
        "window_size": case.window or (-1, -1),
        "softcap": case.softcap,
        "alibi_slopes": None if slopes is None else slopes.to(device),
        "deterministic": True,
        "return_attn_probs": True,
    }


def leaf(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on the device that gets a gradient."""
    return tensor.contiguous().to(device).requires_grad_()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_func_matches_float64(case: Case, device: torch.device) -> None:
    """flash_attn_func's output, lse and gradients are right, in Dao's layout."""
    inputs = make_inputs(case)
    q, k, v, grad = (leaf(t.transpose(1, 2), device) for t in inputs.core)
    torch.manual_seed(case.manual_seed)
    with count_calls() as calls:
        out, lse, probabilities = flash_attn.flash_attn_func(
            q, k, v, **keywords(case, inputs, device)
        )
        grads = torch.autograd.grad(out, (q, k, v), grad)
    assert (calls.fwd, calls.bwd, calls.copies) == (1, 1, 0)
    assert all(g.is_contiguous() for g in (out, *grads))
    swapped = [t.cpu().transpose(1, 2) for t in (out, *grads)]
    assert_close(case, inputs, Results(swapped[0], lse.cpu(), *swapped[1:]))
    check_probabilities(case, inputs, probabilities.cpu(), swapped[0])


@pytest.mark.parametrize("asks_lse", [False, True])
def test_sinks_match_float64(asks_lse: bool, device: torch.device) -> None:
    """s_aux are sinks, with their gradient, dense and packed, in either road."""
    dense = replace(_BOTTOM, name="dao-sinks", sinks="normal", causal="bottom-right")
    packed = replace(dense, name="dao-varlen-sinks", batch=1, sequences=_RAGGED)
    for case in (dense, packed):
        inputs = make_inputs(case)
        swap = (lambda t: t) if case.sequences else (lambda t: t.transpose(1, 2))
        assert inputs.sinks is not None
        *leaves, grad = (leaf(swap(t), device) for t in inputs.core)
        sinks = leaf(inputs.sinks, device)
        given: dict[str, Any] = dict(keywords(case, inputs, device), s_aux=sinks)
        given["return_attn_probs"] = asks_lse
        function: Any = flash_attn.flash_attn_func
        ends: tuple[Any, ...] = ()
        if case.sequences:
            function = flash_attn.flash_attn_varlen_func
            ends = sequence_ends(case, device)
        found = function(*leaves, *ends, **given)
        out, lse = (found[0], found[1].cpu()) if asks_lse else (found, None)
        *grads, dsinks = torch.autograd.grad(out, (*leaves, sinks), grad)
        out, *grads = (swap(t).cpu() for t in (out, *grads))
        results = Results(out, lse, *grads, dsinks=dsinks.cpu())
        assert_close(case, inputs, results)


def check_probabilities(
    case: Case, inputs: Inputs, probabilities: Tensor, out: Tensor
) -> None:
    """The third result holds the weights, negative where dropout dropped them."""
    if not case.dropout:
        assert probabilities.numel() == 0
        return
    kept = torch.where(probabilities > 0, probabilities, 0.0).double()
    values = inputs.v.double().repeat_interleave(case.heads_q // case.heads_kv, 1)
    again = keep_scale(case.dropout) * kept @ values
    assert torch.allclose(again, out.double(), atol=1e-5)
    assert torch.equal((probabilities > 0), inputs.keep[0] & (probabilities != 0))
    assert torch.allclose(probabilities.abs().sum(-1), torch.ones(()))


@pytest.mark.parametrize("case", PACKED_CASES, ids=lambda case: case.name)
def test_varlen_func_matches_float64(case: Case, device: torch.device) -> None:
    """flash_attn_varlen_func's output, lse and gradients are right."""
    inputs = make_inputs(case)
    q, k, v, grad = (leaf(t, device) for t in inputs.core)
    torch.manual_seed(case.manual_seed)
    out, lse, probabilities = flash_attn.flash_attn_varlen_func(
        q, k, v, *sequence_ends(case, device), **keywords(case, inputs, device)
    )
    grads = torch.autograd.grad(out, (q, k, v), grad)
    results = [t.cpu() for t in (out, lse, *grads)]
    assert_close(case, inputs, Results(*results))
    if case.dropout:
        batch = len(case.sequences)
        assert probabilities.shape == (batch, case.heads_q, 37, 30)
        for index, (len_q, len_kv) in enumerate(case.sequences):
            part = probabilities[index].cpu()
            assert not part[:, len_q:].any()
            assert not part[:, :, len_kv:].any()
            is_kept = part[:, :len_q, :len_kv] > 0
            assert torch.equal(is_kept, inputs.keep[index][0])


@pytest.mark.parametrize("causal", [False, True])
def test_packed_tensors_mean_their_parts(causal: bool, device: torch.device) -> None:
    """Packed qkv and kv give the bits of their parts, gradients in one tensor."""
    torch.manual_seed(0)
    qkv = leaf(torch.randn(2, 23, 3, 2, 64), device)
    q, k, v = (leaf(part.detach(), device) for part in qkv.detach().unbind(2))
    kv = leaf(torch.stack([k.detach().cpu(), v.detach().cpu()], 2), device)
    grad = torch.randn(2, 23, 2, 64).to(device)
    calls: dict[str, Any] = {
        "parts": flash_attn.flash_attn_func(q, k, v, causal=causal),
        "qkv": flash_attn.flash_attn_qkvpacked_func(qkv, causal=causal),
        "kv": flash_attn.flash_attn_kvpacked_func(q, kv, causal=causal),
    }
    for out in calls.values():
        assert torch.equal(bits(out), bits(calls["parts"]))
    wanted = torch.autograd.grad(calls["parts"], (q, k, v), grad)
    (dqkv,) = torch.autograd.grad(calls["qkv"], qkv, grad)
    assert torch.equal(bits(dqkv), bits(torch.stack(wanted, 2)))
    dq, dkv = torch.autograd.grad(calls["kv"], (q, kv), grad)
    assert torch.equal(bits(dq), bits(wanted[0]))
    assert torch.equal(bits(dkv), bits(torch.stack(wanted[1:], 2)))


def test_packed_tensors_of_sequences_mean_their_parts(device: torch.device) -> None:
    """The same for packed sequences."""
    torch.manual_seed(0)
    qkv = leaf(torch.randn(23, 3, 2, 64), device)
    q, k, v = (leaf(part.detach(), device) for part in qkv.detach().unbind(1))
    kv = leaf(torch.stack([k.detach().cpu(), v.detach().cpu()], 1), device)
    grad = torch.randn(23, 2, 64).to(device)
    ends = torch.tensor([0, 9, 23], dtype=torch.int32).to(device)
    both = (ends, ends, 14, 14)
    parts: Any = flash_attn.flash_attn_varlen_func(q, k, v, *both, causal=True)
    one: Any = flash_attn.flash_attn_varlen_qkvpacked_func(qkv, ends, 14, causal=True)
    two: Any = flash_attn.flash_attn_varlen_kvpacked_func(q, kv, *both, causal=True)
    wanted = torch.autograd.grad(parts, (q, k, v), grad)
    (dqkv,) = torch.autograd.grad(one, qkv, grad)
    dq, dkv = torch.autograd.grad(two, (q, kv), grad)
    assert torch.equal(bits(one), bits(parts))
    assert torch.equal(bits(two), bits(parts))
    assert torch.equal(bits(dqkv), bits(torch.stack(wanted, 1)))
    assert torch.equal(bits(dq), bits(wanted[0]))
    assert torch.equal(bits(dkv), bits(torch.stack(wanted[1:], 1)))


def test_pages_are_gathered(device: torch.device) -> None:
    """With a block_table keys lie in pages, in any order, and get gradients there."""
    torch.manual_seed(0)
    pages_k, pages_v = (torch.randn(5, 16, 2, 64) for _ in range(2))
    table = torch.tensor([[3, 0], [4, 1]], dtype=torch.int32)
    used = (20, 7)
    rows = torch.cat([torch.arange(48, 64), torch.arange(4), 64 + torch.arange(7)])
    q, grad = torch.randn(12, 4, 64), torch.randn(12, 4, 64)
    ends_q = torch.tensor([0, 5, 12], dtype=torch.int32)
    ends_k = torch.tensor([0, 20, 27], dtype=torch.int32)
    results = []
    paged: dict[str, Any] = {"block_table": table.to(device)}
    for k, v, more in (
        (pages_k, pages_v, paged),
        (pages_k.flatten(0, 1)[rows], pages_v.flatten(0, 1)[rows], {}),
    ):
        leaves: Any = [leaf(tensor.clone(), device) for tensor in (q, k, v)]
        out: Any = flash_attn.flash_attn_varlen_func(
            *leaves, ends_q.to(device), ends_k.to(device), 7, max(used), **more
        )
        grads = torch.autograd.grad(out, leaves, grad.to(device))
        results.append([t.cpu() for t in (out, *grads)])
    assert torch.equal(bits(results[0][0]), bits(results[1][0]))
    for of_pages, of_rows in zip(results[0][2:], results[1][2:]):
        assert torch.equal(of_pages.flatten(0, 1)[rows], of_rows)
        assert of_pages.count_nonzero() == of_rows.count_nonzero()


def zeros(count: int, *shape: int) -> list[Any]:
    """Return so many tensors of zeros."""
    return [torch.zeros(shape)] * count


BAD = {
    "flat q": (
        lambda: flash_attn.flash_attn_func(*zeros(3, 2, 3, 4)),
        ["flash_attn_func", "[batch, len, heads, head_dim]", "[2, 3, 4]"],
    ),
    "two parts": (
        lambda: flash_attn.flash_attn_qkvpacked_func(torch.zeros(1, 4, 2, 2, 8)),
        ["flash_attn_qkvpacked_func", "qkv", "3, heads", "[1, 4, 2, 2, 8]"],
    ),
    "dense kv": (
        lambda: flash_attn.flash_attn_varlen_kvpacked_func(
            torch.zeros(4, 2, 8), torch.zeros(1, 4, 2, 2, 8), *[None] * 4
        ),
        ["flash_attn_varlen_kvpacked_func", "kv", "[total, 2, heads", "[1, 4, 2"],
    ),
    "few pages": (
        lambda: flash_attn.flash_attn_varlen_func(
            torch.zeros(3, 2, 8), *zeros(2, 2, 4, 2, 8),
            torch.tensor([0, 3], dtype=torch.int32),
            torch.tensor([0, 9], dtype=torch.int32), 3, 9,
            block_table=torch.zeros(1, 2, dtype=torch.int32),
        ),
        ["block_table", "9 keys", "2 pages of 4"],
    ),
    "table of another batch": (
        lambda: flash_attn.flash_attn_varlen_func(
            torch.zeros(3, 2, 8), *zeros(2, 2, 4, 2, 8),
            torch.tensor([0, 3], dtype=torch.int32),
            torch.tensor([0, 3], dtype=torch.int32), 3, 3,
            block_table=torch.zeros(2, 2, dtype=torch.int32),
        ),
        ["block_table", "[1, pages]", "[2, 2]"],
    ),
    "head sizes": (
        lambda: flash_attn.flash_attn_func(
            torch.zeros(1, 3, 2, 8), *zeros(2, 1, 3, 2, 16)
        ),
        ["flash_attn_func", "head_dim", "8, 16"],
    ),
    "new keys without lengths": (
        lambda: flash_attn.flash_attn_with_kvcache(*zeros(5, 1, 3, 2, 8)),
        ["flash_attn_with_kvcache", "cache_seqlens"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name: str) -> None:
    """A bad argument gives a typed error that names the function and what came."""
    call, words = BAD[name]
    with pytest.raises(InvalidProblemError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


def test_pages_on_two_devices_are_refused(device: torch.device) -> None:
    """Before anything is gathered."""
    q, (k, v) = torch.zeros(3, 2, 8).to(device), zeros(2, 2, 4, 2, 8)
    ends, table = torch.tensor([0, 3], dtype=torch.int32), torch.zeros(1, 1).int()
    with pytest.raises(InvalidProblemError, match="k and v on one device"):
        flash_attn.flash_attn_varlen_func(
            q, k.to(device), v, ends, ends, 3, 3, block_table=table
        )


def test_padding_round_trip(device: torch.device) -> None:
    """unpad_input packs what a mask keeps; pad_input puts it back among zeros."""
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]]).to(device)
    padded = leaf(torch.randn(3, 4, 2, 8), device)
    tokens, indices, ends, longest, used = bert_padding.unpad_input(padded, mask)
    assert tokens.shape == (5, 2, 8)
    assert indices.tolist() == [0, 1, 5, 6, 7]
    assert (ends.tolist(), ends.dtype, longest) == ([0, 2, 5, 5], torch.int32, 3)
    assert used.tolist() == [2, 3, 0]
    again = bert_padding.pad_input(tokens, indices, 3, 4)
    kept = mask.bool()[..., None, None].cpu()
    assert torch.equal(again.cpu(), padded.detach().cpu() * kept)
    again.sum().backward()
    assert torch.equal(padded.grad.cpu(), kept.expand(3, 4, 2, 8).float())


def test_padding_keeps_unused_tokens() -> None:
    """An unused_mask keeps tokens that the count of used ones leaves out."""
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0]])
    more = torch.tensor([[0, 0, 1, 0], [0, 0, 0, 1]])
    _, indices, ends, longest, used = bert_padding.unpad_input(
        torch.zeros(2, 4, 3), mask, more
    )
    assert indices.tolist() == [0, 1, 2, 5, 7]
    assert (ends.tolist(), longest, used.tolist()) == ([0, 3, 5], 3, [2, 1])


def test_concatenated_sequences_are_unpadded(device: torch.device) -> None:
    """Rows of several sequences each are packed as that many; pad_input undoes it."""
    torch.manual_seed(0)
    inside = torch.tensor([[2, 1, 0, 0], [4, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
    padded = leaf(torch.randn(4, 4, 2, 8), device)
    unpad = bert_padding.unpad_input_for_concatenated_sequences
    tokens, indices, ends, longest = unpad(padded, inside.to(device))
    assert tokens.shape == (10, 2, 8)
    assert indices.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert (ends.tolist(), ends.dtype, longest) == ([0, 2, 3, 7, 8, 9, 10],
                                                    torch.int32, 4)  # fmt: skip
    again = bert_padding.pad_input(tokens, indices, 4, 4)
    kept = torch.zeros(16, dtype=torch.bool)
    kept[indices.cpu()] = True
    kept = kept.view(4, 4, 1, 1)
    assert torch.equal(again.cpu(), padded.detach().cpu() * kept)
    again.sum().backward()
    assert torch.equal(padded.grad.cpu(), kept.expand(4, 4, 2, 8).float())
    nothing = unpad(padded.detach(), torch.zeros_like(inside).to(device))
    assert (nothing[0].shape, nothing[2].tolist(), nothing[3]) == ((0, 2, 8), [0], 0)


@pytest.fixture
def no_flash_attn() -> Iterator[None]:
    """Forget the modules that a test puts under the name flash_attn."""
    if importlib.util.find_spec("flash_attn") is not None:
        pytest.skip("a real flash_attn is installed")
    yield
    flash_attn.uninstall_as_flash_attn()


@pytest.mark.usefixtures("no_flash_attn")
def test_install() -> None:
    """After install_as_flash_attn() an import of flash_attn finds our functions."""
    flash_attn.install_as_flash_attn()
    flash_attn.install_as_flash_attn()  # twice is once
    found = importlib.import_module("flash_attn")
    assert found.flash_attn_func is flash_attn.flash_attn_func
    interface = importlib.import_module("flash_attn.flash_attn_interface")
    assert interface.flash_attn_varlen_func is flash_attn.flash_attn_varlen_func
    padding = importlib.import_module("flash_attn.bert_padding")
    assert padding is bert_padding
    layers = importlib.import_module("flash_attn.layers.rotary")
    assert layers.apply_rotary_emb is rotary.apply_rotary_emb
    assert importlib.util.find_spec("flash_attn") is not None
    assert found.__version__ == "2.8.3"
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("flash_attn.losses")
    flash_attn.uninstall_as_flash_attn()
    flash_attn.uninstall_as_flash_attn()  # twice is once
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("flash_attn")


@pytest.mark.usefixtures("no_flash_attn")
def test_install_offers_metadata() -> None:
    """Code that asks which flash-attn is installed is told ours, until it is undone."""
    known = metadata.packages_distributions() if HAS_PACKAGES else {}
    assert "flash_attn" not in known
    finders = list(sys.meta_path)
    flash_attn.install_as_flash_attn()
    for name in ("flash_attn", "flash-attn", "Flash.Attn"):
        assert metadata.version(name) == flash_attn.__version__
    assert metadata.distribution("flash_attn").metadata["Name"] == "flash-attn"
    if HAS_PACKAGES:
        assert metadata.packages_distributions()["flash_attn"] == ["flash-attn"]
    assert metadata.version("torch")  # others are found as before
    assert [d.metadata["Name"] for d in metadata.distributions()].count("torch") == 1
    flash_attn.uninstall_as_flash_attn()
    assert sys.meta_path == finders
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("flash_attn")


@pytest.mark.usefixtures("no_flash_attn")
def test_install_refuses_to_hide_a_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flash_attn that is there already is hidden only where that is asked for."""
    real, part = ModuleType("flash_attn"), ModuleType("flash_attn.ops")
    monkeypatch.setitem(sys.modules, "flash_attn", real)
    monkeypatch.setitem(sys.modules, "flash_attn.ops", part)
    with pytest.raises(OrchardError, match="replace=True"):
        flash_attn.install_as_flash_attn()
    assert sys.modules["flash_attn"] is real
    flash_attn.install_as_flash_attn(replace=True)
    assert sys.modules["flash_attn"] is flash_attn
    assert "flash_attn.ops" not in sys.modules
    flash_attn.uninstall_as_flash_attn()
    assert sys.modules["flash_attn"] is real
    assert sys.modules["flash_attn.ops"] is part
    flash_attn.uninstall_as_flash_attn()  # leaves a real one alone
    assert sys.modules["flash_attn"] is real


def test_probabilities_are_computed_only_if_asked(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold all scores in memory, which training with dropout must not."""
    asked: list[object] = []
    monkeypatch.setattr(flash_attn_interface, "signed_probabilities", asked.append)
    q = torch.randn(5, 2, 16).to(device)
    ends = torch.tensor([0, 3, 5]).int()
    given = (q, q, q, ends.to(device), ends.to(device), 3, 3, 0.5)
    flash_attn_interface.flash_attn_varlen_func(*given)
    assert not asked
    flash_attn_interface.flash_attn_varlen_func(*given, return_attn_probs=True)
    assert len(asked) == 1


def test_padding_of_nothing() -> None:
    """No rows at all are no error."""
    nothing = torch.zeros(0, 3)
    padded = bert_padding.pad_input(nothing, torch.zeros(0, dtype=torch.int64), 0, 4)
    assert padded.shape == (0, 4, 3)
