"""Charts as inline SVG: differences with their intervals, and scores. Same data, same bytes; nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolkit.report.drawing import GRID, INK, QUIET, RULE, WIDTH_INCHES, inline, settled
from toolkit.report.figures import Bounds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW_INCHES, FRAME_INCHES = 0.38, 0.66
STYLES = {
    "BETTER": (">", "#0072b2", True),
    "WORSE": ("<", "#d55e00", True),
    "EQUIVALENT": ("s", "#007a5a", True),
    "UNRESOLVED": ("o", "#5b6673", False),
    "SMOKE": ("D", "#8a6d00", False),
    "refused": ("x", "#5b6673", True),
    "candidate": ("o", "#1f2933", True),
    "control": ("o", "#8792a2", False),
}
"""Marker, colour (told apart by colour-blind readers, after Okabe and Ito) and whether it is filled."""

NAME_SHARE, TEXT_SHARE = 0.25, 0.31
WORD_PLACE = 1 + (TEXT_SHARE - 0.005) / (1 - NAME_SHARE - TEXT_SHARE)
"""Of the right edge, in widths of the axes."""
LONGEST_NAME = 36


@dataclass(frozen=True)
class Mark:
    """One line of a chart: a value with its interval, in the chart's unit, what it is, and how it is written out."""

    name: str
    value: float | None
    interval: Bounds
    style: str
    text: str
    word: str = ""


def forest(marks: Sequence[Mark], unit: str, title: str) -> str:
    """Differences around a zero line, one row a contrast; the verdict is in the shape, the colour and the words."""
    return _drawn(marks, unit, title, zero=True, salt="differences")


def scores(marks: Sequence[Mark], unit: str, title: str) -> str:
    """Scores as dots, one row a strategy. Not bars: whether two intervals overlap is no test."""
    return _drawn(marks, unit, title, zero=False, salt="scores")


def _drawn(marks: Sequence[Mark], unit: str, title: str, zero: bool, salt: str) -> str:
    from matplotlib.figure import Figure

    with settled(salt):
        height = FRAME_INCHES + ROW_INCHES * len(marks)
        figure = Figure(figsize=(WIDTH_INCHES, height))
        below = 0.56 / height
        axes = figure.add_axes((NAME_SHARE, below, 1 - NAME_SHARE - TEXT_SHARE, 1 - below - 0.08 / height))
        _frame(axes, marks, unit, zero)
        for place, mark in enumerate(marks):
            _row(axes, place, mark)
        return inline(figure, title, salt)


def _frame(axes: Axes, marks: Sequence[Mark], unit: str, zero: bool) -> None:
    values = [bound for mark in marks for bound in (mark.value, *mark.interval) if bound is not None]
    low, high = min([*values, 0.0] if zero else values or [0.0]), max([*values, 0.0] if zero else values or [1.0])
    room = 0.06 * (high - low) or 1.0
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(len(marks) - 0.4, -0.6)
    axes.set_yticks([])
    axes.set_xlabel(unit, color=QUIET)
    axes.tick_params(axis="x", colors=QUIET, length=3)
    for name in ("top", "left", "right"):
        axes.spines[name].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    if zero:
        axes.axvline(0.0, color=INK, linewidth=1.0, zorder=1)


def _row(axes: Axes, place: int, mark: Mark) -> None:
    marker, colour, filled = STYLES[mark.style]
    across = axes.get_yaxis_transform()
    name = mark.name if len(mark.name) <= LONGEST_NAME else mark.name[: LONGEST_NAME - 1] + "…"
    axes.text(-0.03, place, name, transform=across, ha="right", va="center", color=INK)
    axes.text(1.03, place, mark.text, transform=across, ha="left", va="center", color=INK)
    if mark.word:
        axes.text(
            WORD_PLACE,
            place,
            mark.word,
            transform=across,
            ha="right",
            va="center",
            color=colour,
            weight="bold",
            size=8.5,
        )
    if mark.value is None:
        return
    low, high = mark.interval
    if low is not None and high is not None:
        axes.plot([low, high], [place, place], color=colour, linewidth=2.0, solid_capstyle="butt", zorder=2)
    face = colour if filled else "white"
    (dot,) = axes.plot(mark.value, place, marker=marker, markersize=8, color=colour, markerfacecolor=face, zorder=3)
    dot.set_markeredgewidth(1.6)


def in_characters(marks: Sequence[Mark], zero: bool, width: int = 41) -> str:
    """The same chart for Markdown: `├───●───┤` on a line of characters, `|` at zero."""
    values = [bound for mark in marks for bound in (mark.value, *mark.interval) if bound is not None]
    ends = [*values, 0.0] if zero else values
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)

    def column(value: float) -> int:
        return round((value - low) / ((high - low) or 1.0) * (width - 1))

    longest = max((len(mark.name) for mark in marks), default=0)
    lines = []
    for mark in marks:
        line = [" "] * width
        if zero:
            line[column(0.0)] = "|"
        bottom, top = mark.interval
        if bottom is not None and top is not None:
            start, end = column(bottom), column(top)
            line[start : end + 1] = ["─"] * (end - start + 1)
            line[start], line[end] = "├", "┤"
        if mark.value is not None:
            line[column(mark.value)] = "●"
        lines.append(f"{mark.name:<{longest}}  {''.join(line)}  {mark.text} {mark.word}".rstrip())
    return "\n".join(lines)
