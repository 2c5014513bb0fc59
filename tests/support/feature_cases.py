"""Each feature alone, then together, as problems that every attention test runs.

Kernels are compiled per dtype, head size and set of features, so the rows vary
lengths, heads, values and strides freely, and those three sparingly.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cases import BF16, F16, F32, Case, Mask, with_lse_gradients

# Rows and columns that fill neither fragments of 8 nor tiles of 16 to 64.
_BASE = Case("", F32, batch=2, heads_q=2, heads_kv=2, len_q=21, len_kv=45)
_SQUARE = replace(_BASE, len_q=39, len_kv=39)
_DTYPES = {"f32": F32, "f16": F16, "bf16": BF16}


def _named(prefix: str, base: Case, rows: dict[str, dict[str, Any]]) -> list[Case]:
    return [
        replace(base, name=f"{prefix}-{name}", **changes)
        for name, changes in rows.items()
    ]


def _in_each_dtype(prefix: str, base: Case, **changes: Any) -> list[Case]:
    rows = {name: dict(changes, dtype=dtype) for name, dtype in _DTYPES.items()}
    return _named(prefix, base, rows)


BOOL_MASKS = [
    *_in_each_dtype("bool-mask", _BASE, mask=Mask()),
    *_named("bool-mask", _BASE, {
        "rank-2": dict(mask=Mask(dims="qk", rank=2)),
        "rank-3": dict(mask=Mask(dims="hqk", rank=3)),
        "key-padding": dict(mask=Mask(dims="bk", hidden="columns")),
        "keys-rank-1": dict(mask=Mask(dims="k", rank=1)),
        "queries": dict(mask=Mask(dims="bhq", hidden="rows")),
        "one-false": dict(mask=Mask(dims="", hidden="all")),
        "one-true": dict(mask=Mask(dims="", hidden="none", rank=0)),
        "rows": dict(mask=Mask(hidden="rows")),
        "columns": dict(mask=Mask(hidden="columns")),
        "all": dict(mask=Mask(hidden="all")),
        "none": dict(mask=Mask(hidden="none")),
        "tiles": dict(mask=Mask(hidden="tiles"), len_q=130, len_kv=97, batch=1),
        "tiles-shared": dict(mask=Mask(dims="qk", hidden="tiles"), len_q=97,
                             len_kv=130),
        "transposed": dict(mask=Mask(layout="transposed")),
        "sliced": dict(mask=Mask(layout="sliced")),
        "expanded": dict(mask=Mask(layout="expanded")),
        "gqa": dict(mask=Mask(), heads_q=4, heads_kv=2),
        "causal": dict(mask=Mask(), causal="top-left"),
        "causal-rows": dict(mask=Mask(hidden="rows"), causal="bottom-right", len_q=50),
        "3d": dict(mask=Mask(dims="bqk", rank=3), ndim=3),
        "one-query": dict(mask=Mask(), len_q=1, len_kv=83),
        "one-key": dict(mask=Mask(), len_q=19, len_kv=1),
        "d33": dict(mask=Mask(), head_dim=33),
        "d128": dict(mask=Mask(hidden="columns"), head_dim=128),
        "d256": dict(mask=Mask(hidden="rows"), head_dim=256, batch=1),
    }),
]  # fmt: skip

_FLOAT = Mask("float")
FLOAT_MASKS = [
    *_in_each_dtype("float-mask", _BASE, mask=_FLOAT),
    *_named("float-mask", _BASE, {
        # The gradient is a sum over the dimensions left out.
        **{
            f"of-{dims or 'one'}": dict(mask=Mask("float", dims, hidden="none"))
            for dims in ("bqk", "hqk", "qk", "bhk", "hk", "k", "bhq", "q", "bh", "")
        },
        "rank-2": dict(mask=Mask("float", "qk", 2)),
        "rank-1": dict(mask=Mask("float", "k", 1, "columns")),
        "rows": dict(mask=Mask("float", hidden="rows")),
        "columns": dict(mask=Mask("float", hidden="columns")),
        "tiles": dict(mask=Mask("float", hidden="tiles"), len_q=97, len_kv=70),
        "all": dict(mask=Mask("float", hidden="all")),
        "lowest": dict(mask=Mask("float", hidden="lowest")),
        "lowest-shared": dict(mask=Mask("float", "qk", hidden="lowest")),
        "lowest-f16": dict(mask=Mask("float", hidden="lowest"), dtype=F16),
        "lowest-bf16": dict(mask=Mask("float", hidden="lowest"), dtype=BF16),
        "lowest-causal": dict(mask=Mask("float", hidden="lowest"), causal="top-left"),
        "float32-f16": dict(mask=Mask("float32"), dtype=F16),
        "float32-bf16": dict(mask=Mask("float32", "hqk"), dtype=BF16),
        "bfloat16-f16": dict(mask=Mask("bfloat16"), dtype=F16),
        "float16-f32": dict(mask=Mask("float16", "hqk"), causal="top-left"),
        "lowest-bfloat16-f32": dict(mask=Mask("bfloat16", hidden="lowest")),
        "transposed": dict(mask=Mask("float", layout="transposed")),
        "sliced": dict(mask=Mask("float", layout="sliced")),
        "expanded": dict(mask=Mask("float", layout="expanded")),
        "sliced-f16": dict(mask=Mask("float", "hqk", layout="sliced"), dtype=F16),
        "gqa": dict(mask=_FLOAT, heads_q=6, heads_kv=2),
        "gqa-shared": dict(mask=Mask("float", "bqk"), heads_q=4, heads_kv=1),
        "causal": dict(mask=_FLOAT, causal="top-left", len_q=45),
        "causal-shared": dict(mask=Mask("float", "hqk"), causal="bottom-right"),
        "3d": dict(mask=Mask("float", "bqk", 3), ndim=3),
        "3d-rank-2": dict(mask=Mask("float", "qk", 2), ndim=3),
        "one-query": dict(mask=_FLOAT, len_q=1, len_kv=83),
        "one-key": dict(mask=_FLOAT, len_q=19, len_kv=1),
        "d33": dict(mask=_FLOAT, head_dim=33),
        "d128-f16": dict(mask=_FLOAT, head_dim=128, dtype=F16),
        "d256": dict(mask=_FLOAT, head_dim=256, batch=1),
        "dv40": dict(mask=Mask("float", "hqk"), head_dim_v=40),
    }),
]  # fmt: skip

WINDOWS = [
    *_in_each_dtype("window", _SQUARE, window=(5, 3)),
    *_named("window", _SQUARE, {
        "diagonal": dict(window=(0, 0)),
        "left-open": dict(window=(-1, 4)),
        "right-open": dict(window=(7, -1)),
        "open": dict(window=(-1, -1)),
        "wide": dict(window=(2000, 2**40)),
        "causal": dict(window=(6, 9), causal="top-left"),
        "long": dict(window=(20, 11), len_q=150, len_kv=150, batch=1, heads_q=1,
                     heads_kv=1),
        "more-keys": dict(window=(3, 9), len_q=17, len_kv=90),
        "more-queries": dict(window=(3, 9), len_q=90, len_kv=17),
        "bottom-right": dict(window=(9, 2), len_q=17, len_kv=90,
                             alignment="bottom-right"),
        "bottom-right-dead": dict(window=(4, 2), len_q=90, len_kv=17,
                                  alignment="bottom-right"),
        "bottom-right-causal": dict(window=(12, 0), len_q=40, len_kv=70,
                                    causal="bottom-right"),
        "gqa": dict(window=(8, 8), heads_q=6, heads_kv=2),
        "one-query": dict(window=(5, 0), len_q=1, len_kv=70,
                          alignment="bottom-right"),
    }),
]  # fmt: skip

SOFTCAPS = [
    *_in_each_dtype("softcap", _BASE, softcap=2.0),
    *_named(
        "softcap",
        _BASE,
        {
            "loose": dict(softcap=50.0),
            # The cap's derivative is 0 there, and exp2 must not overflow.
            "saturated": dict(softcap=0.5, scale=30.0),
            "causal-gqa": dict(softcap=3.0, causal="top-left", heads_q=4),
            "d128-f16": dict(softcap=2.0, head_dim=128, dtype=F16),
        },
    ),
]

ALIBIS = [
    *_in_each_dtype("alibi", _BASE, alibi="heads"),
    *_named(
        "alibi",
        _BASE,
        {
            "batch-heads": dict(alibi="batch-heads"),
            "bottom-right": dict(alibi="heads", alignment="bottom-right"),
            "causal": dict(alibi="heads", causal="bottom-right", len_q=60),
            "gqa": dict(alibi="batch-heads", heads_q=6),
            "3d": dict(alibi="heads", ndim=3, heads_q=1, heads_kv=1),
            "long": dict(alibi="heads", len_q=130, len_kv=130, batch=1),
        },
    ),
]

SINKS = [
    *_in_each_dtype("sinks", _BASE, sinks="normal"),
    *_named(
        "sinks",
        _BASE,
        {
            "large": dict(sinks="large"),
            "gqa": dict(sinks="normal", heads_q=6, causal="top-left"),
            # Some rows see no key but the sink.
            "dead-rows": dict(sinks="normal", causal="bottom-right", len_q=60),
            "minus-infinity": dict(sinks="-inf"),
            "minus-infinity-dead": dict(sinks="-inf", causal="bottom-right", len_q=60),
            "d256": dict(sinks="normal", head_dim=256, batch=1),
        },
    ),
]

DROPOUTS = [
    *_in_each_dtype("dropout", _BASE, dropout=0.3),
    *_named(
        "dropout",
        _BASE,
        {
            "small": dict(dropout=0.01),
            "most": dict(dropout=0.9),
            "nearly-all": dict(dropout=0.9999),
            "all-but-one-draw": dict(dropout=1.0 - 1e-9),
            "below-one-draw": dict(dropout=1e-7),
            "long": dict(dropout=0.5, len_q=97, len_kv=133, batch=1),
            "causal-gqa": dict(dropout=0.2, causal="top-left", heads_q=4),
            "3d": dict(dropout=0.2, ndim=3, heads_q=1, heads_kv=1),
            "d33": dict(dropout=0.2, head_dim=33),
            "d128-f16": dict(dropout=0.2, head_dim=128, dtype=F16),
            "d256": dict(dropout=0.2, head_dim=256, batch=1),
        },
    ),
]

_PACKED = Case("", F32, heads_q=2, heads_kv=2, sequences=((9, 9), (37, 37), (1, 1)))
_RAGGED = ((5, 40), (33, 7), (1, 65), (16, 16))
VARLENS = [
    *_in_each_dtype("varlen", _PACKED),
    *_named("varlen", _PACKED, {
        "ragged": dict(sequences=_RAGGED),
        "empty-sequences": dict(sequences=((0, 5), (6, 0), (0, 0), (11, 3))),
        "rest": dict(rest=6),
        "causal": dict(sequences=_RAGGED, causal="top-left"),
        "bottom-right": dict(sequences=_RAGGED, causal="bottom-right"),
        "gqa-f16": dict(sequences=_RAGGED, heads_q=6, dtype=F16, causal="bottom-right"),
        "decode": dict(sequences=((1, 70), (1, 3), (1, 33)), heads_q=4,
                       causal="bottom-right"),
        "window": dict(sequences=_RAGGED, window=(4, 1), alignment="bottom-right"),
        "alibi": dict(sequences=_RAGGED, alibi="batch-heads", alignment="bottom-right"),
        "dropout": dict(sequences=_RAGGED, dropout=0.3),
        "softcap-sinks": dict(sequences=_RAGGED, softcap=2.0, sinks="normal"),
        "transposed": dict(sequences=_RAGGED, layout="transposed"),
        "sliced": dict(layout="sliced", rest=3),
        "d33-dv40": dict(head_dim=33, head_dim_v=40),
    }),
]  # fmt: skip

LAYOUTS = _named("layout", _BASE, {
    "transposed": dict(layout="transposed"),
    "sliced": dict(layout="sliced"),
    "transposed-f16": dict(layout="transposed", dtype=F16, heads_q=4,
                           causal="bottom-right"),
    "transposed-mask": dict(layout="transposed", mask=Mask("float", "hqk")),
})  # fmt: skip

LEADING = _named("leading", _BASE, {
    "two": dict(ndim=2, batch=1, heads_q=1, heads_kv=1),
    "two-all": dict(ndim=2, batch=1, heads_q=1, heads_kv=1, causal="bottom-right",
                    mask=Mask("float", "qk", 2), dropout=0.2, sinks="normal"),
    "five": dict(ndim=5, batch=4, heads_q=4),
    "five-mask": dict(ndim=5, batch=4, mask=Mask("float", "bhqk", 5)),
    "five-shared-mask": dict(ndim=5, batch=4, mask=Mask("float", "hqk", 3), dtype=F16),
    "five-transposed": dict(ndim=5, batch=4, layout="transposed", alibi="heads",
                            dropout=0.2, window=(9, 3)),
})  # fmt: skip

TOGETHER = _named("together", _BASE, {
    "all": dict(mask=Mask("float", "bqk"), window=(30, 11), softcap=3.0,
                alibi="heads", sinks="normal", dropout=0.2, heads_q=4,
                alignment="bottom-right"),
    "all-bool-f16": dict(mask=Mask(), causal="bottom-right", softcap=3.0,
                         alibi="batch-heads", sinks="normal", dropout=0.2, dtype=F16,
                         heads_q=6, len_q=50),
    "all-varlen": dict(batch=1, sequences=_RAGGED, window=(30, 2), softcap=3.0,
                       alibi="heads", sinks="normal", dropout=0.2, heads_q=4, rest=2),
    "bias-dropout": dict(mask=Mask("float", "hqk"), dropout=0.25, causal="top-left"),
    "bias-dropout-bf16": dict(mask=Mask("float", "qk"), dropout=0.25, dtype=BF16,
                              heads_q=4),
    "bias-softcap": dict(mask=Mask("float", hidden="columns"), softcap=1.5),
    "bias-sinks": dict(mask=Mask("float", "bhk", hidden="columns"), sinks="normal"),
    "bias-window": dict(mask=Mask("float", "hqk", hidden="none"), window=(6, 6),
                        len_q=45),
    "bool-dropout": dict(mask=Mask(dims="bk", hidden="columns"), dropout=0.1),
    "alibi-window-f16": dict(alibi="heads", window=(9, 0), dtype=F16,
                             alignment="bottom-right", heads_q=4),
    "softcap-window-bf16": dict(softcap=5.0, window=(16, 0), causal="top-left",
                                dtype=BF16, len_q=45, heads_q=4),
    "dv-dropout-bias": dict(head_dim_v=40, dropout=0.2, mask=Mask("float", "bqk")),
})  # fmt: skip

# Heads above 256: Stable Diffusion's VAE has one of 512, latent attention q and k of
# 576 whose first 512 are v.  Lengths are short: the products are long.
_WIDE = Case("", F32, head_dim=512, len_q=19, len_kv=27)
_LATENT = replace(_WIDE, head_dim=576, head_dim_v=512, heads_q=2)
WIDE_HEADS = [
    *_in_each_dtype("wide-d512", _WIDE),
    *_in_each_dtype("wide-latent", _LATENT, causal="bottom-right"),
    *_named("wide", _WIDE, {
        "d320-f32": dict(head_dim=320, causal="top-left"),
        "d333-dv401-f16": dict(head_dim=333, head_dim_v=401, dtype=F16),
        "dv576-f32": dict(head_dim=64, head_dim_v=576),
        "all-f32": dict(mask=Mask("float", "bqk"), window=(15, 11), softcap=3.0,
                        alibi="heads", sinks="normal", dropout=0.2, heads_q=2,
                        alignment="bottom-right"),
        "varlen-bf16": dict(dtype=BF16, sequences=((5, 20), (17, 7), (1, 9)), rest=2,
                            window=(9, 2), dropout=0.2, heads_q=2),
    }),
    *_named("wide", _LATENT, {
        "all-bool-f16": dict(mask=Mask(), causal="bottom-right", softcap=3.0,
                             alibi="batch-heads", sinks="normal", dropout=0.2,
                             dtype=F16),
        "bias-bf16": dict(mask=Mask("float", "hqk"), dtype=BF16),
    }),
]  # fmt: skip

FEATURE_CASES = with_lse_gradients([
    *BOOL_MASKS,
    *FLOAT_MASKS,
    *WINDOWS,
    *SOFTCAPS,
    *ALIBIS,
    *SINKS,
    *DROPOUTS,
    *VARLENS,
    *LAYOUTS,
    *LEADING,
    *TOGETHER,
    *WIDE_HEADS,
])  # fmt: skip
