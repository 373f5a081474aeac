"""The result of a run on a terminal: the verdict table, the contrasts in sentences, claim and notes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.report import VerdictRow
from toolkit.report import verdict_table as rows_of
from toolkit.report.figures import NOTHING, amount, counted, interval, p_value, seconds, size, unit
from toolkit.terminal import BOLD, CYAN, GREEN, RED, YELLOW, column_widths, painted, table

STYLES = {"BETTER": GREEN, "WORSE": RED, "EQUIVALENT": CYAN, "UNRESOLVED": YELLOW, "SMOKE": YELLOW, "refused": RED}
LONGEST_TEXT = 100
"""Sentences are not set wider than this: longer lines are hard to read."""


@dataclass(frozen=True)
class Column:
    """A column of the verdict table; the highest `dropped` goes first where the table is too wide, 0 stays."""

    title: str
    dropped: int = 0
    right: bool = False


COLUMNS = (
    Column("strategy"),
    Column("score [95 % CI]"),
    Column("vs baseline [95 % CI]", 1),
    Column("p (Holm)", 2, right=True),
    Column("verdict"),
    Column("tokens/query", 3, right=True),
    Column("time/query", 4, right=True),
    Column("fit", 5, right=True),
    Column("adapter/index", 6, right=True),
)
_STRATEGY, _VERDICT = 0, 4


def result_lines(
    comparison: Mapping[str, Any], ledger: Mapping[str, Any], width: int, colour: bool = False
) -> Iterator[str]:
    """Everything a run says at its end, in lines of at most `width` columns.

    Args:
        comparison, ledger: as in `comparison.json` and `ledger.json`.
    """
    yield f"{comparison['task']}: {unit(comparison['metric'])}, {counted(comparison['n'], 'test example')}"
    yield ""
    yield from verdict_table(comparison, ledger, width, colour)
    yield ""
    for contrast in comparison["contrasts"]:
        yield from _wrapped(_sentence(contrast), width, "- ")
    if comparison["contrasts"]:
        yield ""
    yield from _wrapped(f"claim: {comparison['claim']}", width)
    for note in comparison["notes"]:
        yield from _wrapped(f"note: {note}", width)


def verdict_table(
    comparison: Mapping[str, Any], ledger: Mapping[str, Any], width: int, colour: bool = False
) -> list[str]:
    """The table, without its least important columns where the terminal is narrow."""
    rows = [[column.title for column in COLUMNS], *(_cells(row) for row in rows_of(comparison, ledger))]
    kept = _fitting(rows, width)
    narrow = [[row[place] for place in kept] for row in rows]
    _shorten(narrow, width)
    lines = table(narrow, right=[at for at, place in enumerate(kept) if COLUMNS[place].right])
    if not colour:
        return lines
    words = [row[_VERDICT] for row in rows[1:]]
    return [painted(lines[0], BOLD), *(_with_colour(line, word) for line, word in zip(lines[1:], words, strict=True))]


def _cells(row: VerdictRow) -> list[str]:
    tokens = None if row.prompt_tokens is None else row.prompt_tokens + (row.completion_tokens or 0.0)
    sizes = (size(row.adapter_bytes), size(row.index_bytes))
    against = NOTHING
    if row.difference is not None:
        spread = interval(row.difference_interval, row.metric)
        against = f"{amount(row.difference, row.metric, signed=True)} {spread}"
    cells = [
        row.strategy,
        f"{amount(row.score, row.metric)} {interval(row.interval, row.metric)}",
        against,
        p_value(row.p_holm),
        row.word,
        NOTHING if tokens is None else f"{tokens:,.0f}",
        seconds(row.query_seconds),
        seconds(row.fit_seconds) if row.fit_seconds else NOTHING,
        " / ".join(sizes) if row.adapter_bytes is not None or row.index_bytes is not None else NOTHING,
    ]
    return [cell.replace("\u00a0", " ") for cell in cells]  # a page must not break these; a table here never does


def _fitting(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Places of the columns that a terminal has room for."""
    kept = list(range(len(COLUMNS)))
    widths = column_widths(rows)
    while sum(widths[place] for place in kept) + 2 * (len(kept) - 1) > width:
        last = max(kept, key=lambda place: COLUMNS[place].dropped)
        if not COLUMNS[last].dropped:
            break
        kept.remove(last)
    return kept


def _shorten(rows: list[list[str]], width: int) -> None:
    """Cuts strategies' names where even the smallest table is too wide."""
    widths = column_widths(rows)
    excess = sum(widths) + 2 * (len(widths) - 1) - width
    room = max(8, widths[_STRATEGY] - max(0, excess))
    for row in rows:
        if len(row[_STRATEGY]) > room:
            row[_STRATEGY] = f"{row[_STRATEGY][: room - 1]}…"


def _with_colour(line: str, word: str) -> str:
    """The line with its verdict painted; a strategy may be called like one, so the last such word is meant."""
    before, found, after = line.rpartition(word)
    return f"{before}{painted(found, STYLES[word])}{after}" if word in STYLES else line


def _sentence(contrast: Mapping[str, Any]) -> str:
    said = [str(contrast["sentence"])]
    if contrast.get("varies"):
        said.append(f"A comparison of systems, not of adaptations: {', '.join(contrast['varies'])} differs too.")
    if contrast.get("flips_when"):
        said.append(f"What would change it: {contrast['flips_when']}")
    return " ".join(said)


def _wrapped(text: str, width: int, mark: str = "") -> list[str]:
    return textwrap.wrap(
        text, min(width, LONGEST_TEXT), initial_indent=mark, subsequent_indent="  ", break_on_hyphens=False
    )
