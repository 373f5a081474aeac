"""Batches by token budget: rows of like length together, so little is padding."""

from __future__ import annotations

from collections.abc import Sequence

KEPT_TOKENS = 8
"""So many times the budget may stand in the key-value cache, for a shared prefix is copied for every row."""


def by_budget(lengths: Sequence[int], budget_tokens: int, prefix_tokens: int = 0) -> list[list[int]]:
    """Row numbers in batches, longest rows first (one row always may be a batch).

    Rows x longest row stays within the budget, and with the prefix each row keeps, within `KEPT_TOKENS` times it. The
    order depends on lengths and positions only, so the same rows always meet in the same batch.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        rows = len(batches[-1]) + 1 if batches else 0
        longest = lengths[batches[-1][0]] if batches else 0
        kept = rows * (longest + prefix_tokens)
        if rows and rows * longest <= budget_tokens and kept <= KEPT_TOKENS * budget_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
