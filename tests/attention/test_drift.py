"""A training run stays as near to float64 as PyTorch's, and a wrong one does not."""

from __future__ import annotations

import drift
import pytest
from needs import skip_without_metalsim
from torch import Tensor

import orchard_ops

skip_without_metalsim("device")


def test_ours_drifts_no_further() -> None:
    """A few steps in three dtypes."""
    assert drift.main(["--steps", "3"]) == 0


def test_a_wrong_attention_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Outputs that are wrong by a part in a hundred are too far, in every dtype."""

    def wrong(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return 1.01 * orchard_ops.flash_attention(q, k, v, is_causal=True)

    monkeypatch.setattr(drift, "ours", wrong)
    assert drift.main(["--steps", "3"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert all(f"{name}, ours: loss" in last for name in ("float32", "float16"))
