"""Kernels of other projects, with what NumPy says that they compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from orchard_ops import sim

ROWS, WIDE = 3, 100


@dataclass(frozen=True)
class Case:
    """One dispatch of one kernel: ``arguments`` by slot, of which one is the result."""

    file: str
    """How the path of its file ends."""
    kernel: str
    arguments: Callable[[], dict[int, Any]]
    result: int
    expected: Callable[[dict[int, Any]], np.ndarray]
    sizes: dict[str, Any]
    constants: dict[int | str, Any] = field(default_factory=dict)
    tolerance: float = 2e-6
    """Of the largest magnitude that is expected."""

    def error(self, file: Path, include: list[Path], strict: bool) -> float:
        """Run it; return the largest difference, of the largest magnitude."""
        kernel = sim.library(file, include=include).kernel(self.kernel, self.constants)
        arguments = self.arguments()
        right = np.asarray(self.expected(arguments), np.float64)
        kernel.dispatch(arguments, strict=strict, timeout=300, **self.sizes)
        found = np.asarray(arguments[self.result], np.float64)
        size = right.size
        difference = np.abs(found.reshape(-1)[:size] - right.reshape(-1))
        return float(difference.max() / max(1e-30, np.abs(right).max()))


def draw(seed: int, *shape: int, dtype: Any = np.float32) -> np.ndarray:
    """Normal numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def count(n: int) -> np.ndarray:
    """A size as kernels take it."""
    return np.array([n], np.uint32)


def unary(
    name: str,
    function: Callable[[Any], Any],
    positive: bool = False,
    tolerance: float = 2e-6,
) -> Case:
    """One of MLX's kernels of one array."""

    def arguments() -> dict[int, Any]:
        x = draw(1, 257)
        return {
            0: np.abs(x) + 0.1 if positive else x,
            1: np.zeros_like(x),
            2: count(257),
        }

    return Case(
        "kernels/unary.metal",
        f"v_{name}float32float32",
        arguments,
        1,
        lambda a: function(a[0].astype(np.float64)),
        {"threads": 257, "group": 64},
        tolerance=tolerance,
    )


def binary(name: str, function: Callable[[Any, Any], Any]) -> Case:
    """One of MLX's kernels of two arrays."""
    return Case(
        "kernels/binary.metal",
        f"vv_{name}float32",
        lambda: {
            0: np.abs(draw(1, 257)) + 0.1,
            1: draw(2, 257),
            2: np.zeros(257, np.float32),
            3: count(257),
        },
        2,
        lambda a: function(a[0].astype(np.float64), a[1].astype(np.float64)),
        {"threads": 257, "group": 64},
    )


def rows(file: str, kernel: str, function: Callable[[Any], Any], *more: Any) -> Case:
    """A kernel of rows: input, output, then what else it takes, the size first."""

    def arguments() -> dict[int, Any]:
        given: dict[int, Any] = {0: 3 * draw(1, ROWS, WIDE)}
        given[1] = np.zeros((ROWS, WIDE), np.float32)
        given.update(enumerate((np.array([WIDE], np.int32), *more), start=2))
        return given

    return Case(
        file,
        kernel,
        arguments,
        1,
        lambda a: function(a[0].astype(np.float64)),
        {"grid": ROWS, "group": 32},
    )


def softmax(x: np.ndarray) -> np.ndarray:
    """By rows."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def norm(is_centered: bool) -> Case:
    """RMS norm and layer norm."""
    # Past a shorter row layer norm writes in front of an array of its own.
    wide = 256 if is_centered else WIDE
    weights = {1: draw(5, wide)} | ({2: draw(6, wide)} if is_centered else {})
    at = len(weights) + 1  # of the output

    def arguments() -> dict[int, Any]:
        given: dict[int, Any] = {0: draw(4, ROWS, wide) + 1, **weights}
        given[at] = np.zeros((ROWS, wide), np.float32)
        given[at + 1] = np.array([1e-5], np.float32)
        given[at + 2] = count(wide)
        for slot in range(len(weights)):
            given[at + 3 + slot] = count(1)
        return given

    def expected(a: dict[int, Any]) -> np.ndarray:
        x = a[0].astype(np.float64)
        if is_centered:
            x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * a[1]
        return np.asarray(x + a[2] if is_centered else x)

    name = "layer_norm" if is_centered else "rms"
    return Case(
        f"kernels/{name if is_centered else 'rms_norm'}.metal",
        f"{name}float32",
        arguments,
        at,
        expected,
        {"grid": ROWS, "group": 32},
        constants={} if is_centered else {20: True},
    )


def gemm(file: str, kernel: str, size: tuple[int, int, int], inner: int) -> Case:
    """MLX's matrix multiply, by tiles of 64 x 64 for four simdgroups."""
    m, n, k = size
    tile = 64
    names = ("M", "N", "K", "lda", "ldb", "ldd", "tiles_n", "tiles_m")
    fields: list[Any] = [(name, np.int32) for name in names]
    fields += [(name, np.int64) for name in ("a", "b", "d")]
    fields += [(name, np.int32) for name in ("swizzle", "iterations", "ndim", "pad")]
    down, across = -(-m // tile), -(-n // tile)
    params = np.array(
        [(m, n, k, k, n, n, across, down, m * k, k * n, m * n, 0, k // inner, 0, 0)],
        fields,
    )

    def arguments() -> dict[int, Any]:
        a, b = draw(7, m, k, dtype=np.float16), draw(8, k, n, dtype=np.float16)
        return {0: a, 1: b, 3: np.zeros((m, n), np.float16), 4: params}

    return Case(
        file,
        kernel,
        arguments,
        3,
        lambda a: a[0].astype(np.float64) @ a[1].astype(np.float64),
        {"grid": (across, down), "group": 128},
        {
            **dict.fromkeys((10, 100, 110), False),
            200: m % tile == 0,
            201: n % tile == 0,
            202: k % inner == 0,
        },
        tolerance=1e-3,
    )


def attention() -> Case:
    """MLX's attention of one query for each head."""
    heads, keys, head_dim = 4, 77, 64

    def arguments() -> dict[int, Any]:
        q, k, v = (
            draw(1, heads, head_dim),
            draw(2, 2, keys, head_dim),
            draw(3, 2, keys, 64),
        )
        given: dict[int, Any] = {0: q, 1: k, 2: v, 3: np.zeros_like(q)}
        given[4] = np.array([2], np.int32)
        given[5] = np.array([keys], np.int32)
        for slot, stride in enumerate((keys * 64, 64, keys * 64, 64), start=6):
            given[slot] = np.array([stride], np.uint64)
        given[10] = np.array([0.125], np.float32)
        return given

    def expected(a: dict[int, Any]) -> np.ndarray:
        q, k, v = (a[i].astype(np.float64) for i in range(3))
        k, v = k.repeat(2, 0), v.repeat(2, 0)
        scores = np.einsum("hd,hkd->hk", q, k) / 8
        return np.asarray(np.einsum("hk,hkd->hd", softmax(scores), v))

    names = ("query_transposed", "has_mask", "bool_mask", "float_mask", "has_sinks")
    return Case(
        "kernels/scaled_dot_product_attention.metal",
        "sdpa_vector_float_64_64",
        arguments,
        3,
        expected,
        {"grid": (heads, 1), "group": 1024},
        constants={**dict.fromkeys(names, False), "do_causal": False},
    )


def silu() -> Case:
    """A gated activation of Hugging Face's."""
    tokens, d = 3, 96
    return Case(
        "activation.metal",
        "silu_and_mul_f32",
        lambda: {
            0: np.zeros((tokens, d), np.float32),
            1: draw(1, tokens, 2 * d),
            2: count(d),
        },
        0,
        lambda a: (
            a[1][:, :d] / (1 + np.exp(-a[1][:, :d].astype(np.float64))) * a[1][:, d:]
        ),
        {"threads": (d // 8, tokens), "group": (4, 1)},
    )


def relu(name: str, dtype: Any) -> Case:
    """The first kernel of Hugging Face's hub."""
    return Case(
        "relu.metal",
        f"relu_forward_kernel_{name}",
        lambda: {0: draw(1, 100, dtype=dtype), 1: np.zeros(100, dtype)},
        1,
        lambda a: np.maximum(a[0], 0),
        {"threads": 100, "group": 32},
        tolerance=0,
    )


def sort() -> Case:
    """A merge sort of rows."""

    def arguments() -> dict[int, Any]:
        given: dict[int, Any] = {0: draw(9, ROWS, WIDE)}
        given[1] = np.zeros((ROWS, WIDE), np.float32)
        for slot, size in enumerate((WIDE, 1, 1, WIDE, WIDE), start=2):
            given[slot] = np.array([size], np.int32)
        return given

    return Case(
        "kernels/sort.metal",
        "c_block_sort_float32_float32_bn32_tn4",
        arguments,
        1,
        lambda a: np.sort(a[0], -1),
        {"grid": (1, ROWS), "group": 32},
        tolerance=0,
    )


def cases() -> list[Case]:
    """All of them."""
    folder = "steel/gemm/kernels/"
    tile = "nn_float16_float16_bm64_bn64"
    return [
        unary("Exp", np.exp),
        unary("Log", np.log, positive=True),
        unary("Log2", np.log2, positive=True),
        unary("Sqrt", np.sqrt, positive=True),
        unary("Rsqrt", lambda x: 1 / np.sqrt(x), positive=True),
        unary("Sin", np.sin),
        unary("Cos", np.cos),
        unary("Tanh", np.tanh),
        unary("Sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        unary("Square", np.square),
        unary("Abs", np.abs),
        unary("Negative", np.negative),
        unary("Floor", np.floor),
        # Its text reduces the range with one constant of 20 bits.
        unary("Expm1", np.expm1, tolerance=1e-5),
        unary("Log1p", np.log1p, positive=True),
        unary("ArcTan", np.arctan),
        binary("Add", np.add),
        binary("Multiply", np.multiply),
        binary("Divide", np.divide),
        binary("Maximum", np.maximum),
        binary("Power", np.power),
        binary("LogAddExp", np.logaddexp),
        Case(
            "kernels/ternary.metal",
            "v_Selectfloat32",
            lambda: {
                0: draw(1, 257) > 0,
                1: draw(2, 257),
                2: draw(3, 257),
                3: np.zeros(257, np.float32),
                4: count(257),
            },
            3,
            lambda a: np.where(a[0], a[1], a[2]),
            {"threads": 257, "group": 64},
            tolerance=0,
        ),
        Case(
            "kernels/arange.metal",
            "arangefloat32",
            lambda: {0: 2.0, 1: 0.5, 2: np.zeros(100, np.float32)},
            2,
            lambda a: a[0] + a[1] * np.arange(100),
            {"threads": 100, "group": 32},
        ),
        rows("kernels/softmax.metal", "block_softmax_float32", softmax),
        rows(
            "kernels/logsumexp.metal",
            "block_logsumexp_float32",
            lambda x: np.log(np.exp(x).sum(-1)),
        ),
        norm(is_centered=False),
        norm(is_centered=True),
        sort(),
        attention(),
        gemm(
            folder + "steel_gemm_fused.metal",
            f"steel_gemm_fused_{tile}_bk16_wm2_wn2",
            (70, 90, 50),
            16,
        ),
        gemm(
            folder + "steel_gemm_fused_nax.metal",
            f"steel_gemm_fused_nax_{tile}_bk256_wm2_wn2",
            (70, 90, 600),
            256,
        ),
        silu(),
        relu("float", np.float32),
        relu("half", np.float16),
    ]
