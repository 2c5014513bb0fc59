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
    lines = {
        "peak_bytes_of_pytorch": ("o--", "PyTorch's composite attention"),
        "peak_bytes_with_scratch": ("s-", "orchard_ops, default"),
        "peak_bytes": ("o-", "orchard_ops, backward_scratch(0)"),
    }
    for column, (style, label) in lines.items():
        held = [row[column] / 2**20 for row in rows]
        axes.loglog([row["length"] for row in rows], held, style, label=label)
        axes.annotate(
            f"{held[-1]:,.0f} MiB", (rows[-1]["length"], held[-1]), va="center",
            xytext=(8, 0), textcoords="offset points",
        )  # fmt: skip
    lengths = [row["length"] for row in rows]
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlim(right=2 * lengths[-1])
    axes.set_xlabel("length of the sequence")
    axes.set_ylabel("MiB held at most in forward and backward")
    axes.set_title(
        "Memory of a training step (float32, 8 heads, head_dim 64)\n"
        "counted on the simulated device, not on a Mac"
    )
    axes.legend()
