"""The picture of `training.json`: the losses of both sides, step by step, from the same adapter on the same batches.

usage: python benchmarks/training_chart.py [JSON] [SVG]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from curves_chart import INK, RULE
from machines import all_rows

ROOT = Path(__file__).resolve().parent.parent
COLOURS = {"ours": "#0072b2", "peer": "#d55e00"}
NAMES = {"ours": "ours", "peer": "TRL"}
STYLES = {"bfloat16": "-", "float32": (0, (1, 1.5))}
SHOWN = 20
"""Steps: those that are compared."""


def draw(path: Path, picture: Path) -> None:
    """Writes the SVG; the same data gives the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = [row for row in all_rows(path) if "loss_gap" in row]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    if not kinds:
        return
    with mpl.rc_context():
        mpl.rcdefaults()
        settings = {"svg.hashsalt": "toolkit-training", "svg.fonttype": "none", "font.family": "DejaVu Sans"}
        mpl.rcParams.update({**settings, "font.size": 9.0, "axes.edgecolor": RULE})
        figure = Figure(figsize=(3.7 * len(kinds), 3.4), layout="constrained")
        panels = figure.subplots(1, len(kinds), squeeze=False)[0]
        for axes, kind in zip(panels, kinds, strict=True):
            _panel(axes, kind, [row for row in rows if row["kind"] == kind])
        panels[0].set_ylabel("loss, nats a supervised token", color=INK)
        panels[0].legend(frameon=False, fontsize=8)
        picture.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(picture, metadata={"Date": None, "Creator": None})


def _panel(axes: Any, kind: str, rows: list[dict[str, Any]]) -> None:
    """One kind of work: a line a side and dtype."""
    for row in sorted(rows, key=lambda row: row["dtype"]):
        for side in ("ours", "peer"):
            losses = row["losses"][side][:SHOWN]
            steps, name = range(1, len(losses) + 1), f"{NAMES[side]}, {row['dtype']}"
            style = STYLES[row["dtype"]]
            axes.plot(
                steps,
                losses,
                color=COLOURS[side],
                linestyle=style,
                linewidth=1.3 if row["dtype"] == "bfloat16" else 2.2,
                label=name,
            )
    axes.set_title(kind, loc="left", fontsize=9.5)
    axes.set_xlabel("step", color=INK)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color="#edf0f3", linewidth=0.8)
    axes.tick_params(colors=INK, length=3)
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(False)


if __name__ == "__main__":
    given = [Path(one) for one in sys.argv[1:]]
    standard = [ROOT / "benchmarks" / "results" / "training.json", ROOT / "docs" / "training_losses.svg"]
    draw(*given, *standard[len(given) :])
