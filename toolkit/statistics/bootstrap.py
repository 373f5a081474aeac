"""Cluster bootstrap of metrics that are not means: macro-F1, corpus BLEU, calibration error, perplexity.

Such a metric is a function of sums of per-example statistics (confusion cells, n-gram counts, log-probabilities), so a
replicate is one row of resampling counts [B, G] times the cluster totals [G, k]: a matrix product, no loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from toolkit.statistics.arrays import (
    Clusters,
    Vector,
    canonical_order,
    check_draws,
    check_fraction,
    cluster_codes,
    cluster_totals,
    finite_table,
)
from toolkit.statistics.intervals import Interval
from toolkit.statistics.sign_flip import chunk_rows

# Sums of per-example statistics [*, k] -> metric [*], for many rows at once.
Statistic = Callable[[Vector], Vector]

FEWEST_DRAWS = 2_000
FEW_CLUSTERS = 20
CHUNK_CELLS = 2_000_000


@dataclass(frozen=True)
class BootstrapEstimate:
    """A metric, or a difference of one, over n examples in `clusters` clusters (= n when unclustered).

    standard_error is the standard deviation of the replicates, None for one cluster.
    """

    value: float
    interval: Interval
    n: int
    clusters: int
    draws: int
    standard_error: float | None

    @property
    def few_clusters(self) -> bool:
        """Fewer clusters than a bootstrap needs: the report says so."""
        return self.clusters < FEW_CLUSTERS


def cluster_bootstrap(
    statistics: ArrayLike,
    statistic: Statistic,
    clusters: Clusters | None = None,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> BootstrapEstimate:
    """Metric of one system from additive per-example statistics [n, k], with a BCa interval.

    `statistic` maps sums of rows [*, k] to the metric [*], vectorised. G clusters (labels [n]) are drawn with
    replacement. BCa: bias from the share of replicates below the value (ties half), acceleration from the
    delete-one-cluster jackknife; percentile where that is degenerate; (-inf, inf) where nothing varies, because a
    metric of no observed variation is not known exactly. `interval.method` says which.
    Source: Efron 1987, "Better bootstrap confidence intervals"; Davison & Hinkley 1997, section 3.8 (clusters).
    Raises ValueError for empty or non-finite statistics, wrong cluster labels, draws < 2,000, or a statistic that gives
    another shape or a non-finite value on a draw (a 0/0 that the metric must define).
    """
    table = finite_table(statistics, "statistics")
    totals = cluster_totals(table, cluster_codes(clusters, len(table)))
    return _bootstrap(totals, statistic, len(table), level, draws, seed)


def paired_cluster_bootstrap(
    statistics_a: ArrayLike,
    statistics_b: ArrayLike,
    statistic: Statistic,
    clusters: Clusters | None = None,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> BootstrapEstimate:
    """statistic(a) - statistic(b) of two systems on the same examples, both recomputed on every draw of clusters.

    Shapes, method and errors as `cluster_bootstrap`; also ValueError when the tables differ in shape. Swapping a and b
    negates the value and mirrors the interval.
    """
    both = paired_tables(statistics_a, statistics_b)
    codes = cluster_codes(clusters, len(both))
    difference = difference_of(statistic)
    negative = float(evaluate(difference, both.sum(axis=0)[None])[0]) < 0
    if negative:  # draws follow the content of the table, so both directions must see the same one
        both = np.hstack(np.split(both, 2, axis=1)[::-1])
    found = _bootstrap(cluster_totals(both, codes), difference, len(both), level, draws, seed)
    if not negative:
        return found
    interval = Interval(-found.interval.high, -found.interval.low, level, found.interval.method)
    return BootstrapEstimate(-found.value, interval, found.n, found.clusters, draws, found.standard_error)


def paired_tables(statistics_a: ArrayLike, statistics_b: ArrayLike) -> Vector:
    """Both systems' statistics side by side [n, 2k]. Raises ValueError when their shapes differ."""
    table_a, table_b = finite_table(statistics_a, "statistics_a"), finite_table(statistics_b, "statistics_b")
    if table_a.shape != table_b.shape:
        raise ValueError(f"statistics_a and statistics_b: shapes {table_a.shape} and {table_b.shape} differ")
    return np.hstack((table_a, table_b))


def difference_of(statistic: Statistic) -> Statistic:
    """The statistic of the first half of the columns minus that of the second half: [*, 2k] -> [*]."""

    def difference(sums: Vector) -> Vector:
        first, second = np.split(sums, 2, axis=1)
        return evaluate(statistic, first) - evaluate(statistic, second)

    return difference


def evaluate(statistic: Statistic, sums: Vector) -> Vector:
    """statistic(sums [m, k]) -> [m]. Raises ValueError for another shape or a value that is not finite."""
    values = np.asarray(statistic(sums), dtype=np.float64)
    if values.shape != (len(sums),):
        raise ValueError(f"statistic: expected shape ({len(sums)},) for sums {sums.shape}, found {values.shape}")
    bad = np.count_nonzero(~np.isfinite(values))
    if bad:
        raise ValueError(f"statistic: not finite on {bad} of {len(values)} samples; define what 0/0 means")
    return values


def _bootstrap(totals: Vector, statistic: Statistic, n: int, level: float, draws: int, seed: int) -> BootstrapEstimate:
    check_fraction(level, "level")
    check_draws(draws, FEWEST_DRAWS)
    totals = totals[canonical_order(totals)]
    value = float(evaluate(statistic, totals.sum(axis=0)[None])[0])
    groups = len(totals)
    if groups == 1:
        interval = Interval(-math.inf, math.inf, level, f"none: one {'example' if n == 1 else 'cluster'}")
        return BootstrapEstimate(value, interval, n, 1, draws, None)
    replicates = _replicates(totals, statistic, draws, seed)
    if np.ptp(replicates) <= 1e-12 * max(1.0, abs(value)):
        interval = Interval(-math.inf, math.inf, level, "none: no variation between draws")
        return BootstrapEstimate(value, interval, n, groups, draws, 0.0)
    tails = np.array([0.5 - level / 2, 0.5 + level / 2])
    corrected = _corrected_tails(value, replicates, totals, statistic, tails)
    method = "percentile bootstrap: BCa degenerate" if corrected is None else "BCa bootstrap"
    low, high = np.quantile(replicates, tails if corrected is None else corrected)
    interval = Interval(float(low), float(high), level, method)
    return BootstrapEstimate(value, interval, n, groups, draws, float(replicates.std(ddof=1)))


def _replicates(totals: Vector, statistic: Statistic, draws: int, seed: int) -> Vector:
    """The statistic on `draws` samples of G clusters with replacement, [draws]."""
    generator = np.random.default_rng(seed)
    groups, columns = totals.shape
    parts = []
    for rows in chunk_rows(draws, max(groups, columns), CHUNK_CELLS):
        drawn = generator.integers(0, groups, size=(rows, groups)) + np.arange(rows)[:, None] * groups
        counts = np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups)
        parts.append(evaluate(statistic, counts.astype(np.float64) @ totals))
    return np.concatenate(parts)


def _corrected_tails(
    value: float, replicates: Vector, totals: Vector, statistic: Statistic, tails: Vector
) -> Vector | None:
    """Tail probabilities [2] moved for bias and acceleration; None where these cannot be estimated."""
    from scipy.special import ndtr, ndtri

    tie = 1e-12 * max(1.0, abs(value))
    below = np.count_nonzero(replicates < value - tie)
    equal = np.count_nonzero(replicates <= value + tie) - below
    share = (below + equal / 2) / len(replicates)
    with np.errstate(all="ignore"):
        left_out = np.asarray(statistic(totals.sum(axis=0) - totals), dtype=np.float64)
    if not 0 < share < 1 or not np.isfinite(left_out).all():
        return None
    pull = left_out.mean() - left_out
    squares = float((pull**2).sum())
    if squares <= tie**2 * len(pull):
        return None
    acceleration = float((pull**3).sum()) / (6 * squares**1.5)
    bias = float(ndtri(share))
    moved = bias + ndtri(tails)
    if (1 - acceleration * moved <= 0).any():
        return None
    corrected: Vector = ndtr(bias + moved / (1 - acceleration * moved))
    return corrected
