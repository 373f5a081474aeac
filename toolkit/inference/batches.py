"""Batches by token budget: rows of like length together, so little is padding."""

from __future__ import annotations

from collections.abc import Sequence


def by_budget(lengths: Sequence[int], budget_tokens: int) -> list[list[int]]:
    """Row numbers in batches, longest rows first; rows x longest row stays within the budget (one row always may).

    The order depends on lengths and positions only, so the same rows always meet in the same batch.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
