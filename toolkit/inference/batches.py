"""Passes by token budget: rows of like length together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

PREFIX_STEP = 16
"""A shared prefix is cut to a multiple of so many tokens: rows that happen to go on alike for a word or two do not
make another prefix, and the one of the last chunk serves again. A shorter one is not worth a pass of its own."""

GROUP_TOKENS = 512
"""A group of its own must spare so many at least: its rows are computed by themselves, so passes are smaller."""

MOST_BRANCHINGS = 64
"""Behind one another; rows that part later than that are one group."""


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


def by_prefix(rows: Sequence[tuple[int, ...]], more: int = 0) -> list[tuple[int, list[int]]]:
    """Rows in groups, as (tokens that all of a group begin with, row numbers), the one that spares most first.

    The groups for which fewest tokens are computed in all, counting each group as some more. Rows of no group come
    last, with 0. They depend on the rows alone, so the same rows always share the same.

    Args:
        more: tokens that a group must spare beyond `GROUP_TOKENS`.
    """
    _, found = _grouped(rows, list(range(len(rows))), GROUP_TOKENS + more, MOST_BRANCHINGS)
    alone = [row for size, group in found if not size for row in group]
    groups = [(size, group) for size, group in found if size]
    groups.sort(key=lambda one: (-one[0] * (len(one[1]) - 1), one[1][0]))
    return [*groups, (0, sorted(alone))] if alone else groups


def _grouped(
    rows: Sequence[tuple[int, ...]], places: list[int], of_a_group: int, deeper: int
) -> tuple[int, list[tuple[int, list[int]]]]:
    """What these rows cost, and in which groups: all of them in one, or what begins alike behind that by itself."""
    size = common_prefix([rows[place] for place in places]) // PREFIX_STEP * PREFIX_STEP if len(places) > 1 else 0
    cost = of_a_group + size + sum(len(rows[place]) - size for place in places)
    branches: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place in places:
        branches[rows[place][size : size + PREFIX_STEP]].append(place)
    if len(branches) > 1 and deeper:
        parts = [_grouped(rows, branch, of_a_group, deeper - 1) for branch in branches.values()]
        if sum(part for part, _ in parts) < cost:
            return sum(part for part, _ in parts), [group for _, groups in parts for group in groups]
    return cost, [(size, places)]
