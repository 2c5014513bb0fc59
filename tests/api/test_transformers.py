"""Training and generating with transformers' models, against their eager attention.

Needs transformers, which only ``nox -s test-transformers`` installs.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import count_calls
from needs import needs_metalsim
from ranks import Fleet
from torch import Tensor, nn

from orchard_ops import (
    InvalidProblemError,
    UnsupportedError,
    distributed,
    flash_attention,
    sdpa,
    sim,
)
from orchard_ops.integrations import _steps
from orchard_ops.integrations import transformers as integration
from orchard_ops.integrations._pages import Pages
from orchard_ops.integrations.transformers import PagePool

transformers = pytest.importorskip("transformers")
VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
IS_OLD = VERSION < (5, 0)
HAS_MASKS = VERSION >= (4, 53)  # functions that make them
# Of two layers with grouped heads.
LAYERS = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
SIZES = {"vocab_size": 61, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}


def llama(**changes: Any) -> Any:
    """Return a small Llama: rotary positions, grouped heads."""
    config = transformers.LlamaConfig(
        **SIZES,
        **LAYERS,
        **changes,
    )
    return transformers.LlamaForCausalLM(config)


def mistral(**changes: Any) -> Any:
    """Return a small Mistral: a sliding window."""
    config = transformers.MistralConfig(
        **SIZES,
        **LAYERS,
        sliding_window=6,
        **changes,
    )
    return transformers.MistralForCausalLM(config)


def gpt2(**changes: Any) -> Any:
    """Return a small GPT-2: learned positions, attention dropout."""
    options = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0, **changes}
    config = transformers.GPT2Config(
        **SIZES, n_embd=32, n_layer=2, n_head=4, n_positions=64, **options
    )
    return transformers.GPT2LMHeadModel(config)


def t5(**changes: Any) -> Any:
    """Return a small T5: encoder and decoder, a learned bias on the scores."""
    config = transformers.T5Config(
        **SIZES,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        **{"dropout_rate": 0.0, **changes},
    )
    return transformers.T5ForConditionalGeneration(config)


MODELS = {"llama": llama, "gpt2": gpt2}
if not IS_OLD:  # T5 asked no registry before
    MODELS["t5"] = t5
BUILDERS = {**MODELS, "mistral": mistral}


@pytest.fixture(autouse=True)
def registered() -> None:
    """Register the implementation; twice is once."""
    integration.register()
    integration.register()


def build(name: str, implementation: str, **changes: Any) -> Any:
    """Return a model with weights that its name decides."""
    torch.manual_seed(len(name))
    model = BUILDERS[name](attn_implementation=implementation, **changes)
    assert model.config._attn_implementation == implementation
    return model


def pair(name: str, device: torch.device, **changes: Any) -> tuple[Any, Any]:
    """Return the same model twice: eager on the CPU, ours on the device.

    In float32, because eager Llama takes its softmax in float32 whatever it is given.
    """
    eager = build(name, "eager", **changes)
    if name != "t5":
        # Initial weights are small and attention nearly uniform: sharpen it.
        with torch.no_grad():
            for parameter in eager.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(4.0)
    ours = build(name, "orchard", **changes)
    ours.load_state_dict(copy.deepcopy(eager.state_dict()))
    ours.to(device)
    ours.tie_weights()  # Module.to makes two of a shared weight on a foreign device
    return eager, ours


def batch(name: str, padding: str) -> dict[str, Tensor]:
    """Return token numbers, with the first or last of some rows padding."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, 61, (3, 13), generator=generator)
    mask = torch.ones_like(ids)
    if padding == "left":
        mask[0, :4], mask[2, :1] = 0, 0
    elif padding == "right":
        mask[0, -4:], mask[2, -1:] = 0, 0
    # What a padded position predicts counts for nothing, so neither does the first
    # token after padding on the left.
    counts = mask.bool() & (mask.roll(1, -1) + (torch.arange(13) == 0)).bool()
    labels = ids.masked_fill(~counts, -100)
    if name == "t5":
        labels = torch.randint(3, 61, (3, 7), generator=generator)
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


def loss_and_gradients(
    model: nn.Module, inputs: dict[str, Tensor], device: torch.device
) -> dict[str, Tensor]:
    """Run forward and backward; return logits, loss and every gradient."""
    model.zero_grad()
    result = model(**{key: value.to(device) for key, value in inputs.items()})
    result.loss.backward()
    found = {"logits": result.logits, "loss": result.loss}
    found.update((key, p.grad) for key, p in model.named_parameters())
    return {key: value.detach().cpu() for key, value in found.items()}


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("name", MODELS)
def test_training_equals_eager(name: str, padding: str, device: torch.device) -> None:
    """Over a few steps logits, loss and every gradient are eager attention's."""
    eager, ours = pair(name, device)
    inputs = batch(name, padding)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.02) for m in (eager, ours)]
    losses = []
    for _ in range(3):
        want = loss_and_gradients(eager.train(), inputs, torch.device("cpu"))
        with count_calls() as calls:
            got = loss_and_gradients(ours.train(), inputs, device)
        assert calls.fwd == calls.bwd == (6 if name == "t5" else 2)
        kept = inputs["attention_mask"].bool()
        if name != "t5":  # outputs of padding mean nothing
            want["logits"], got["logits"] = want["logits"][kept], got["logits"][kept]
        for key, exact in want.items():
            size = exact.abs().max().clamp(min=1e-3)
            assert (got[key] - exact).abs().max() <= 2e-4 * size, key
        losses.append(float(want["loss"]))
        for optimizer in optimizers:
            optimizer.step()
    assert losses[-1] < losses[0]


@pytest.mark.skipif(IS_OLD, reason="T5 asks no registry before transformers 5")
def test_the_learned_bias_trains(device: torch.device) -> None:
    """T5's relative position bias gets its gradient through the kernels."""
    eager, ours = pair("t5", device)
    inputs = batch("t5", "right")
    want = loss_and_gradients(eager, inputs, torch.device("cpu"))
    got = loss_and_gradients(ours, inputs, device)
    biases = [key for key in want if "relative_attention_bias" in key]
    assert len(biases) == 2
    for key in biases:
        assert want[key].abs().max() > 1e-3
        assert torch.allclose(got[key], want[key], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_generating_equals_eager(name: str, padding: str, device: torch.device) -> None:
    """Greedy decoding with a cache gives eager attention's tokens."""
    eager, ours = pair(name, device)
    inputs = batch(name, padding)
    inputs.pop("labels")
    options: dict[str, Any] = {"max_new_tokens": 9, "do_sample": False, "num_beams": 1}
    want = eager.eval().generate(**inputs, **options)
    with count_calls() as calls:
        got = ours.eval().generate(
            **{key: value.to(device) for key, value in inputs.items()}, **options
        )
    assert torch.equal(got.cpu(), want)
    # Two layers a token; T5's decoder attends twice in each, its encoder once in all.
    new = got.shape[1] - (1 if name == "t5" else inputs["input_ids"].shape[1])
    assert calls.fwd == (2 + 4 * new if name == "t5" else 2 * new)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note for each attention what the entry for caches took: "", "keys" or "pages"."""
    monkeypatch.setattr(_steps, "LEAST_KEYS", 1)
    noted: list[str] = []

    def watched(query: Tensor, key: Tensor, *others: Any) -> Tensor | None:
        out = step(query, key, *others)
        kind = "pages" if isinstance(key, Pages) else "keys"
        noted.append("" if out is None else kind)
        return out

    step = _steps.step
    monkeypatch.setattr(integration, "step", watched)
    return noted


OPTIONS: dict[str, Any] = {"max_new_tokens": 9, "do_sample": False, "num_beams": 1}


def generate(model: Any, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    """Return the tokens of greedy decoding, prompt included."""
    inputs = {k: v.to(model.device) for k, v in inputs.items() if k != "labels"}
    tokens: Tensor = model.eval().generate(**inputs, **OPTIONS, **options)
    return tokens.cpu()


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("padding", ["none", "left"])
def test_steps_through_the_cache_entry(
    padding: str, cache: str, device: torch.device, served: list[str]
) -> None:
    """A step of generation reads its cache as such, with the same tokens as eager."""
    eager, ours = pair("llama", device)
    inputs = batch("llama", padding)
    want = generate(eager, inputs)
    options = {"cache_implementation": "static"} if cache == "static" else {}
    assert torch.equal(generate(ours, inputs, **options), want)
    new = want.shape[1] - inputs["input_ids"].shape[1]
    assert served == [""] * 2 + ["keys"] * 2 * (new - 1)  # not the prompt


@pytest.mark.parametrize("case", ["left-dynamic", "none-static"])
def test_masks_are_looked_at_once(
    case: str, device: torch.device, served: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All layers of a step share what its mask shows, also in inference mode."""
    looks: list[Tensor] = []

    def watched(mask: Tensor) -> Any:
        looks.append(mask)
        return look(mask)

    look = _steps._look
    monkeypatch.setattr(_steps, "_look", watched)
    _, ours = pair("llama", device)
    padding, cache = case.split("-")
    options = {"cache_implementation": "static"} if cache == "static" else {}
    # Before there were mask functions each layer looks in inference mode.
    for is_inference in (False, True)[: 1 + HAS_MASKS]:
        looks.clear()
        served.clear()
        with torch.inference_mode(is_inference):
            generate(ours, batch("llama", padding), **options)
        assert len(looks) == served.count("keys") / 2 > 0


def test_a_mask_that_was_written_anew(device: torch.device) -> None:
    """A mask of the user's own is looked at again when it has changed."""
    q, k = torch.randn(1, 4, 1, 8).to(device), torch.randn(1, 2, 200, 8).to(device)
    mask = torch.zeros(1, 1, 1, 200).to(device)
    v = k.clone()
    with torch.no_grad():
        for begin in (0, 90):
            mask[..., :begin] = float("-inf")
            out = _steps.step(q, k, v, mask, 1.0, 0.0, None)
            want = _steps.step(
                q, k[:, :, begin:], v[:, :, begin:], None, 1.0, 0.0, None
            )
            if want is None:  # too few for more than one split
                dense = flash_attention(q, k[:, :, begin:], v[:, :, begin:], scale=1.0)
                want = dense.transpose(1, 2)
            assert out is not None
            assert torch.allclose(out.cpu(), want.cpu(), atol=1e-5)
        mask[..., 120] = 0.5  # a bias
        assert _steps.step(q, k, v, mask, 1.0, 0.0, None) is None


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_a_paged_cache(
    name: str, rows: int, device: torch.device, served: list[str]
) -> None:
    """Steps read pages where they lie, with the tokens of eager attention.

    The pages of two generations that take turns lie in one pool.
    """
    eager, ours = pair(name, device)
    inputs = {key: value[:rows] for key, value in batch(name, "none").items()}
    want = generate(eager, inputs)
    pool = PagePool(pages=3 * rows + 2, page_size=8)
    other = pool.cache()
    ids = inputs["input_ids"][:1].to(device)
    with torch.no_grad():
        ours.eval()(ids[:, :5], past_key_values=other)
    served.clear()
    cache = pool.cache()
    assert torch.equal(generate(ours, inputs, past_key_values=cache), want)
    new = want.shape[1] - inputs["input_ids"].shape[1]
    assert served == [""] * 2 + ["pages"] * 2 * (new - 1)
    with torch.no_grad():
        last = ours(ids[:, 5:], past_key_values=other).logits[0, -1]
    assert int(last.argmax()) == want[0, 13]
    assert (cache.get_seq_length(), pool.free_pages) == (want.shape[1] - 1, 0)
    cache.reset()
    del other
    gc.collect()
    assert (cache.get_seq_length(), pool.free_pages) == (0, 3 * rows + 2)
    del cache
    gc.collect()
    assert pool.free_pages == 3 * rows + 2  # nothing is given back twice


def test_rows_that_begin_apart_are_gathered(
    device: torch.device, served: list[str]
) -> None:
    """Padding on the left that differs from row to row gives eager's tokens too."""
    eager, ours = pair("llama", device)
    inputs = batch("llama", "left")
    cache = PagePool(pages=9, page_size=8).cache()
    tokens = generate(ours, inputs, past_key_values=cache)
    assert torch.equal(tokens, generate(eager, inputs))
    assert "pages" not in served


def test_one_padded_stream_in_pages(device: torch.device, served: list[str]) -> None:
    """Padding that all rows have is left out by a window."""
    eager, ours = pair("llama", device)
    inputs = {key: value[:1] for key, value in batch("llama", "left").items()}
    cache = PagePool(pages=3, page_size=8).cache()
    tokens = generate(ours, inputs, past_key_values=cache)
    assert torch.equal(tokens, generate(eager, inputs))
    assert served.count("pages") == len(served) - 2


def test_a_paged_prompt_in_two_pieces(device: torch.device) -> None:
    """A second piece of prompt sees the first, in inference mode as well."""
    eager, ours = pair("llama", device)
    ids = batch("llama", "none")["input_ids"]
    pool = PagePool(pages=6, page_size=8)
    want = eager.eval()(ids).logits[:, 6:].detach()
    for is_inference in (True, False):
        cache = pool.cache()
        with torch.inference_mode(is_inference), torch.no_grad():
            ours.eval()(ids[:, :6].to(device), past_key_values=cache)
            second = ours(ids[:, 6:].to(device), past_key_values=cache)
        assert (second.logits.cpu() - want).abs().max() <= 2e-4 * want.abs().max()
        cache.reset()


@pytest.mark.skipif(IS_OLD, reason="T5 asks no registry before transformers 5")
def test_a_decoder_in_pages(device: torch.device) -> None:
    """T5's bias is added to keys that were gathered; its encoder's are not paged."""
    eager, ours = pair("t5", device)
    inputs = batch("t5", "none")
    pages = PagePool(pages=6, page_size=8).cache()
    cache = transformers.EncoderDecoderCache(pages, transformers.DynamicCache())
    tokens = generate(ours, inputs, past_key_values=cache)
    assert torch.equal(tokens, generate(eager, inputs))
    assert pages.get_seq_length() == tokens.shape[1] - 1


@needs_metalsim("counters")
def test_a_paged_step_copies_no_cache(device: torch.device) -> None:
    """A step takes less memory than a tenth of what a layer holds.

    One with a dynamic cache takes more than half of it at once, for a copy.
    """
    keys = torch.randn(1, 2, 1024, 32).to(device)
    held = 2 * keys.numel() * 4  # keys and values
    grown = {}
    outs = []
    caches = PagePool(9).cache(), transformers.DynamicCache()
    with torch.no_grad():
        for cache in caches:
            cache.update(keys, keys, 0)
            query, new = (
                x.to(device) for x in (torch.ones(1, 4, 1, 32), keys[..., :1, :])
            )
            integration.attention(
                nn.Identity(), query, *cache.update(new, new, 0), None
            )
            before = sim.memory().allocated_bytes
            sim.reset_peak_memory()
            found = cache.update(new, new, 0)
            out, _ = integration.attention(nn.Identity(), query, *found, None)
            grown[type(cache).__name__] = sim.memory().peak_bytes - before
            outs.append(out.cpu())
    assert torch.allclose(*outs, atol=1e-6)
    assert grown["PagedCache"] < held / 10
    assert grown["DynamicCache"] >= held / 2


def test_what_pages_cannot_do_is_refused(device: torch.device) -> None:
    """Each with its own error, before anything is written."""
    for pages, size in ((0, 8), (4, 12), (4, 0)):
        with pytest.raises(InvalidProblemError, match="page_size=128"):
            PagePool(pages, size)
    pool = PagePool(pages=3, page_size=8)
    model = build("llama", "orchard").to(device)
    ids = torch.full((2, 9), 5).to(device)
    with pytest.raises(UnsupportedError, match="no_grad"):
        model(ids[:1], past_key_values=pool.cache())
    cache = pool.cache()
    with torch.no_grad():
        with pytest.raises(InvalidProblemError, match="make the pool larger"):
            model(ids, past_key_values=cache)
        assert (pool.free_pages, cache.get_seq_length()) == (3, 0)
        cache = pool.cache()
        model(ids[:1], past_key_values=cache)
        with pytest.raises(InvalidProblemError, match="batch of 1"):
            model(ids, past_key_values=cache)
        for act in ("reorder_cache", "crop"):
            with pytest.raises(UnsupportedError, match="only adds keys"):
                getattr(cache, act)(torch.zeros(1))
        with pytest.raises(UnsupportedError, match="only adds keys"):
            copy.deepcopy(cache)
        other = torch.zeros(1, 2, 1, 16).to(device)
        with pytest.raises(InvalidProblemError, match="one pool for each model"):
            cache.update(other, other, 0)
        foreign = build("llama", "eager").to(device)
        with pytest.raises(UnsupportedError, match='"orchard"'):
            foreign(ids[:1, :1], past_key_values=cache)


def test_a_mask_with_a_hole_is_no_step(device: torch.device) -> None:
    """Keys that do not lie side by side are left to the dense entry, gradients too."""
    mask = torch.ones(2, 1, 1, 200, dtype=torch.bool)
    mask[0, ..., :7], mask[1, ..., 150:] = False, False
    with torch.no_grad():
        whole = _steps.with_span(lambda: mask.to(device))()
        _, span = whole.orchard_span
        assert (span.begins.tolist(), span.ends.tolist()) == ([7, 0], [200, 150])
        assert (span.begin, span.end) == (None, 200)
        mask[0, ..., 90] = False
        holed = _steps.with_span(lambda: mask.to(device))()
        assert holed.orchard_span[1] is None
        q, k = torch.randn(2, 4, 1, 8).to(device), torch.randn(2, 2, 200, 8).to(device)
        assert _steps.step(q, k, k, holed, 1.0, 0.0, None) is None
        assert _steps.step(q, k, k, whole, 1.0, 0.0, None) is not None
    assert _steps.step(q.requires_grad_(), k, k, whole, 1.0, 0.0, None) is None


@pytest.mark.parametrize("name", MODELS)
def test_dropout_repeats_with_the_seed(name: str, device: torch.device) -> None:
    """Attention dropout is drawn anew in each step, and repeats with the seed."""
    field = {"llama": "attention_dropout", "gpt2": "attn_pdrop", "t5": "dropout_rate"}
    model = build(name, "orchard", **{field[name]: 0.4})
    model = model.to(device).train()
    inputs = {key: value.to(device) for key, value in batch(name, "none").items()}
    losses = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        losses.append(float(model(**inputs).loss))
    assert losses[0] == losses[2] != losses[1]


def test_checkpointing_equals_storing(device: torch.device) -> None:
    """Gradient checkpointing gives the gradients of storing everything."""
    _, ours = pair("llama", device)
    inputs = batch("llama", "left")
    want = loss_and_gradients(ours.train(), inputs, device)
    ours.gradient_checkpointing_enable({"use_reentrant": False})
    with count_calls() as calls:
        got = loss_and_gradients(ours, inputs, device)
    assert (calls.fwd, calls.bwd) == (4, 2)
    assert all(torch.equal(got[key], value) for key, value in want.items())


@pytest.mark.parametrize(
    "options",
    [{"head_mask": torch.ones(4)}, {"output_attentions": True}, {"cache": object()}],
    ids=lambda options: next(iter(options)),
)
def test_what_cannot_be_given_is_refused(options: dict[str, Any]) -> None:
    """What asks for stored weights, or for another cache, gets a clear error."""
    q = torch.ones(1, 4, 3, 8)
    with pytest.raises(UnsupportedError, match='attn_implementation="eager"'):
        integration.attention(nn.Identity(), q, q, q, None, **options)


def test_sinks_and_softcap_are_passed_on(device: torch.device) -> None:
    """s_aux joins the softmax, softcap bounds the scores, as in gpt-oss and Gemma 2."""
    q, k, v = (torch.randn(1, 4, 6, 8) for _ in range(3))
    sinks = torch.randn(4)
    scores = 2.0 * torch.tanh(0.5 * q @ k.transpose(-1, -2) / 2.0)
    columns = torch.cat([scores, sinks.view(1, 4, 1, 1).expand(1, 4, 6, 1)], -1)
    want = (columns.softmax(-1)[..., :-1] @ v).transpose(1, 2)
    got, weights = integration.attention(
        nn.Identity(), q.to(device), k.to(device), v.to(device), None, scaling=0.5,
        is_causal=False, softcap=2.0, s_aux=sinks.to(device),
    )  # fmt: skip
    assert weights is None
    assert torch.allclose(got.cpu(), want, atol=1e-5)


def plain(q: Tensor, k: Tensor, v: Tensor, added: Tensor) -> Tensor:
    """Return attention without a scale, in the order that transformers asks for."""
    return ((q @ k.mT + added).softmax(-1) @ v).transpose(1, 2)


@torch.no_grad()
def test_a_step_keeps_its_bias_and_its_dropout(device: torch.device) -> None:
    """The entry of the cache takes neither, so such a step goes the dense way."""
    q, k, v, bias = (
        torch.randn(1, 4, n, m) for n, m in ((1, 8), (200, 8), (200, 8), (1, 200))
    )
    tensors = [x.to(device) for x in (q, k, v)]
    got, _ = integration.attention(
        nn.Identity(), *tensors, None, scaling=1.0, position_bias=bias.to(device)
    )
    assert torch.allclose(got.cpu(), plain(q, k, v, bias), atol=1e-5)
    got, _ = integration.attention(nn.Identity(), *tensors, None, 0.5, scaling=1.0)
    assert not torch.allclose(got.cpu(), plain(q, k, v, torch.zeros(())), atol=1e-2)


class Causal(nn.Module):
    """A layer that attends to what is behind."""

    is_causal = True


def test_only_one_row_of_padding_lacks_causality(device: torch.device) -> None:
    """A mask with a row for each query says all, before transformers 4.53 too."""
    q, k, v = (torch.randn(1, 4, 6, 8) for _ in range(3))
    tensors = [x.to(device) for x in (q, k, v)]
    causal = torch.full((6, 6), -torch.inf).triu(1)
    padding = torch.tensor([True, True, True, True, True, False]).view(1, 1, 1, 6)
    added = torch.zeros(6).masked_fill(~padding, -torch.inf)
    for mask, want in (
        (padding, causal + added),
        (padding.expand(1, 1, 6, 6), added),
        (None, causal),
    ):
        given = None if mask is None else mask.to(device)
        got, _ = integration.attention(
            Causal(), *tensors, given, scaling=1.0, is_mask_complete=False
        )
        assert torch.allclose(got.cpu(), plain(q, k, v, want), atol=1e-5)


def test_an_old_transformers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an attention registry register() says which version has one."""
    modeling = __import__("transformers.modeling_utils").modeling_utils
    monkeypatch.delattr(modeling, "ALL_ATTENTION_FUNCTIONS")
    with pytest.raises(UnsupportedError, match=r"4\.48 or newer"):
        integration.register()


def test_flash_attn_is_found_by_feature_tests() -> None:
    """What transformers asks about flash_attn is answered; it wants CUDA all the same.

    In a process of its own, because the answers are kept.
    """
    program = """
import torch, transformers
import orchard_ops
torch.cuda.is_available = lambda: False
orchard_ops.flash_attn.install_as_flash_attn()
ask = transformers.utils
assert not ask.is_flash_attn_2_available()
assert ask.is_flash_attn_greater_or_equal("2.1.0")
assert not ask.is_flash_attn_greater_or_equal("99.0")
try:
    config = transformers.LlamaConfig(num_hidden_layers=1, hidden_size=32, vocab_size=9)
    config._attn_implementation = "flash_attention_2"
    transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="flash_attention_2"
    )
except (ImportError, ValueError) as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "PackageNotFoundError" not in done.stdout + done.stderr
    assert done.stdout.strip()  # transformers' own words, of CUDA or a GPU


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_prompt_in_two_pieces(name: str, device: torch.device) -> None:
    """A second piece of prompt on a filled cache sees all of the first, unmasked."""
    eager, ours = pair(name, device)
    ids = batch(name, "none")["input_ids"]
    with torch.no_grad(), count_calls() as calls:
        want = eager.eval()(ids).logits[:, 6:]
        first = ours.eval()(ids[:, :6].to(device), use_cache=True)
        second = ours(ids[:, 6:].to(device), past_key_values=first.past_key_values)
    assert calls.fwd == 4
    size = want.abs().max()
    assert (second.logits.cpu() - want).abs().max() <= 2e-4 * size


def bert(implementation: str) -> Any:
    """Return a small BERT, which asks no registry before transformers 5."""
    config = transformers.BertConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        attn_implementation=implementation,
    )
    torch.manual_seed(0)
    return transformers.BertModel(config).eval()


def test_a_model_with_a_table_of_its_own(device: torch.device) -> None:
    """Where a model does not ask the registry it says so, and what to do instead."""
    ids = batch("llama", "none")["input_ids"]
    with torch.no_grad():
        want = bert("eager")(ids).last_hidden_state
    if IS_OLD:
        with pytest.raises(UnsupportedError, match=r"modeling_bert.*sdpa\.enable"):
            bert("orchard")
        with pytest.raises((KeyError, ValueError), match="nonsense"):
            bert("nonsense")
    model = bert("sdpa" if IS_OLD else "orchard").to(device)
    with sdpa.enabled(), torch.no_grad(), count_calls() as calls:
        got = model(ids.to(device)).last_hidden_state
    assert calls.fwd == 2
    assert torch.allclose(got.cpu(), want, atol=1e-4)


def test_a_table_asked_while_running() -> None:
    """ModernBERT before transformers 5 asks its table in each forward."""
    config = transformers.ModernBertConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        pad_token_id=0,
        cls_token_id=1,
        sep_token_id=2,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="orchard",
    )
    ids = batch("llama", "none")["input_ids"]
    if IS_OLD:
        with pytest.raises(UnsupportedError, match="modeling_modernbert"):
            transformers.ModernBertModel(config)(ids)
    else:
        assert transformers.ModernBertModel(config)(ids) is not None


def train_rows(name: str, ranks: int) -> tuple[float, Tensor]:
    """Return the whole's loss and its embedding's gradient, by this rank's rows."""
    integration.register()
    # In one process eagerly, as transformers itself would.
    model = build(name, "eager" if ranks == 1 else "orchard").train()
    block = distributed.context_parallel if ranks > 1 else contextlib.nullcontext
    length = 45
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 61, (2, length + 1), generator=generator)
    inputs, labels = (
        distributed.shard(part, dim=1) for part in (tokens[:, :-1], tokens[:, 1:])
    )
    places = distributed.positions(length).expand(2, -1)
    with block():
        scores = model(input_ids=inputs, position_ids=places, use_cache=False).logits
        loss = nn.functional.cross_entropy(
            scores.flatten(0, 1), labels.flatten(), reduction="sum"
        )
        loss.backward()
    gradient = model.get_input_embeddings().weight.grad
    total = loss.detach()
    if ranks > 1:
        torch.distributed.all_reduce(total)
        torch.distributed.all_reduce(gradient)
    return float(total), gradient


def refuse_in_rows() -> None:
    """Ask for what a model would make of this rank's rows alone."""
    integration.register()
    model, tokens = build("llama", "orchard"), torch.full((2, 9), 5)
    with distributed.context_parallel(), pytest.raises(UnsupportedError, match="mask"):
        model(input_ids=tokens, attention_mask=torch.tril(torch.ones(2, 9)))


@pytest.mark.skipif(not HAS_MASKS, reason="models make their masks themselves")
def test_models_train_on_their_rows(tmp_path: Path) -> None:
    """Over two ranks, with a sliding window, as one process does; no mask is made."""
    with Fleet(2, tmp_path) as fleet:
        for name in ("llama", "mistral", "gpt2"):
            alone, gradient = train_rows(name, 1)
            for found, own in fleet.asked(train_rows, name, 2):
                assert found == pytest.approx(alone, rel=1e-5)
                torch.testing.assert_close(own, gradient, rtol=1e-3, atol=1e-4)
    refuse_in_rows()
