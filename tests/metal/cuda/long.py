"""Problems of real models' sizes against the definition in float64, on the GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import exact
import philox
import torch
from cases import FLOOR, MATH_FACTOR
from torch import Tensor

import orchard_ops

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
# The suite's floor for single elements; in norm, where float32 sums of any length are
# to be within twice plain operators, no more than four roundings.
NORM_FLOOR = {F32: 2.0**-22, F16: FLOOR[F16], BF16: FLOOR[BF16]}


@dataclass(frozen=True)
class Size:
    """One row of the table."""

    name: str
    dtype: torch.dtype
    heads: tuple[int, int]  # of q; of k and v
    length: int
    head_dim: int
    is_causal: bool = False
    feature: str = ""
    batch: int = 1

    def text(self) -> str:
        """Return the row's first column."""
        parts = [str(self.dtype)[6:], f"B{self.batch}", f"H{self.heads[0]}"]
        if self.heads[0] != self.heads[1]:
            parts[-1] += f"/{self.heads[1]}"
        parts += [f"N{self.length}", f"D{self.head_dim}"]
        parts += ["causal"] * self.is_causal + [self.feature] * bool(self.feature)
        return f"{self.name}: {' '.join(parts)}"


SIZES = [
    *(Size("GPT-2", dtype, (12, 12), 1024, 64, True) for dtype in (F32, F16, BF16)),
    *(Size("BERT", dtype, (12, 12), 1000, 64, batch=2) for dtype in (F32, F16, BF16)),
    *(Size("Llama 3", dtype, (32, 8), 2048, 128, True) for dtype in (F32, F16, BF16)),
    *(Size("Llama 3", dtype, (32, 8), 4096, 128, True) for dtype in (F16, BF16)),
    Size("Gemma", BF16, (8, 4), 4096, 256, True),
    *(Size("VAE", dtype, (1, 1), 4096, 512) for dtype in (F32, F16, BF16)),
    Size("latent", BF16, (8, 1), 2048, 576, True),
    Size("Phi", F16, (32, 32), 2048, 80, True),
    Size("Mistral", BF16, (32, 8), 4096, 128, True, "window"),
    Size("padding", F16, (12, 12), 2048, 64, False, "mask"),
    Size("T5", BF16, (12, 12), 2048, 64, False, "bias"),
    Size("T5", F32, (12, 12), 1024, 64, False, "bias"),
    Size("dropout", F16, (4, 4), 2048, 64, True, "dropout"),
    *(Size("16k", dtype, (8, 2), 16384, 64, True) for dtype in (F32, F16, BF16)),
    Size("16k", F16, (8, 8), 16384, 64),
    Size("16k", BF16, (32, 8), 16384, 128, True),
    Size("16k", BF16, (8, 2), 16384, 128, True, "window"),
    *(Size("64k", dtype, (4, 2), 65536, 64, True) for dtype in (F16, BF16)),
    Size("64k", F16, (2, 2), 65536, 64),
    Size("64k", F32, (2, 1), 65536, 64, True),
    Size("64k", F32, (1, 1), 65536, 64),
    Size("64k", BF16, (4, 1), 65536, 128, True),
    Size("128k", F32, (2, 1), 131072, 64, True),
]


def make_problem(size: Size) -> exact.Problem:
    """Draw a problem on the GPU."""
    generator = torch.Generator("cuda").manual_seed(1)

    def draw(heads: int) -> Tensor:
        shape = (size.batch, heads, size.length, size.head_dim)
        values = torch.randn(shape, generator=generator, device="cuda")
        return values.to(size.dtype)

    heads_q, heads_kv = size.heads
    problem = exact.Problem(
        *(draw(heads_q), draw(heads_kv), draw(heads_kv), draw(heads_q)), size.is_causal
    )
    length = size.length
    if size.feature == "window":
        problem.window = (length // 4, 0)
    elif size.feature == "mask":  # padding: a batch entry's last keys are none
        columns = torch.arange(length, device="cuda")
        problem.mask = (columns < length - 300)[None, None, None]
    elif size.feature == "bias":
        shape = (1, heads_q, length, length)
        bias = torch.randn(shape, generator=generator, device="cuda")
        problem.mask = bias.to(size.dtype)
    elif size.feature == "dropout":
        seed = philox.draw_seed(7)
        keep = philox.keep_mask(seed, 0.2, (size.batch, heads_q, length, length))
        problem.keep, problem.keep_scale = keep.cuda(), philox.keep_scale(0.2)
    return problem


def attend(problem: exact.Problem) -> exact.Results:
    """Run the public function forward and backward."""
    p = problem
    leaves = [t.detach().requires_grad_() for t in (p.q, p.k, p.v)]
    mask = p.mask
    if mask is not None and mask.is_floating_point():
        mask = mask.detach().requires_grad_()
    torch.manual_seed(7)
    out = orchard_ops.flash_attention(
        *(*leaves, mask, 0.2 if p.keep is not None else 0.0, p.is_causal),
        window=p.window,
    )
    if mask is not None and mask.requires_grad:
        leaves.append(mask)
    found = torch.autograd.grad(out, leaves, p.grad_out)
    return exact.Results(out.detach(), *found)


def distances(got: Tensor, want: Tensor) -> tuple[float, float]:
    """Return the error's norm and its largest element, relative to those of want."""
    error = got.double() - want
    if not bool(torch.isfinite(error).all()):
        return float("inf"), float("inf")
    largest = error.abs().max() / want.abs().max()
    return float(error.norm() / want.norm()), float(largest)


def allowed(size: Size, natural: tuple[float, float]) -> tuple[float, float]:
    """Return the largest errors, as ``distances`` has them, of a result."""
    norm, largest = (
        max(MATH_FACTOR * error, floor[size.dtype])
        for error, floor in zip(natural, (NORM_FLOOR, FLOOR))
    )
    return norm, largest


def judge(
    size: Size, got: dict[str, Tensor], want: exact.Results, plain: exact.Results
) -> tuple[dict[str, Any], bool]:
    """Return each result's error and that of plain operators, and the verdict.

    Args:
        size: for its dtype.
        got: the results by name, all or some.
        want: the exact ones.
        plain: those of plain operators.
    """
    exactly, naturally = dict(want.items()), dict(plain.items())
    errors, is_good = {}, True
    for name, tensor in got.items():
        ours = distances(tensor, exactly[name])
        natural = distances(naturally[name], exactly[name])
        limits = allowed(size, natural)
        is_good &= all(error <= limit for error, limit in zip(ours, limits))
        errors[name] = {"ours": ours, "plain": natural, "allowed": limits}
    return errors, is_good


def check(size: Size) -> list[dict[str, Any]]:
    """Run one size twice, as it comes and without scratch: a row for each."""
    problem = make_problem(size)
    want = exact.solve(problem, torch.float64)
    plain = exact.solve(problem, size.dtype)
    rows = []
    for name, scratch in (("", None), (", recomputing", 0)):
        with orchard_ops.backward_scratch(scratch):
            got, again = attend(problem), dict(attend(problem).items())
        errors, is_good = judge(size, dict(got.items()), want, plain)
        is_good &= all(torch.equal(t, again[key]) for key, t in got.items())
        rows.append({"size": size.text() + name, "errors": errors, "is_good": is_good})
    return rows
