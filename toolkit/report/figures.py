"""Figures as text: points, intervals, p-values, seconds, sizes. None is always a dash."""

from __future__ import annotations

import math
from collections.abc import Sequence

from toolkit.evaluation import METRICS

NOTHING = "–"
MINUS = "−"

Bounds = tuple[float | None, float | None]


def in_points(metric: str) -> bool:
    """Whether a metric is a share and shown as points (x 100); tokens and the like are shown as they are."""
    known = METRICS.get(metric)
    return known is None or all(map(math.isfinite, known.bounds))


def plain(metric: str) -> str:
    """`token_f1` as `token F1`."""
    return " ".join("F1" if word == "f1" else word for word in metric.split("_"))


def unit(metric: str) -> str:
    """`points of token F1`, or only the name of a metric that is no share."""
    return f"points of {plain(metric)}" if in_points(metric) else plain(metric)


def amount(value: float | None, metric: str, signed: bool = False) -> str:
    """A score or difference with one decimal."""
    if value is None:
        return NOTHING
    return decimal(100 * value if in_points(metric) else value, signed)


def at_least(value: float | None, metric: str) -> str:
    """What a test set resolves: None where it is no difference at all."""
    return "no difference" if value is None else f"{amount(value, metric)} or more"


def decimal(value: float, signed: bool = False) -> str:
    """One decimal with a real minus sign; what rounds to zero has no sign."""
    shown = f"{abs(value):,.1f}"
    if float(shown.replace(",", "")) == 0.0:
        return shown
    return (MINUS if value < 0 else "+" if signed else "") + shown


def interval(bounds: Bounds, metric: str) -> str:
    """`[18.0, 30.2]`, never broken over two lines; a dash where nothing can be said."""
    low, high = bounds
    if low is None or high is None:
        return NOTHING
    return f"[{amount(low, metric)},\N{NO-BREAK SPACE}{amount(high, metric)}]"


def p_value(value: float | None) -> str:
    """Three decimals without the leading zero."""
    if value is None:
        return NOTHING
    if value < 0.001:
        return "<.001"
    return f"{value:.3f}".removeprefix("0") if value < 0.9995 else "1.000"


def seconds(value: float | None) -> str:
    """In the unit a reader would use."""
    if value is None:
        return NOTHING
    if value < 0.0005:
        return "0 s" if value == 0 else "<1 ms"
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def size(value: float | None) -> str:
    """Bytes as kB, MB or GB (powers of 1000)."""
    if value is None:
        return NOTHING
    for name, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            shown = value / scale
            return f"{shown:.0f} {name}" if shown >= 100 else f"{shown:.1f} {name}"
    return f"{value:.0f} B"


def count(value: float | None) -> str:
    """A whole number with thousands separators."""
    return NOTHING if value is None else f"{round(value):,}"


def mean(value: float | None) -> str:
    """Of a count: one decimal, none for zero."""
    return NOTHING if value is None else f"{value:,.1f}" if value else "0"


def percent(value: float | None) -> str:
    """A share in percent, with a decimal where it is small."""
    if value is None:
        return NOTHING
    return f"{100 * value:.1f} %" if 0 < value < 0.1 else f"{100 * value:.0f} %"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 example`, `2 examples`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def large(value: float | None) -> str:
    """A number in three digits or so: `36,864`, `4.9 M`, `139 M`, `1.2 B`."""
    for name, scale in (("B", 1e9), ("M", 1e6)):
        if value is not None and value >= 0.9995 * scale:
            shown = value / scale
            return f"{shown:.0f} {name}" if shown >= 99.5 else f"{shown:.1f} {name}"
    return count(value)


def loss(value: float) -> str:
    """Two decimals, or two digits where it is small."""
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"
