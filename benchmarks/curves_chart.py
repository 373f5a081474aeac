"""The chart of `curves.json`: share of the limit, memory above the model, decoding speed.

usage: python benchmarks/curves_chart.py [JSON]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from machines import all_rows

COLOURS = {"bfloat16": "#0072b2", "float32": "#d55e00"}
MARKERS = {1: "o", 4: "s", 16: "^"}
INK, RULE = "#5b6673", "#d5dae1"
GOAL = 60


def draw(path: Path) -> None:
    """Writes the SVG beside the JSON; the same data gives the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = all_rows(path)
    with mpl.rc_context():
        mpl.rcdefaults()
        settings = {"svg.hashsalt": "toolkit-curves", "svg.fonttype": "none", "font.family": "DejaVu Sans"}
        mpl.rcParams.update({**settings, "font.size": 9.0, "axes.edgecolor": RULE})
        figure = Figure(figsize=(11.0, 3.6), layout="constrained")
        share, memory, decoding = figure.subplots(1, 3)
        prefill = [row for row in rows if row["curve"] == "prefill"]
        _lines(share, prefill, "length", lambda row: 100 * row["share_of_limit"])
        share.axhline(GOAL, color=INK, linewidth=0.8, linestyle=":")
        share.set_ylim(0, 100)
        _named(share, "Prefill: % of the best matrix product", "tokens a prompt")
        _lines(memory, prefill, "length", lambda row: row["peak_bytes"] / 1e6)
        memory.set_ylim(0)
        _named(memory, "Prefill: peak MB above the model", "tokens a prompt")
        _lines(
            decoding, [row for row in rows if row["curve"] == "decode"], "batch", lambda row: row["tokens_per_second"]
        )
        decoding.set_ylim(0)
        _named(decoding, "Decoding: tokens a second", "rows at once, 256-token prompts")
        for axes in (share, decoding):
            axes.legend(frameon=False, fontsize=8)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})


def _lines(axes: Any, rows: list[dict[str, Any]], across: str, value: Any) -> None:
    """One line a dtype and, along lengths, a number of prompts."""
    by_rows = across == "length"
    for dtype, batch in sorted({(row["dtype"], row["batch"] if by_rows else 0) for row in rows}):
        kept = [row for row in rows if row["dtype"] == dtype and (not by_rows or row["batch"] == batch)]
        kept.sort(key=lambda row: row[across])
        name = f"{dtype}, {batch} prompt{'s' * (batch > 1)}" if by_rows else dtype
        places, heights = [row[across] for row in kept], [value(row) for row in kept]
        marker = MARKERS.get(batch, "o")
        axes.plot(places, heights, color=COLOURS[dtype], marker=marker, markersize=4, linewidth=1.2, label=name)


def _named(axes: Any, title: str, across: str) -> None:
    axes.set_title(title, loc="left", fontsize=9.5)
    axes.set_xlabel(across, color=INK)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    axes.grid(color="#edf0f3", linewidth=0.8)
    axes.tick_params(colors=INK, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results" / "curves.json")
