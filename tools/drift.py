"""Train a small GPT with our attention and with PyTorch's, in three dtypes.

    python tools/drift.py --steps 1000

All start from the same weights and see the same batches.  As under autocast, weights
are float32 and attention alone is in the dtype, so that what sets two runs apart is
attention.  A third run in float64 throughout is the yardstick: how far from its losses
and weights did ours go, how far PyTorch's own?  Exits 1 if ours went further than
PyTorch's by more than a factor.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

import orchard_ops
from orchard_ops._demo.corpus import Batches, read_corpus, standard_library
from orchard_ops._demo.gpt import GPT, Attention, Shape
from orchard_ops._device import choose_device

SHAPE = Shape(layers=2, heads=2, head_dim=32, length=32, batch=4)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MARKS = (1, 10, 100, 1000)
# At the demo's 1e-3 such small batches make training chaotic after 500 steps, and
# all runs end equally far apart; here float32 stays about 1e-4 from float64.
LEARNING_RATE = 3e-4
# Float16 has few bits for gradients as small as a mean's; a power of two rounds
# nothing in the other dtypes.
LOSS_SCALE = 1024.0
# Two runs that round differently, both rightly, are at times that far apart.
FACTOR = 3.0


def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend through the kernels."""
    return orchard_ops.flash_attention(q, k, v, is_causal=True)


def theirs(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend by PyTorch's plain operators."""
    with sdpa_kernel(SDPBackend.MATH):
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


class Distance(NamedTuple):
    """How far a run is from the yardstick."""

    # Root of the mean square over the batch's bytes: of the mean loss it would be luck.
    loss: float
    weights: float  # norm of the difference, relative to that of all training's change


class Run:
    """One copy of the model, its optimizer, and how far it went from the yardstick."""

    def __init__(self, model: GPT, attention: Attention, dtype: torch.dtype) -> None:
        """Take a model, and compute its attention in a dtype."""

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(*(each.to(dtype) for each in (q, k, v))).to(q.dtype)

        self.model = model
        model.use_attention(attend)
        self._optimizer = torch.optim.AdamW(
            model.parameters(), LEARNING_RATE, foreach=False
        )

    def step(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Train on a batch and return the loss of each byte, in float64 on the CPU."""
        place = self.model.position.device
        self._optimizer.zero_grad()
        scores = self.model(tokens.to(place)).flatten(0, 1)
        wanted = targets.to(place).flatten()
        losses = functional.cross_entropy(scores, wanted, reduction="none")
        (losses.mean() * LOSS_SCALE).backward()
        for weight in self.model.parameters():
            assert weight.grad is not None
            weight.grad.div_(LOSS_SCALE)
        self._optimizer.step()
        return losses.detach().cpu().double()

    def weights(self) -> Tensor:
        """Return all weights but keys' biases, as one float64 vector on the CPU.

        A bias of the keys adds the same to all scores of a query, which changes no
        output: its gradient is 0 but for rounding, of which Adam makes whole steps.
        """
        found = []
        for name, weight in self.model.named_parameters():
            flat = weight.detach().cpu().double().flatten()
            q, k, v = flat.tensor_split(3)
            found += [q, v] if name.endswith("qkv.bias") else [q, k, v]
        return torch.cat(found)


def train(steps: int, seed: int, device: torch.device) -> dict[str, list[Distance]]:
    """Train all runs; return each run's distances at the marks, by name."""
    torch.manual_seed(seed)
    text = read_corpus(standard_library(), SHAPE.batch * SHAPE.length)
    batches = Batches(text, SHAPE.batch, SHAPE.length, seed)
    model = GPT(SHAPE, theirs)
    exact = Run(copy.deepcopy(model).double(), theirs, torch.float64)
    first = exact.weights()
    runs = {}
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        runs[f"{name}, ours"] = Run(copy.deepcopy(model).to(device), ours, dtype)
        runs[f"{name}, PyTorch"] = Run(copy.deepcopy(model), theirs, dtype)
    found: dict[str, list[Distance]] = {name: [] for name in runs}
    for done in range(1, steps + 1):
        batch = batches.draw()
        losses = exact.step(*batch)
        apart = {name: run.step(*batch) - losses for name, run in runs.items()}
        if done in (*MARKS, steps):
            weights = exact.weights()
            moved = float((weights - first).norm())
            for name, run in runs.items():
                loss = float(apart[name].square().mean().sqrt())
                weight = float((run.weights() - weights).norm()) / moved
                found[name].append(Distance(loss, weight))
    return found


def too_far(found: dict[str, list[Distance]]) -> list[str]:
    """Return a sentence for each distance of ours above the factor of PyTorch's."""
    return [
        f"{name}: {what} {ours_:.2e}, PyTorch {theirs_:.2e}"
        for name, distances in found.items()
        if name.endswith(", ours")
        for mine, other in zip(distances, found[name.replace("ours", "PyTorch")])
        for what, ours_, theirs_ in zip(Distance._fields, mine, other)
        if not ours_ <= FACTOR * theirs_
    ]


def main(arguments: list[str] | None = None) -> int:
    """Return 1 if ours drifts further than PyTorch's own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    device = choose_device()
    torch.set_num_threads(1)
    started = time.monotonic()
    found = train(options.steps, options.seed, device)
    marks = sorted({*MARKS, options.steps} & {*range(1, options.steps + 1)})
    print(f"distance from float64 (loss; weights), after {marks} steps")
    for name, distances in found.items():
        print(f"{name:18}", *(f"{d.loss:.1e} {d.weights:.1e}" for d in distances),
              sep="  ")  # fmt: skip
    wrong = too_far(found)
    print(f"{time.monotonic() - started:.0f} s;", "; ".join(wrong) or "none too far")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
