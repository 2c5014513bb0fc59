"""Dropout's random numbers: published answers, and the bits that each weight gets."""

from __future__ import annotations

import philox as reference
import pytest
import torch
from torch import Tensor

import orchard_ops
from orchard_ops._arguments import philox as _philox

# Counter, key and words of Random123's known answers for philox4x32-10.
KNOWN = {
    "zeros": ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    "ones": ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    "pi": (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
}


def words(text: str) -> list[Tensor]:
    """Return hexadecimal words as tensors."""
    return [torch.tensor(int(word, 16)) for word in text.split()]


def drawn(counter: list[int], key: list[int]) -> list[int]:
    """Return the words that the CPU's dropout draws."""
    words: list[int] = torch.ops.orchard_ops.philox(counter, key)
    return words


@pytest.mark.parametrize("name", KNOWN)
def test_known_answers(name: str) -> None:
    """Philox4x32-10 gives the words that its authors publish."""
    counter, key, expected = ([int(w) for w in words(text)] for text in KNOWN[name])
    assert drawn(counter, key) == expected


@pytest.mark.parametrize("name", KNOWN)
def test_known_answers_of_the_reference(name: str) -> None:
    """So does the reference that the kernels are compared with."""
    counter, key, expected = (words(text) for text in KNOWN[name])
    counters = [word.numpy().astype("uint64") for word in counter]
    actual = reference.philox(counters, (int(key[0]), int(key[1])))
    assert [int(word) for word in actual] == [int(word) for word in expected]


@pytest.mark.parametrize(
    "dropout_p", [0.0, 1e-7, 0.5 / 65536, 0.1, 0.99999, 1.0 - 1e-9]
)
@pytest.mark.parametrize("seed", [0, 1, -1, 0x123456789ABCDEF, -(2**63)])
def test_keep_mask_is_the_reference(seed: int, dropout_p: float) -> None:
    """Both ways of writing the keep-mask down give the same bits."""
    shape = (2, 3, 9, 71)
    actual = _philox.keep_mask(torch.tensor(seed), dropout_p, shape, 4)
    expected = reference.keep_mask(seed, dropout_p, shape, 4)
    assert torch.equal(actual, expected)


def test_one_weight_by_hand() -> None:
    """Which counter and which 16 bits a weight gets, for one weight, number by number.

    Batch 1 of 2, head 2 of 3, row 5, column 58: strip 1 of 32 columns, within it
    column 26 = 8 * 3 + 2, so group 4 * 1 + 1 and draw 2 * 3 + 0: word 3, its low half.
    """
    word = drawn([5, 5, 1 * 3 + 2, 0], [7, 9])[3]
    seed = torch.tensor(9 << 32 | 7)
    for dropped in (False, True):
        dropout_p = ((word & 0xFFFF) + dropped) / 65536
        kept = _philox.keep_mask(seed, dropout_p, (2, 3, 9, 71))
        assert bool(kept[1, 2, 5, 58]) != dropped


def test_share_that_is_kept() -> None:
    """As many weights are dropped as were asked for, to three standard deviations."""
    kept = _philox.keep_mask(torch.tensor(3), 0.3, (4, 4, 128, 128)).double()
    assert abs(float(kept.mean()) - 0.7) < 3 * (0.21 / kept.numel()) ** 0.5


@pytest.mark.parametrize("dropout_p", [0.5, 0.99999, 0.1])
def test_scale_undoes_the_probability_really_used(dropout_p: float) -> None:
    """The factor on kept weights belongs to the rounded probability."""
    q, v = torch.zeros(1, 1, 1, 8), torch.ones(1, 1, 1, 8)
    factor = reference.keep_scale(dropout_p)  # at least one draw in 65536 is kept
    for _ in range(60):
        out = orchard_ops.flash_attention(q, q, v, dropout_p=dropout_p)
        assert float(out[0, 0, 0, 0]) in (0.0, pytest.approx(factor, rel=1e-6))


def test_manual_seed_decides() -> None:
    """The seed comes from torch.manual_seed and differs from call to call."""
    torch.manual_seed(5)
    first, second = _philox.draw_seed(), _philox.draw_seed()
    assert first != second
    torch.manual_seed(5)
    assert _philox.draw_seed() == first
