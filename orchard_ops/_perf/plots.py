"""The benchmark's plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .suites import Row

__all__ = ["draw"]


def draw(results: dict[str, list[Row]], folder: Path) -> list[Path]:
    """Draw what the results hold into a folder; return the files."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib: pip install 'orchard-ops[bench]'"
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, plot in (("work", _utilisation), ("memory", _memory)):
        if not results.get(name):
            continue
        figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
        plot(axes, results[name])
        axes.grid(alpha=0.3)
        path = folder / f"orchard-bench-{name}.png"
        figure.savefig(path, dpi=120)
        pyplot.close(figure)
        drawn.append(path)
    return drawn


def _utilisation(axes: Any, rows: list[Row]) -> None:
    rows = [row for row in rows if row.get("kind") == "predicted"]
    rows = [row for row in rows if row["dtype"] == "float16" and not row["causal"]]
    chips = list(dict.fromkeys(row["chip"] for row in rows))
    series: dict[str, dict[str, float]] = {}
    for row in rows:
        name = f"{row['pass']}, head_dim {row['head_dim']}"
        series.setdefault(name, {})[row["chip"]] = row["predicted_utilisation"]
    width = 0.8 / max(len(series), 1)
    for i, (name, values) in enumerate(series.items()):
        places = [chips.index(chip) + i * width for chip in values]
        axes.bar(places, list(values.values()), width, label=name)
    axes.set_xticks(range(len(chips)), chips)
    axes.set_ylabel("predicted share of the matrix rate")
    axes.set_title("Predicted, not measured: float16, dense, length 8192, 8 heads")
    axes.legend()


def _memory(axes: Any, rows: list[Row]) -> None:
    rows = [row for row in rows if "length" in row]
    lengths = [row["length"] for row in rows]
    axes.loglog(lengths, [row["peak_bytes"] for row in rows], "o-", label="peak, ours")
    axes.loglog(
        lengths,
        [row["scores_would_take"] for row in rows],
        "--",
        label="the scores alone, if they were stored",
    )
    axes.set_xlabel("length")
    axes.set_ylabel("bytes")
    axes.set_title("A training step's memory: one head, head_dim 64, float16")
    axes.legend()
