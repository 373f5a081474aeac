"""What the output goes to: how wide it is, whether it can be coloured or drawn again. Also tables and amounts."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

PIPE_WIDTH = 120
"""Columns where the output is no terminal and COLUMNS is not set."""

BOLD, RED, GREEN, YELLOW, CYAN, GREEN_UNDERLINED = "1", "31", "32", "33", "36", "4;32"


def width() -> int:
    """Columns of the terminal."""
    return shutil.get_terminal_size((PIPE_WIDTH, 24)).columns


def colours() -> bool:
    """Whether to colour the output: on a terminal that can, unless NO_COLOR is set (https://no-color.org)."""
    return is_live(sys.stdout) and not os.environ.get("NO_COLOR")


def is_live(stream: TextIO) -> bool:
    """Whether a stream is a terminal in which lines can be drawn again."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def painted(text: str, style: str) -> str:
    """The text in an ANSI style such as `1` (bold) or `4;32` (underlined green)."""
    return f"\x1b[{style}m{text}\x1b[0m"


def column_widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Rows as lines, columns two spaces apart; those at the places `right` are aligned to the right."""
    widths = column_widths(rows)
    lines = []
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        aligned = [text.rjust(wide) if place in right else text.ljust(wide) for place, (text, wide) in cells]
        lines.append("  ".join(aligned).rstrip())
    return lines


def counted(number: int, noun: str) -> str:
    """`no errors`, `1 error`, `2 errors`."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """`3.2 s`, `42 s`, `2 min 05 s`, `1 h 02 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def gigabytes(amount_bytes: float) -> str:
    """`1.4 GB` (powers of 1000)."""
    return f"{amount_bytes / 1e9:.1f} GB"


def large(number: int) -> str:
    """`812`, `36,864`, `4.9 M`, `139 M`, `1.2 B`: three digits at most from a million on."""
    for unit, scale in (("B", 10**9), ("M", 10**6)):
        if number >= 0.9995 * scale:
            shown = number / scale
            return f"{shown:.0f} {unit}" if shown >= 99.5 else f"{shown:.1f} {unit}"
    return f"{number:,}"


def percent(share: float) -> str:
    """`9 %`, and `0.4 %` where that would be none."""
    return f"{100 * share:.1f} %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
