"""Passes by token budget: rows of like length together."""

from __future__ import annotations

from collections.abc import Sequence


def by_budget(lengths: Sequence[int], budget_tokens: int) -> list[list[int]]:
    """Row numbers in passes, longest rows first; a pass's rows have at most `budget_tokens` tokens in all.

    One row always may be a pass. The order depends on lengths and positions only, so the same rows always meet in the
    same pass.
    """
    passes: list[list[int]] = []
    room = 0
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if passes and lengths[row] <= room:
            passes[-1].append(row)
            room -= lengths[row]
        else:
            passes.append([row])
            room = budget_tokens - lengths[row]
    return passes


def common_prefix(rows: Sequence[tuple[int, ...]]) -> int:
    """Tokens all rows share at their start, at least one token of every row left over."""
    first, last = min(rows), max(rows)
    limit = min(len(row) for row in rows) - 1
    for position in range(limit):
        if first[position] != last[position]:
            return position
    return max(0, limit)
