"""Numbers on a device that name places outside a cache: nothing outside is touched."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from orchard_ops import flash_attention_with_kvcache

CAPACITY, PAGE = 24, 8
INT_MAX = 2**31 - 1


def draw(*shape: int) -> Tensor:
    """Draw normal numbers, the same in every test."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def inside_poison(tensor: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a tensor as a view of one that is NaN around it, and that one.

    NaN before its first entry and after its last, and behind each entry's last row.
    """
    shape = list(tensor.shape)
    around = torch.full([shape[0] + 2, shape[1] + 8, *shape[2:]], math.nan)
    view = (slice(1, 1 + shape[0]), slice(0, shape[1]))
    around[view] = tensor
    around = around.to(device)
    return around[view], around


def whole(numbers: list[Any], device: torch.device) -> Tensor:
    """Return an int32 tensor."""
    return torch.tensor(numbers, dtype=torch.int32).to(device)


@pytest.mark.parametrize(
    ("lengths", "taken"),
    [
        ([CAPACITY + 1, 5], [CAPACITY, 5]),
        ([INT_MAX, -3], [CAPACITY, 0]),
        ([-INT_MAX - 1, CAPACITY], [0, CAPACITY]),
    ],
)
@pytest.mark.parametrize("layout", ["dense", "paged", "rows", "left-pads"])
def test_lengths_are_cut(
    layout: str, lengths: list[int], taken: list[int], device: torch.device
) -> None:
    """A length beyond the capacity is the capacity; a negative one is none."""
    q = draw(2, 2, 4, 16)
    given: dict[str, list[Any]] = {}
    k, v = draw(2, CAPACITY, 2, 16), draw(2, CAPACITY, 2, 8)
    if layout == "paged":
        k, v = draw(7, PAGE, 2, 16), draw(7, PAGE, 2, 8)
        given["block_table"] = [[6, 1, 3], [0, 5, 2]]
    elif layout == "rows":
        given["cache_batch_idx"] = [1, 0]
    elif layout == "left-pads":
        given["cache_leftpad"] = [2, INT_MAX]
    results = []
    for place, counts in ((device, lengths), (torch.device("cpu"), taken)):
        numbers: dict[str, Any] = {
            name: whole(
                [min(n, CAPACITY) for n in value]
                if place.type == "cpu" and layout == "left-pads"
                else value,
                place,
            )
            for name, value in given.items()
        }
        caches: Any = [inside_poison(t, place)[0] for t in (k, v)]
        results.append(
            flash_attention_with_kvcache(
                q.to(place), *caches, cache_seqlens=whole(counts, place),
                is_causal=True, return_lse=True, **numbers,
            )
        )  # fmt: skip
    for got, want in zip(*results):
        torch.testing.assert_close(got.cpu(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [-1, 99, INT_MAX, -INT_MAX - 1])
@pytest.mark.parametrize("layout", ["paged", "rows"])
def test_entries_and_pages_are_the_nearest(
    layout: str, wrong: int, device: torch.device
) -> None:
    """An entry or a page that is not there is read as the first or the last."""
    q = draw(2, 1, 4, 16)
    k, v = draw(5, PAGE, 2, 16), draw(5, PAGE, 2, 8)
    results = []
    for number in (wrong, max(0, min(wrong, 4))):
        numbers = [3, number]
        if layout == "paged":
            given: dict[str, Any] = {
                "block_table": whole([[0, number], [2, 1]], device)
            }
            lengths = [13, 9]
        else:
            given = {"cache_batch_idx": whole(numbers, device)}
            lengths = [7, 8]
        caches: Any = [inside_poison(t, device)[0] for t in (k, v)]
        results.append(
            flash_attention_with_kvcache(
                q.to(device), *caches, cache_seqlens=whole(lengths, device), **given
            ).cpu()
        )
    assert torch.isfinite(results[0]).all()
    assert torch.equal(*results)


@pytest.mark.parametrize("layout", ["dense", "paged", "rows", "left-pads"])
def test_the_operator_alone_on_the_cpu(layout: str, device: torch.device) -> None:
    """What Python refuses there, its operator takes as on a device."""
    q = draw(2, 4, 2, 16)
    k, v = draw(3, 2, CAPACITY, 16), draw(3, 2, CAPACITY, 8)
    wrongs: dict[str, dict[str, Any]] = {
        "paged": {"block_table": [[2, -4, 9], [INT_MAX, 1, 0]]},
        "rows": {"cache_batch_idx": [-1, 3]},
        "left-pads": {"cache_leftpad": [-5, INT_MAX]},
    }
    wrong = wrongs.get(layout, {})
    if layout not in ("paged", "rows"):
        k, v = k[:2], v[:2]
    results = []
    for place in (device, torch.device("cpu")):
        given = {name: whole(value, place) for name, value in wrong.items()}
        names = ("block_table", "cache_batch_idx", "cache_leftpad")
        stores = [t.to(place) for t in (q, k, v)]
        results.append(
            torch.ops.orchard_ops.decode(
                *stores, whole([INT_MAX, 9], place), *map(given.get, names), None,
                None, None, 0.0, -1, -1, 0,
            )
        )  # fmt: skip
    for got, want in zip(*results):
        torch.testing.assert_close(got.cpu(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "lengths",
    [[CAPACITY - 1, 4], [CAPACITY, 4], [4, INT_MAX], [-2, 4], [CAPACITY, -99]],
    ids=str,
)
@pytest.mark.parametrize("layout", ["dense", "paged", "rows", "bad-page", "bad-row"])
def test_appending_writes_nothing_outside(
    layout: str, lengths: list[int], device: torch.device
) -> None:
    """New keys go where there is room; the others are not written at all."""
    len_new = 3
    q, new = draw(2, 1, 4, 16), draw(2, len_new, 2, 16)
    given: dict[str, list[Any]] = {}
    rows = [0, 1]
    store = draw(2, CAPACITY, 2, 16)
    table = [[6, 1, 3], [0, 5, 2]]
    if layout.endswith("page") or layout == "paged":
        store = draw(7, PAGE, 2, 16)
        if layout == "bad-page":
            table = [[6, 1, 77], [-1, 5, 2]]
        given["block_table"] = table
    elif layout.endswith("row") or layout == "rows":
        rows = [1, 0] if layout == "rows" else [1, 9]
        given["cache_batch_idx"] = rows
    want = store.clone()
    for entry, length in enumerate(lengths):
        for step in range(len_new):
            position, row = length + step, rows[entry]
            if not 0 <= position < CAPACITY:
                continue
            if "block_table" in given:
                row, position = table[entry][position // PAGE], position % PAGE
            if 0 <= row < store.size(0):
                want[row, position] = new[entry, step]
    (k, k_around), (v, v_around) = (inside_poison(store, device) for _ in range(2))
    out = flash_attention_with_kvcache(
        q.to(device), k, v, new.to(device), new.to(device),
        cache_seqlens=whole(lengths, device),
        **{name: whole(value, device) for name, value in given.items()},
    )  # fmt: skip
    assert torch.isfinite(out.cpu()).all()
    for cache, around in ((k, k_around), (v, v_around)):
        assert torch.equal(cache.cpu(), want)
        assert int(torch.isfinite(around.cpu()).sum()) == want.numel()


def test_positions_beyond_the_rotary_table(device: torch.device) -> None:
    """They turn by the table's last angles."""
    q, new = draw(2, 1, 4, 16), draw(2, 1, 2, 16)
    angles = torch.rand(6, 4)
    results = []
    for extra in (0, 30):
        table = torch.cat([angles, angles[-1:].expand(extra, 4)])
        cache = draw(2, CAPACITY, 2, 16).to(device)
        results.append(
            flash_attention_with_kvcache(
                q.to(device), cache, cache.clone(), new.to(device), new.to(device),
                cache_seqlens=whole([20, 3], device),
                rotary_cos=table.cos().to(device), rotary_sin=table.sin().to(device),
            ).cpu()
        )  # fmt: skip
    assert torch.equal(*results)
