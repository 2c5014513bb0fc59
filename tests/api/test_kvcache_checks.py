"""What flash_attention_with_kvcache refuses, before it writes, and what it takes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from orchard_ops import (
    InvalidProblemError,
    OrchardError,
    UnsupportedError,
    flash_attention_with_kvcache,
)

NAME = "flash_attention_with_kvcache"


def whole(*numbers: int) -> Tensor:
    """Return an int32 tensor."""
    return torch.tensor(numbers, dtype=torch.int32)


def table(*pages: int) -> Tensor:
    """Return two batch entries' pages."""
    return whole(*pages).view(2, -1)


def draw(*shape: int) -> Tensor:
    """Draw normal numbers, the same in every test."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(params=["device", "cpu"])
def place(request: pytest.FixtureRequest, device: torch.device) -> torch.device:
    """Run a test on the device, and with CPU tensors."""
    return device if request.param == "device" else torch.device("cpu")


def arguments(place: torch.device, **given: Any) -> dict[str, Any]:
    """Return those of a good step with one new key, but for what is given."""
    step: dict[str, Any] = {
        "q": draw(2, 1, 4, 8),
        "k_cache": draw(2, 16, 2, 8),
        "v_cache": draw(2, 16, 2, 6),
        "k": draw(2, 1, 2, 8),
        "v": draw(2, 1, 2, 6),
        "cache_seqlens": whole(4, 12),
        **given,
    }
    return {
        name: value.to(place) if isinstance(value, Tensor) else value
        for name, value in step.items()
    }


def refuse(
    place: torch.device, error: type[OrchardError], words: str, **given: Any
) -> None:
    """Check that a step raises the error, and that its caches stay as they are."""
    step = arguments(place, **given)
    stores = [step[name] for name in ("k_cache", "v_cache")]
    before = [store.cpu().clone() for store in stores]
    with pytest.raises(error, match=words) as caught:
        flash_attention_with_kvcache(**step)
    assert str(caught.value).startswith(f"[{NAME}] ")
    for store, old in zip(stores, before):
        assert torch.equal(store.cpu(), old)


PAGES = {"k_cache": draw(5, 8, 2, 8), "v_cache": draw(5, 8, 2, 6)}
LAYOUTS: dict[str, dict[str, Any]] = {
    "dense": {},
    "paged": {**PAGES, "block_table": table(1, 3, 0, 4)},
    "rows": {"cache_batch_idx": whole(1, 0)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2,), (1,), (), (1, 4), (3, 4), (2, 4, 1)], ids=str)
def test_slopes_of_another_shape(
    shape: tuple[int, ...], layout: str, place: torch.device
) -> None:
    """Slopes are one number for each head, however the keys are found."""
    slopes = torch.ones(shape)
    refuse(place, InvalidProblemError, "slopes", alibi_slopes=slopes, **LAYOUTS[layout])


SHORT = {"rotary_cos": torch.ones(8, 4), "rotary_sin": torch.zeros(8, 4)}
LONG = {"rotary_cos": torch.ones(20, 4), "rotary_sin": torch.zeros(20, 4)}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "scale-nan": ("scale", {"scale": math.nan}),
    "scale-text": ("scale", {"scale": "1"}),
    "softcap-negative": ("softcap", {"softcap": -1.0}),
    "window-not-whole": ("window", {"window": (1.5, 0)}),
    "slopes-whole": ("floating-point", {"alibi_slopes": torch.ones(4).int()}),
    "slopes-list": ("Tensor", {"alibi_slopes": [1.0] * 4}),
    "q-of-another-dtype": ("dtype", {"q": draw(2, 1, 4, 8).half()}),
    "q-of-odd-heads": ("heads", {"q": draw(2, 1, 3, 8)}),
    "v-of-another-length": (r"v of shape .*2, 1, 2, 6", {"v": draw(2, 2, 2, 6)}),
    "k-list": ("k to be a torch.Tensor", {"k": [1]}),
    "more-new-keys-than-room": (
        "room for 16", {"k": draw(2, 17, 2, 8), "v": draw(2, 17, 2, 6)}),
    "length-negative": ("from 0 to 15.*got -1", {"cache_seqlens": -1}),
    "length-without-room": ("from 0 to 15.*got 16", {"cache_seqlens": 16}),
    "length-above-int32": ("got 1099511627776", {"cache_seqlens": 2**40}),
    "length-above-capacity": (
        "from 0 to 16.*got 17", {"cache_seqlens": 17, "k": None, "v": None}),
    "length-above-pages": (
        "room for 16.*got 17", {"cache_seqlens": 17, **LAYOUTS["paged"]}),
    "length-none": ("an int, got None", {"cache_seqlens": None}),
    "length-float": ("an int, got 4.0", {"cache_seqlens": 4.0}),
    "length-list": (r"an int, got \[4, 12\]", {"cache_seqlens": [4, 12]}),
    "length-bool": ("an int, got True", {"cache_seqlens": True}),
    "length-float-scalar": ("torch.float32", {"cache_seqlens": torch.tensor(4.0)}),
    "table-list": ("Tensor, got list", {"block_table": [[1, 2], [3, 4]]}),
    "rotary-too-short": ("8 rows", {"cache_seqlens": 8, **SHORT}),
    "rotary-too-short-for-queries": (
        "8 rows and 5", {"q": draw(2, 5, 4, 8), "cache_seqlens": 4,
                         "is_causal": True, **SHORT}),
    "rotary-list": ("tensors", {"rotary_cos": [1], "rotary_sin": [1]}),
    "splits-none": ("num_splits.*an int, got None", {"num_splits": None}),
    "splits-negative": ("num_splits.*got -1", {"num_splits": -1}),
    "cache-of-another-batch": (
        "batch", {"k_cache": draw(3, 16, 2, 8), "v_cache": draw(3, 16, 2, 6)}),
    "caches-of-two-batches": (
        "first size", {"k_cache": draw(3, 16, 2, 8),
                       "cache_batch_idx": whole(1, 0)}),
    "pages-of-12": (
        "multiple of 8 keys, got 12", {"block_table": table(1, 0), "k": None, "v": None,
                                       "k_cache": draw(2, 12, 2, 8),
                                       "v_cache": draw(2, 12, 2, 6)}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str, place: torch.device) -> None:
    """A step that is refused has written nothing; CPU and device refuse alike."""
    words, given = REFUSED[name]
    refuse(place, InvalidProblemError, words, **given)


def test_a_table_with_entries_is_refused(place: torch.device) -> None:
    """block_table already says where the keys of a batch entry lie."""
    given = {**LAYOUTS["paged"], "cache_batch_idx": whole(1, 0)}
    refuse(place, UnsupportedError, "without block_table", **given)


REFUSED_ON_CPU: dict[str, tuple[str, dict[str, Any]]] = {
    "length-negative": ("got -1", {"cache_seqlens": whole(4, -1)}),
    "length-without-room": ("got 16", {"cache_seqlens": whole(4, 16)}),
    "length-above-int32": (
        "got 4294967297", {"cache_seqlens": torch.tensor([4, 2**32 + 1])}),
    "entry-negative": ("batch_idx from 0 to 1", {"cache_batch_idx": whole(0, -1)}),
    "entry-too-large": ("batch_idx from 0 to 1", {"cache_batch_idx": whole(2, 0)}),
    "padding-negative": ("leftpad from 0", {"cache_leftpad": whole(0, -1)}),
    "page-used-too-large": (
        "5 pages, got 7", {**PAGES, "block_table": table(1, 3, 0, 7)}),
    "page-used-negative": (
        "5 pages, got -1", {**PAGES, "block_table": table(-1, 3, 0, 4)}),
    "rotary-too-short": ("8 rows", SHORT),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_ON_CPU)
def test_refuses_numbers_of_cpu_tensors(name: str) -> None:
    """Numbers in CPU tensors are looked at, those on a device can't be."""
    words, given = REFUSED_ON_CPU[name]
    refuse(torch.device("cpu"), InvalidProblemError, words, **given)


def test_a_numpy_integer_is_a_length(place: torch.device) -> None:
    """cache_seqlens may be any integer."""
    got = flash_attention_with_kvcache(
        **arguments(place, cache_seqlens=np.int64(4), num_splits=np.int32(1))
    )
    want = flash_attention_with_kvcache(**arguments(place, cache_seqlens=4))
    assert torch.equal(got.cpu(), want.cpu())


def test_unused_pages_may_be_anything(place: torch.device) -> None:
    """The table is not read past a sequence's length."""
    results = [
        flash_attention_with_kvcache(
            **arguments(place, **PAGES, block_table=table(1, unused, 0, 4))
        ).cpu()
        for unused in (3, 99999, -1)
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_more_parts_than_keys(device: torch.device) -> None:
    """However many parts are asked for, none is made that would hold no key."""
    results = [
        flash_attention_with_kvcache(**arguments(device, num_splits=splits)).cpu()
        for splits in (2, 2**31, 2**70)
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_batch_of_none(layout: str, place: torch.device) -> None:
    """No batch entries give no results."""
    given = {"k_cache": draw(0, 16, 2, 8), "v_cache": draw(0, 16, 2, 6)}
    given.update({name: value[:0] if name in ("block_table", "cache_batch_idx")
                  else value for name, value in LAYOUTS[layout].items()})  # fmt: skip
    out, lse = flash_attention_with_kvcache(
        **arguments(
            place, q=draw(0, 1, 4, 8), k=draw(0, 1, 2, 8), v=draw(0, 1, 2, 6),
            cache_seqlens=whole(), return_lse=True, **given,
        )
    )  # fmt: skip
    assert (out.shape, lse.shape) == ((0, 1, 4, 6), (0, 4, 1))


def test_meta_tensors_give_shapes() -> None:
    """On the meta device a step is checked and computes nothing."""
    meta = torch.device("meta")
    given = {**LAYOUTS["paged"], **LONG, "return_lse": True}
    out, lse = flash_attention_with_kvcache(**arguments(meta, **given))
    assert (out.shape, out.dtype) == ((2, 1, 4, 6), torch.float32)
    assert (lse.shape, lse.device) == ((2, 4, 1), meta)
    with pytest.raises(InvalidProblemError, match="heads"):
        flash_attention_with_kvcache(**arguments(meta, q=draw(2, 1, 3, 8), **given))
