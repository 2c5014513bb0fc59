"""The same model trained twice: through our kernels, and by PyTorch on the CPU."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

import orchard_ops

from .._device import STORAGE_MODES, storage_mode
from .corpus import Batches
from .gpt import GPT, Attention, Shape
from .ranks import Ranks

__all__ = ["Comparison", "Result"]

# At 3e-3 training is chaotic: two roundings of PyTorch's own attention end 0.07 nats
# apart after 300 steps.  At 1e-3 they stay within 1e-6 (three seeds).
LEARNING_RATE = 1e-3
# A thousand times that drift; a dk that is wrong by 2 percent parts by 0.002.
MAX_LOSS_GAP = 0.001


@dataclass
class Result:
    """What the demo reports."""

    losses: list[float] = field(default_factory=list)
    losses_torch: list[float] = field(default_factory=list)
    gradient_error: float = float("nan")
    gradient_error_torch: float = float("nan")
    storage_modes: set[str] = field(default_factory=set)
    calls_forward: int = 0
    calls_backward: int = 0
    copies: int = 0

    @property
    def gaps(self) -> list[float]:
        """The difference of the two losses at each step, in nats."""
        pairs = zip(self.losses, self.losses_torch)
        return [abs(ours - theirs) for ours, theirs in pairs]

    @property
    def has_parted(self) -> bool:
        """Whether the curves part: a gap above MAX_LOSS_GAP, or not a number."""
        return not all(gap <= MAX_LOSS_GAP for gap in self.gaps)


class Comparison:
    """Two copies of a GPT with the same weights, fed with the same batches."""

    def __init__(
        self,
        shape: Shape,
        device: torch.device,
        text: Tensor,
        seed: int,
        *,
        is_divided: bool = False,
    ) -> None:
        """Make the models.

        is_divided: ours trains on this process's part of every sequence, among the
        processes of torch.distributed's group; PyTorch's sees the whole.
        """
        torch.manual_seed(seed)
        self._device = device
        self._ranks = Ranks(shape.length, device) if is_divided else None
        self._batches = Batches(text, shape.batch, shape.length, seed)
        self._theirs = GPT(shape, _sdpa)
        self._ours = copy.deepcopy(self._theirs).to(device)
        self._ours.use_attention(self._attend)
        self._optimizers = [
            torch.optim.AdamW(model.parameters(), LEARNING_RATE, foreach=False)
            for model in (self._ours, self._theirs)
        ]
        self._first_calls = orchard_ops.call_counts()
        self.result = Result()

    def step(self) -> None:
        """Train both models on one batch; alternate the storage mode on metalsim."""
        tokens, targets = self._batches.draw()
        index = len(self.result.losses)
        if index == 0:
            self._measure_gradients(tokens, targets)
            self._first_calls = orchard_ops.call_counts()
        with storage_mode(self._device, STORAGE_MODES[index % len(STORAGE_MODES)]):
            inputs = tokens.to(self._device), targets.to(self._device)
            self.result.losses.append(self._descend(0, *inputs))
        self.result.losses_torch.append(self._descend(1, tokens, targets))
        calls, first = orchard_ops.call_counts(), self._first_calls
        self.result.calls_forward = calls.forward - first.forward
        self.result.calls_backward = calls.backward - first.backward
        self.result.copies = calls.copies - first.copies

    def _descend(self, index: int, tokens: Tensor, targets: Tensor) -> float:
        ranks = self._ranks if index == 0 else None
        model = (self._ours, self._theirs)[index]
        self._optimizers[index].zero_grad()
        loss = _loss(model, tokens, targets, ranks)
        loss.backward()  # type: ignore[no-untyped-call]
        loss = loss.detach()
        if ranks is not None:
            grads = (weight.grad for weight in model.parameters())
            ranks.add_up(loss, *(grad for grad in grads if grad is not None))
        self._optimizers[index].step()
        return float(loss)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        for tensor in (q, k, v):
            described = orchard_ops.storage.describe(tensor)
            self.result.storage_modes.add(described.storage_mode)
        if self._ranks is not None:
            return self._ranks.attend(q, k, v)
        return orchard_ops.flash_attention(q, k, v, is_causal=True)

    def _measure_gradients(self, tokens: Tensor, targets: Tensor) -> None:
        """Compare the attention gradients of all layers with a float64 copy's."""
        exact = _attention_gradients(
            copy.deepcopy(self._theirs).double(), _sdpa, tokens, targets
        )
        theirs = _attention_gradients(self._theirs, _sdpa, tokens, targets)
        inputs = tokens.to(self._device), targets.to(self._device)
        ours = _attention_gradients(self._ours, self._attend, *inputs, self._ranks)
        if self._ranks is not None:
            exact, theirs = (
                [self._ranks.part(gradient, 2) for gradient in whole]
                for whole in (exact, theirs)
            )
        self.result.gradient_error = _worst_error(ours, exact)
        self.result.gradient_error_torch = _worst_error(theirs, exact)


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def _loss(model: GPT, tokens: Tensor, targets: Tensor, ranks: Ranks | None) -> Tensor:
    """Return the mean loss, or this process's share of it."""
    if ranks is None:
        return model.loss(tokens, targets)
    return ranks.loss(model, tokens, targets)


def _attention_gradients(
    model: GPT,
    attention: Attention,
    tokens: Tensor,
    targets: Tensor,
    ranks: Ranks | None = None,
) -> list[Tensor]:
    """Return the gradients of q, k, v of every layer, float64 on the CPU."""
    kept: list[Tensor] = []

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kept.extend((q, k, v))
        return attention(q, k, v)

    model.use_attention(attend)
    gradients = torch.autograd.grad(_loss(model, tokens, targets, ranks), kept)
    model.use_attention(attention)
    return [gradient.cpu().double() for gradient in gradients]


def _worst_error(actual: list[Tensor], exact: list[Tensor]) -> float:
    """Return the largest error relative to the largest element of its tensor."""
    return max(
        float((got - want).abs().max() / want.abs().max())
        for got, want in zip(actual, exact)
    )
