"""Paired randomisation test for metrics that are not means: whose output is whose is exchangeable under the null."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from toolkit.statistics.arrays import Clusters, Vector, canonical_order, check_draws, cluster_codes, cluster_totals
from toolkit.statistics.bootstrap import CHUNK_CELLS, Statistic, difference_of, evaluate, paired_tables
from toolkit.statistics.sign_flip import chunk_rows


def paired_randomisation(
    statistics_a: ArrayLike,
    statistics_b: ArrayLike,
    statistic: Statistic,
    clusters: Clusters | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided p-value of statistic(a) - statistic(b), swapping the two systems' outputs cluster by cluster.

    Additive per-example statistics [n, k] each; `statistic` maps sums [*, k] -> [*]. All 2^M patterns of the M clusters
    on which the systems differ are enumerated when that takes no more than `draws`; else `draws` seeded patterns and
    p = (k + 1) / (draws + 1). Swapping a and b, the order of examples and the names of clusters change nothing.
    Source: Noreen 1989, "Computer-intensive methods for testing hypotheses"; Yeh 2000; Phipson & Smyth 2010.
    Raises ValueError for empty, non-finite or unequally shaped tables, wrong cluster labels, draws < 1, or a statistic
    that gives another shape or a non-finite value.
    """
    check_draws(draws, 1)
    both = paired_tables(statistics_a, statistics_b)
    difference = difference_of(statistic)
    observed = float(evaluate(difference, both.sum(axis=0)[None])[0])
    if observed < 0:
        both = np.hstack(np.split(both, 2, axis=1)[::-1])
    totals = cluster_totals(both, cluster_codes(clusters, len(both)))
    first, second = np.split(totals[canonical_order(totals)], 2, axis=1)
    moved = (second - first)[(first != second).any(axis=1)]
    swapped = len(moved)
    if swapped == 0:
        return 1.0
    exact = 2**swapped <= draws
    total = 2**swapped if exact else draws
    columns = max(swapped, both.shape[1])
    extreme = 0
    for flags in _enumerated(swapped, columns) if exact else _drawn(draws, swapped, columns, seed):
        shift = flags @ moved
        found = evaluate(difference, np.hstack((first.sum(axis=0) + shift, second.sum(axis=0) - shift)))
        # Sums that are equal on paper differ in their last bits; a difference this small is a tie.
        extreme += int(np.count_nonzero(np.abs(found) >= abs(observed) - 1e-10 * max(1.0, abs(observed))))
    return extreme / total if exact else (extreme + 1) / (total + 1)


def _enumerated(swapped: int, columns: int) -> Iterator[Vector]:
    """All 2^M patterns of 0 (keep) and 1 (swap), in chunks [rows, M]."""
    start = 0
    for rows in chunk_rows(2**swapped, columns, CHUNK_CELLS):
        yield ((np.arange(start, start + rows)[:, None] >> np.arange(swapped)) & 1).astype(np.float64)
        start += rows


def _drawn(draws: int, swapped: int, columns: int, seed: int) -> Iterator[Vector]:
    """Seeded random patterns of 0 (keep) and 1 (swap), in chunks [rows, M]."""
    generator = np.random.default_rng(seed)
    for rows in chunk_rows(draws, columns, CHUNK_CELLS):
        yield generator.integers(0, 2, (rows, swapped), dtype=np.int8).astype(np.float64)
