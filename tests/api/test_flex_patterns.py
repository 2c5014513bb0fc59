"""The blocks of docs/flex_attention.md, run as they stand, against float64."""

from __future__ import annotations

import re
from typing import Any, Callable

import pytest
import torch
from paths import ROOT
from torch import Tensor

import orchard_ops

PAGE = (ROOT / "docs" / "flex_attention.md").read_text(encoding="utf-8")
CODE = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
PARTS = [(part.partition("\n")[0], CODE.findall(part)) for part in PAGE.split("\n## ")]
SETUP, *BLOCKS = [(title, blocks[0]) for title, blocks in PARTS if blocks]
BATCH, HEADS, LENGTH, SIZE = 2, 4, 45, 16
ROWS, COLUMNS = torch.arange(LENGTH).unsqueeze(1), torch.arange(LENGTH)
CAUSAL = ROWS >= COLUMNS

GIVEN: dict[str, Tensor] = {
    "document_id": torch.tensor([[0] * 20 + [1] * 25, [0] * 7 + [1] * 1 + [2] * 37]),
    "key_lengths": torch.tensor([45, 30]),
    "table": torch.randn(HEADS, 2 * LENGTH - 1,
                         generator=torch.Generator().manual_seed(2)),
}  # fmt: skip
PREFIX = 9


def by_document(scores: Tensor, _: Tensor) -> Tensor:
    """Hide later keys and those of other documents."""
    ids = GIVEN["document_id"]
    keep = CAUSAL & (ids[:, None, :, None] == ids[:, None, None, :])
    return scores.masked_fill(~keep, -torch.inf)


def hidden(keep: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what hides all but some keys."""
    return lambda scores, _: scores.masked_fill(~keep, -torch.inf)


def with_alibi(scores: Tensor, _: Tensor) -> Tensor:
    """Lower the scores by distance."""
    slopes = torch.tensor([2.0 ** (-2 * head) for head in range(1, HEADS + 1)]).double()
    lowered = scores - slopes[:, None, None] * (ROWS - COLUMNS).abs()
    return hidden(CAUSAL)(lowered, lowered)


# What each block does to the scaled scores, and to what else gets a gradient.
MEANINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Causal": hidden(CAUSAL),
    "Sliding window": hidden(CAUSAL & (ROWS - COLUMNS <= 20)),
    "Documents": by_document,
    "Softcap": lambda scores, _: hidden(CAUSAL)(20 * torch.tanh(scores / 20), scores),
    "ALiBi": with_alibi,
    "Relative bias": lambda s, table: s + table[:, ROWS - COLUMNS + LENGTH - 1],
    "Prefix": hidden(CAUSAL | (COLUMNS < PREFIX)),
    "Padding": hidden(CAUSAL & (GIVEN["key_lengths"][:, None, None, None] > COLUMNS)),
    "Sink tokens and a window": hidden(
        CAUSAL & ((COLUMNS < 4) | (ROWS - COLUMNS <= 20))
    ),
}


def test_every_block_has_a_meaning() -> None:
    """No block of the page is left out."""
    assert set(dict(BLOCKS)) == set(MEANINGS)


@pytest.mark.parametrize("name", MEANINGS)
def test_block(name: str, device: torch.device) -> None:
    """Output and gradients are those of the definition."""
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, HEADS, LENGTH, SIZE)
    tensors = [torch.randn(shape, generator=generator) for _ in range(4)]
    given: dict[str, Any] = {n: t.to(device) for n, t in GIVEN.items()}
    leaves = [t.to(device).requires_grad_() for t in tensors[:3]]
    given["table"].requires_grad_()
    given.update(zip("qkv", leaves), prefix=PREFIX)
    exec(SETUP[1] + dict(BLOCKS)[name], given)
    assert given["orchard_ops"] is orchard_ops
    exact = [t.double().requires_grad_() for t in tensors[:3]]
    table = GIVEN["table"].double().requires_grad_()
    if name == "Relative bias":
        leaves.append(given["table"])
        exact.append(table)
    scores = MEANINGS[name](SIZE**-0.5 * exact[0] @ exact[1].mT, table)
    want = torch.softmax(scores, -1) @ exact[2]
    grads = torch.autograd.grad(given["out"], leaves, tensors[3].to(device))
    wanted = torch.autograd.grad(want, exact, tensors[3].double())
    for got, expected in zip((given["out"], *grads), (want, *wanted)):
        assert torch.allclose(got.cpu().double(), expected, atol=2e-5)
