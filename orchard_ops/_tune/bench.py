"""The steps of one shape, and whether what they compute is right."""

from __future__ import annotations

import math
import warnings
from typing import Callable

import torch
from torch import Tensor

from .. import _native, sdpa
from .._errors import translate
from .._functions.kvcache import flash_attention_with_kvcache
from .._sdpa_call import HAS_GQA
from .shapes import Shape

__all__ = ["PASSES", "Bench", "SmallerTileError"]

# How far two results of the kernels may lie apart, of the norm and of the largest
# element: some roundings each way, since sums are taken in another order.
NORM = {
    torch.float32: 2.0**-19,
    torch.float16: 2.0**-9,
    torch.bfloat16: 2.0**-6,
}
LARGEST = {dtype: 8 * share for dtype, share in NORM.items()}
PASSES = ("forward", "backward", "decode")
NEEDED = [True, True, True, False, False]  # dq, dk and dv


class SmallerTileError(Exception):
    """The device runs the kernel with a smaller tile only."""


class Bench:
    """The tensors of a shape on a device, and the calls on them."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        """Draw the tensors, always the same ones."""
        self.shape = shape
        generator = torch.Generator().manual_seed(0)

        def draw(heads: int, length: int) -> Tensor:
            size = (shape.batch, heads, length, shape.head_dim)
            numbers = torch.randn(size, generator=generator)
            return numbers.to(shape.torch_dtype).to(device)

        self.q = draw(shape.heads_q, shape.len_q)
        self.k, self.v = (draw(shape.heads_kv, shape.len_kv) for _ in range(2))
        self.grad_out = draw(shape.heads_q, shape.len_q)
        self._saved: tuple[Tensor, ...] = ()
        self._right: dict[str, tuple[Tensor, ...]] = {}

    def step(self, which: str) -> Callable[[], tuple[Tensor, ...]]:
        """Return the call of one of PASSES, or ``pytorch``: its own forward."""
        steps = {
            "forward": self._forward,
            "backward": self._backward,
            "decode": self._decode,
            "pytorch": self._pytorch,
        }
        return steps[which]

    def _forward(self) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return _native.ops.forward(
                self.q, self.k, self.v, None, 0.0, self.shape.is_causal
            )

    def _backward(self) -> tuple[Tensor, ...]:
        if not self._saved:
            self._saved = self._forward()
        out, lse, stats = self._saved
        with torch.no_grad():
            found = _native.ops.backward(
                *(self.grad_out, None, out, lse, stats, NEEDED),
                *(self.q, self.k, self.v, None, 0.0, self.shape.is_causal),
            )
        return found[:3]

    def _pytorch(self) -> tuple[Tensor, ...]:
        """Run PyTorch's own forward."""
        group = self.shape.heads_q != self.shape.heads_kv
        options = {"enable_gqa": True} if group else {}
        with torch.no_grad():
            out = sdpa._original(
                self.q, self.k, self.v, is_causal=self.shape.is_causal, **options
            )
        return (out,)

    def has_pytorch(self) -> bool:
        """Say whether PyTorch's own function takes the shape."""
        return HAS_GQA or self.shape.heads_q == self.shape.heads_kv

    def _decode(self) -> tuple[Tensor, ...]:
        with torch.no_grad():
            # Its layout has the length before the heads.
            q, k, v = (t.transpose(1, 2) for t in (self.q, self.k, self.v))
            out = flash_attention_with_kvcache(q, k, v, cache_seqlens=self.shape.len_kv)
        return (out.transpose(1, 2),)

    def run(self, which: str) -> tuple[Tensor, ...]:
        """Run a step once, with errors of the package.

        Raises:
            SmallerTileError: not with the tile that was asked for.
            KernelCompileError: a kernel could not be made.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                results = self.step(which)()
            except RuntimeError as error:
                raise translate(error, "tune") from None
        for warning in caught:
            if "smaller and slower tile" in str(warning.message):
                raise SmallerTileError(str(warning.message))
        # lse and the statistics are of the same sums.
        return results[:1] if which == "forward" else results

    def remember(self, which: str) -> None:
        """Take the results of a step, now, as the right ones."""
        self._right[which] = self.run(which)

    def is_right(self, which: str) -> bool:
        """Run a step, and say whether its results are those that were right."""
        pairs = zip(self.run(which), self._right[which])
        return all(self._is_close(got, want) for got, want in pairs)

    def _is_close(self, got: Tensor, want: Tensor) -> bool:
        dtype = self.q.dtype
        want32 = want.float()
        error = got.float() - want32
        norm = float(error.norm()) / max(float(want32.norm()), 1e-30)
        largest = float(error.abs().max()) / max(float(want32.abs().max()), 1e-30)
        is_finite = math.isfinite(norm) and math.isfinite(largest)
        return is_finite and norm <= NORM[dtype] and largest <= LARGEST[dtype]
