"""Each example runs in a short form, and does what it says that it shows."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from paths import ROOT

EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an example find its neighbour, as when it is run by its path."""
    monkeypatch.syspath_prepend(str(EXAMPLES))


def short(device: torch.device, steps: int) -> list[str]:
    """Return the arguments of a short run."""
    return ["--device", device.type, "--steps", str(steps)]


@pytest.mark.parametrize(
    ("name", "steps"), [("train_gpt", 4), ("packed_sequences", 4), ("learned_bias", 12)]
)
def test_an_example_learns(
    name: str, steps: int, device: torch.device, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss falls, and is printed for each step."""
    losses = importlib.import_module(name).main(short(device, steps))
    assert min(losses[-2:]) < losses[0]
    assert capsys.readouterr().out.count("loss") == len(losses) == steps


def test_the_gpt_is_served_by_the_kernels(
    device: torch.device, capsys: pytest.CaptureFixture[str]
) -> None:
    """PyTorch's own layers reach the kernels, and the drop-in is undone at the end."""
    from orchard_ops import sdpa

    sdpa.reset_fallbacks()
    importlib.import_module("train_gpt").main(short(device, 1))
    assert capsys.readouterr().out.endswith("fell back to PyTorch: {}\n")
    assert not sdpa.is_enabled()


def test_lora_learns(device: torch.device) -> None:
    """LoRA alone lowers the loss; needs transformers, as test_transformers does."""
    pytest.importorskip("transformers")
    losses = importlib.import_module("lora").main(short(device, 4))
    assert losses[-1] < losses[0]


def test_paged_decoding_is_attention(device: torch.device) -> None:
    """Over page boundaries, as without a cache."""
    assert importlib.import_module("paged_decoding").main(short(device, 5)) < 1e-5


def test_long_context_stores_no_scores(device: torch.device) -> None:
    """The peak is linear in the length; only metalsim counts exactly."""
    example: ModuleType = importlib.import_module("long_context")
    held = [example.main(short(device, 1), length)[0] for length in (256, 1024)]
    if device.type == "metalsim":
        assert held[1] < 4.1 * held[0]


def test_the_readme_runs(device: torch.device) -> None:
    """Its first block of Python computes gradients on the device of these tests."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["q"].grad.isfinite().all()
    assert names["device"] in ("mps", device.type)


def test_every_example_is_run() -> None:
    """A new file in examples/ needs a test here."""
    text = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert path.stem == "arguments" or f'"{path.stem}"' in text, path.name
