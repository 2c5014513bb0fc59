"""What a problem is, the plain problems, and the tolerances."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import torch

# How far a result may be from float64: the largest of three bounds.
#
# 1. MATH_FACTOR times the error of plain PyTorch operators in the same dtype
#    (reference.solve_in_dtype): the criterion of FlashAttention's own tests.  In 16
#    bits the larger of two backwards': autograd's, and the one that takes a row's
#    sum(weights * dweights) from its rounded output, as FlashAttention does.  It
#    grows with length, size and scale as rounding does.  Their error is the largest
#    over DRAWS inputs of the problem, the tested one included: the largest error of a
#    few hundred numbers varies threefold from draw to draw, here as there.
#    In 16 bits it is the largest of FEWEST_ERRORS errors or more, where MOST_DRAWS
#    inputs give as many: the gradient of a mask or of sinks may be a single number.
MATH_FACTOR = 2.0
DRAWS = 5
FEWEST_ERRORS = 64
MOST_DRAWS = 40
# 2. FLOOR, relative to the largest element of the result.  float32: 2e-5, because
#    sums are taken in another order than BLAS takes them and exp2 of a scaled score
#    replaces exp.  16-bit: one rounding of the result (2**-11, 2**-8 of its size),
#    which plain operators escape only where a sum happens to be exact.
FLOOR = {torch.float32: 2e-5, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
# 3. CANCELLATION, relative to the terms that a result is a sum of: where these cancel
#    (one key: the weight is 1 whatever the score, so dq and dk are 0) float32 sums
#    leave a few units in the last place (2**-24 each) of the terms.
CANCELLATION = 1e-6
# 4. LSE_ROUNDING, relative to the terms of a gradient and to lse: backward recomputes
#    the weights as exp(score - lse) from an lse stored in float32.  Its rounding, and
#    that of the score (2**-24 of their size each, twice for the change of base), is a
#    relative error of the weights.  Matters where scores reach hundreds.
LSE_ROUNDING = 2.0**-22


@dataclass(frozen=True)
class Mask:
    """An attn_mask: ``draws.py`` makes it, ``harness.py`` lays it out."""

    # or "float" (the dtype of q), "float32", "float16", "bfloat16"
    kind: str = "bool"
    dims: str = "bhqk"  # those of full size: batch, heads, queries, keys; others are 1
    rank: int = 4  # dimensions of the tensor; those left off are its first, of size 1
    # What is masked, False or -inf: "none", "random" entries, "rows", "columns",
    # "tiles" of 32 by 32, "all"; "lowest" puts the dtype's least finite number into
    # some rows and columns instead.
    hidden: str = "random"
    # or "transposed" (keys before queries), "sliced" (out of memory full of poison),
    # "expanded" (stride 0 over heads and queries)
    layout: str = "contiguous"


@dataclass(frozen=True)
class Case:
    """One attention problem; cases of 2 or 3 dimensions have one head.

    Those of 5 have two batch dimensions, whose product is batch.
    """

    name: str
    dtype: torch.dtype = torch.float32
    batch: int = 1
    heads_q: int = 1
    heads_kv: int = 1
    len_q: int = 16
    len_kv: int = 16
    head_dim: int = 64
    head_dim_v: int | None = None
    causal: str = "none"  # or "top-left", "bottom-right"
    ndim: int = 4
    scale: float | None = None
    mask: Mask | None = None
    window: tuple[int, int] | None = None
    alignment: str = "top-left"  # of window and ALiBi where causal is "none"
    softcap: float = 0.0
    alibi: str = ""  # or "heads", "batch-heads": which of them have their own slope
    sinks: str = ""  # or "normal", "large", "-inf"
    dropout: float = 0.0
    # Packed sequences, one (len_q, len_kv) each, and tokens that belong to none.
    sequences: tuple[tuple[int, int], ...] = ()
    rest: int = 0
    layout: str = "contiguous"  # of q, k, v and grad_out; or "transposed", "sliced"
    grad_lse: bool = False  # whether lse has a gradient, as out has

    @property
    def value_dim(self) -> int:
        """The head size of v."""
        return self.head_dim if self.head_dim_v is None else self.head_dim_v

    @property
    def scale_value(self) -> float:
        """The factor on the scores, default filled in."""
        return self.head_dim**-0.5 if self.scale is None else self.scale

    @property
    def is_bottom_right(self) -> bool:
        """Whether the last query, not the first, stands beside the last key."""
        return "bottom-right" in (self.causal, self.alignment)

    @property
    def limits(self) -> tuple[int, int]:
        """The window with causal put in; -1 is open."""
        left, right = self.window or (-1, -1)
        return left, right if self.causal == "none" else 0

    @property
    def manual_seed(self) -> int:
        """What PyTorch is seeded with before the case runs, and its inputs from."""
        return zlib.crc32(self.name.encode())


F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16

# Head sizes: every one in float32, a few in each 16-bit type.  Each new pair of dtype
# and head size compiles its own kernels, so the table adds shapes, not pairs.
_HEAD_SIZES = [
    Case("f32-d1", F32, head_dim=1, len_q=9, len_kv=17),
    Case("f32-d8", F32, head_dim=8, len_q=17, len_kv=9, heads_q=2, heads_kv=2),
    Case("f32-d16", F32, head_dim=16, len_q=40, len_kv=40, causal="top-left"),
    Case("f32-d20", F32, head_dim=20, len_q=23, len_kv=23),
    Case("f32-d33", F32, head_dim=33, len_q=19, len_kv=31, causal="bottom-right"),
    Case("f32-d40", F32, head_dim=40, len_q=33, len_kv=17),
    Case("f32-d64", F32, head_dim=64, len_q=70, len_kv=70),
    Case("f32-d72", F32, head_dim=72, len_q=31, len_kv=40),
    Case("f32-d80", F32, head_dim=80, len_q=24, len_kv=37, causal="top-left"),
    Case("f32-d96", F32, head_dim=96, len_q=41, len_kv=41),
    Case("f32-d100", F32, head_dim=100, len_q=21, len_kv=33),
    Case("f32-d128", F32, head_dim=128, len_q=35, len_kv=35, causal="top-left"),
    Case("f32-d192", F32, head_dim=192, len_q=17, len_kv=33),
    Case("f32-d256", F32, head_dim=256, len_q=33, len_kv=18),
    Case("f16-d33", F16, head_dim=33, len_q=18, len_kv=35),
    Case("f16-d64", F16, head_dim=64, len_q=70, len_kv=70),
    Case("f16-d80", F16, head_dim=80, len_q=33, len_kv=33, causal="top-left"),
    Case("f16-d128", F16, head_dim=128, len_q=36, len_kv=20),
    Case("bf16-d40", BF16, head_dim=40, len_q=18, len_kv=35),
    Case("bf16-d64", BF16, head_dim=64, len_q=70, len_kv=70, causal="top-left"),
    Case("bf16-d96", BF16, head_dim=96, len_q=33, len_kv=33),
    Case("bf16-d256", BF16, head_dim=256, len_q=20, len_kv=36),
]

# Lengths around the 8-row fragments and the tiles of 16 to 64, and degenerate ones.
_D64 = Case("", F32, head_dim=64)
_LENGTHS = [
    replace(_D64, name=f"f32-d64-{len_q}x{len_kv}-{causal}", len_q=len_q, len_kv=len_kv,
            causal=causal)
    for len_q, len_kv, causal in [
        (1, 1, "none"),
        (1, 1, "top-left"),
        (1, 37, "none"),
        (1, 37, "bottom-right"),
        (37, 1, "none"),
        (37, 1, "top-left"),
        (37, 1, "bottom-right"),
        (7, 9, "top-left"),
        (8, 8, "bottom-right"),
        (15, 65, "bottom-right"),
        (65, 15, "bottom-right"),
        (63, 64, "top-left"),
        (64, 63, "bottom-right"),
        (129, 47, "top-left"),
        (47, 129, "none"),
        (130, 130, "top-left"),
    ]
]  # fmt: skip

_HEADS = [
    Case("f32-d64-mha", heads_q=3, heads_kv=3, batch=2, len_q=20, len_kv=27),
    Case("f32-d64-gqa", heads_q=4, heads_kv=2, batch=2, len_q=20, len_kv=27,
         causal="bottom-right"),
    Case("f32-d64-mqa", heads_q=3, heads_kv=1, len_q=27, len_kv=20, causal="top-left"),
    Case("f16-d64-gqa", F16, heads_q=6, heads_kv=2, len_q=35, len_kv=35,
         causal="top-left"),
    Case("bf16-d64-mqa", BF16, heads_q=4, heads_kv=1, len_q=17, len_kv=50,
         causal="bottom-right"),
    Case("f32-d64-3d", ndim=3, batch=3, len_q=12, len_kv=21),
    Case("f16-d64-3d", F16, ndim=3, batch=2, len_q=25, len_kv=11,
         causal="bottom-right"),
    Case("f32-d64-dv40", head_dim_v=40, len_q=26, len_kv=18),
    Case("f16-d64-dv128", F16, head_dim_v=128, heads_q=2, heads_kv=1, len_q=26,
         len_kv=33, causal="top-left"),
    Case("f32-d33-dv1", head_dim=33, head_dim_v=1, len_q=9, len_kv=12),
]  # fmt: skip

_SCALES = [
    replace(_D64, name="f32-d64-scale-zero", scale=0.0, len_q=20, len_kv=20),
    replace(_D64, name="f32-d64-scale-negative", scale=-0.2, len_q=20, len_kv=20,
            causal="top-left"),
    replace(_D64, name="f32-d64-scale-tiny", scale=1e-30, len_q=20, len_kv=20),
    # Weights become one-hot; the scores reach some thousands.
    replace(_D64, name="f32-d64-scale-large", scale=100.0, len_q=20, len_kv=20),
    replace(_D64, name="f16-d64-scale-large", dtype=F16, scale=8.0, len_q=20,
            len_kv=20),
]  # fmt: skip


def with_lse_gradients(cases: list[Case]) -> list[Case]:
    """Let every other case have a gradient of lse too."""
    return [replace(case, grad_lse=i % 2 == 1) for i, case in enumerate(cases)]


CASES = with_lse_gradients([*_HEAD_SIZES, *_LENGTHS, *_HEADS, *_SCALES])

# Nothing to compute, but shapes, zeros and -inf to get right.
EMPTY_CASES = [
    replace(_D64, name="empty-len-q", len_q=0),
    replace(_D64, name="empty-len-kv", len_kv=0),
    # One row, so that the sink's gradient, which lse alone has, is a single number.
    replace(
        _D64,
        name="empty-len-kv-sinks",
        len_q=1,
        len_kv=0,
        heads_q=2,
        heads_kv=2,
        sinks="normal",
        grad_lse=True,
    ),
    replace(_D64, name="empty-len-kv-causal", len_kv=0, causal="bottom-right"),
    replace(_D64, name="empty-both", len_q=0, len_kv=0),
    replace(_D64, name="empty-batch", batch=0),
    replace(_D64, name="empty-heads", heads_q=0, heads_kv=0),
]
